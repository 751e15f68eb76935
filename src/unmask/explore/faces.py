"""Faces of the data: samples, statistics by video, landmarks and extreme cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from unmask.explore.distributions import describe, draw_distributions
from unmask.faces.shards import ShardReader
from unmask.files import atomic_path
from unmask.report.examples import spread
from unmask.report.style import draw_pictures, save
from unmask.tables import FACES, VIDEOS, read_table, read_tables
from unmask.vocabulary import Label, Status

_COLUMNS_OF_VIDEO = {
    "faces": "tracks",
    "share_with_face": "share of frames with a face",
    "detections": "detections",
    "score": "mean detection score",
    "width": "mean face width [px]",
    "height": "mean face height [px]",
    "sharpness": "mean sharpness",
    "crops": "crops",
}
_VIDEO = ["part", "video"]
_SAMPLES_PER_LABEL, _LANDMARK_SAMPLES, _ODD_PER_KIND = 6, 9, 3
# Which of the 68 points (Sagonas et al., iBUG 300-W) are joined by a line.
_LINES = [
    *(range(17), range(17, 22), range(22, 27), range(27, 31), range(31, 36)),
    *([*range(36, 42), 36], [*range(42, 48), 42], [*range(48, 60), 48], [*range(60, 68), 60]),
]


def explore_faces(ledger: Path, shards: Path, indices: list[Path], output: Path) -> None:
    """Draw and tabulate the faces: samples, statistics, landmarks and odd cases.

    Args:
        ledger: `results/videos.parquet`.
        shards: folder of face shards.
        indices: face indices of all shards.
        output: folder of the figures and tables.
    """
    videos = read_table(ledger, VIDEOS)
    usable = videos[(videos["status"] == Status.OK) & videos["label"].isin(list(Label))]
    known = usable[[*_VIDEO, "label", "family"]]
    # Landmarks are most of the index; only those that are drawn are read.
    columns = [name for name in FACES.columns if not name.startswith("landmarks")]
    faces = read_tables(indices, FACES, columns).merge(known, on=_VIDEO)

    by_video = summarise_faces(usable, faces)
    figure = draw_distributions(by_video, _COLUMNS_OF_VIDEO, "Faces of a video, by label")
    save(figure, output / "face_statistics.svg")

    middle = _middle_faces(faces)
    # Each family once, where there are enough families.
    one_per_family = middle.drop_duplicates(["label", "family"])
    of_label = [one_per_family[one_per_family["label"] == label] for label in Label]
    sample = pd.concat([spread(rows, _SAMPLES_PER_LABEL) for rows in of_label])
    figure = draw_faces("Faces as the model sees them", sample, _captions(sample), shards)
    save(figure, output / "faces.png")

    chosen = spread(middle.drop_duplicates("family"), _LANDMARK_SAMPLES)
    marked = read_tables(indices, FACES, matching=chosen[list(FACES.key)]).merge(known, on=_VIDEO)
    figure = draw_faces("Landmarks", marked, _captions(marked), shards, landmarks=True)
    save(figure, output / "landmarks.png")

    odd = find_odd_faces(faces)
    captions = [f"{why}\n{name}" for why, name in zip(odd["why"], _captions(odd, " "), strict=True)]
    save(draw_faces("Odd cases", odd, captions, shards), output / "odd_cases.png")

    tables = {
        "faces.csv": by_video,
        "face_statistics.csv": describe(by_video, list(_COLUMNS_OF_VIDEO)),
        "odd_cases.csv": odd[["why", *_VIDEO, "key"]],
    }
    for name, table in tables.items():
        with atomic_path(output / name) as temporary:
            table.to_csv(temporary, index=False)


def summarise_faces(videos: pd.DataFrame, faces: pd.DataFrame) -> pd.DataFrame:
    """Return one row per video: counts, and means over its faces in pixels of the video."""
    measured = faces.assign(
        width=faces["x1"] - faces["x0"],
        height=faces["y1"] - faces["y0"],
        # An interpolated box has no score of its own.
        score=faces["score"].where(faces["score"] > 0),
    )
    means = measured.groupby(_VIDEO)[["width", "height", "score", "sharpness"]].mean()
    counts = ["frames", "frames_with_face", "tracks", "crops", "detections", "reused"]
    table = videos[[*_VIDEO, "label", *counts]].rename(columns={"tracks": "faces"})
    table = table.assign(share_with_face=table["frames_with_face"] / table["frames"])
    return table.merge(means.reset_index(), how="left", on=_VIDEO)


def find_odd_faces(faces: pd.DataFrame) -> pd.DataFrame:
    """Return the faces at the extremes of what is measured, with a column `why`.

    A kind of extreme shows each family once, or each track of the videos with most tracks.
    """
    measured = faces.assign(
        width=faces["x1"] - faces["x0"],
        tracks=faces.groupby(_VIDEO)["track"].transform("nunique"),
        number=faces["track"] + 1,
        score=faces["score"].where(faces["score"] > 0),
    )
    several = measured[measured["tracks"] > 1].sort_values([*_VIDEO, "track"])
    kinds = [
        (measured, "score", True, "lowest score: {score:.2f}", ["family"]),
        (measured, "sharpness", True, "least sharp: {sharpness:.0f}", ["family"]),
        (measured, "width", True, "smallest: {width:.0f} px", ["family"]),
        (measured, "width", False, "largest: {width:.0f} px", ["family"]),
        (several, "tracks", False, "track {number} of {tracks}", [*_VIDEO, "track"]),
    ]
    odd = []
    for rows, column, ascending, text, once in kinds:
        ordered = rows.dropna(subset=[column]).sort_values(
            column, ascending=ascending, kind="stable"
        )
        few = ordered.drop_duplicates(once).head(_ODD_PER_KIND)
        odd.append(few.assign(why=[text.format_map(row) for row in few.to_dict("records")]))
    return pd.concat(odd)


def _middle_faces(faces: pd.DataFrame) -> pd.DataFrame:
    """Return the crop in the middle of each video's first track."""
    first = faces[faces["track"] == 0].sort_values([*_VIDEO, "frame"])
    position = first.groupby(_VIDEO).cumcount()
    length = first.groupby(_VIDEO)["frame"].transform("size")
    return first[position == length // 2]


def _captions(faces: pd.DataFrame, separator: str = "\n") -> list[str]:
    return [f"{row.label}{separator}{row.video}" for row in faces.itertuples()]


def draw_faces(
    title: str, faces: pd.DataFrame, captions: Sequence[str], shards: Path, landmarks: bool = False
) -> Figure:
    """Show crops of the face index, three in a row, each under its caption.

    `landmarks` draws 68 points if the index has them, else five.
    """
    title, reader = title if len(faces) else f"{title}: no face", ShardReader(shards)
    rows = faces.to_dict("records")
    figure, panels = draw_pictures(title, list(map(reader.read_crop, rows)), captions, across=3)
    # The last row may have more panels than faces are left.
    for axes, face in zip(panels, rows if landmarks else [], strict=False):
        _draw_landmarks(axes, face)
    return figure


def _draw_landmarks(axes: Axes, face: Mapping[Any, Any]) -> None:
    dense = _points(face["landmarks_68"])
    for line in _LINES if len(dense) else []:
        axes.plot(*dense[list(line)].T, color="white", lw=1.6)
        axes.plot(*dense[list(line)].T, color="#009E73", lw=0.9)
    x, y = (dense if len(dense) else _points(face["landmarks"])).T
    size = 6 if len(dense) else 34
    axes.scatter(x, y, s=size, color="#F0E442", edgecolors="black", linewidths=0.6, zorder=3)


def _points(values: Any) -> NDArray[np.float64]:
    """Return landmarks of the index as (n, 2), empty if they are missing."""
    points = np.array([] if values is None else values, np.float64).reshape(-1, 2)
    return points if np.isfinite(points).all() else points[:0]
