"""Detectors compared on the data itself: what each finds, where they agree, and what they cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from unmask.config import AuditsConfig, FacesConfig, FramesConfig
from unmask.errors import UnmaskError
from unmask.faces.detectors import SAME_FACE_IOU, Detections, Detector, create_detector, iou
from unmask.faces.search import detect_faces
from unmask.files import atomic_path
from unmask.progress import track
from unmask.report.style import save
from unmask.tables import VIDEOS, read_table
from unmask.videos.color import picture_bgr
from unmask.videos.frames import Frame, sample_frames
from unmask.videos.source import VideoFile, part_name
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)

# Frames of one video resemble each other: more videos say more than more frames of each.
_FRAMES_PER_VIDEO = 4
_SHOWN = 8
_SHOWN_WIDTH = 480
# Okabe & Ito (2008), told apart with any colour vision.
_COLORS = {
    "yunet": "#E69F00",
    "centerface": "#56B4E9",
    "mtcnn": "#009E73",
    "haar": "#F0E442",
    "dlib_hog": "#CC79A7",
}


@dataclass
class Found:
    """What one detector found.

    Attributes:
        faces: what it found in each frame.
        seconds: CPU time of each frame.
    """

    faces: list[Detections]
    seconds: list[float]


@dataclass(frozen=True)
class _Shown:
    picture: NDArray[np.uint8]
    scale: float
    title: str


def compare_detectors(
    ledger: Path, parts: Sequence[Path], audits: AuditsConfig, faces: FacesConfig, output: Path
) -> None:
    """Write `comparison.csv`, `comparison.svg` and `boxes.png` into `output`.

    A detector that cannot be had gets a row with a note, not an error.

    Args:
        ledger: `results/videos.parquet`.
        parts: folders or archives of the parts that frames are taken from.
        audits: which detectors, on how many frames.
        faces: sizes and limits of detections, as cropping has them.
        output: the folder.
    """
    cv2.setNumThreads(1)
    detectors, notes = _create_detectors(audits.detectors, faces)
    found = {name: Found([], []) for name in detectors}
    shown: list[_Shown] = []
    sampled = _sample(read_table(ledger, VIDEOS), parts, audits.detector_frames)
    every = max(1, audits.detector_frames // _SHOWN)
    for number, (title, frame) in enumerate(track(sampled, "frames", audits.detector_frames)):
        for name, detector in detectors.items():
            if number == 0:  # the first call also allocates what a network needs
                detect_faces(frame, detector, faces)
            started = time.process_time()
            found[name].faces.append(detect_faces(frame, detector, faces))
            found[name].seconds.append(time.process_time() - started)
        if number % every == 0 and len(shown) < _SHOWN:
            shown.append(_to_show(frame, title, number))
    table = summarise(found, notes)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "comparison.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4g")
    save(draw_comparison(table), output / "comparison.svg")
    boxes = {name: one.faces[::every] for name, one in found.items()}
    save(_draw_boxes(shown, boxes), output / "boxes.png")
    logger.info("\n%s", table.to_string(index=False))


def _create_detectors(
    names: Sequence[str], faces: FacesConfig
) -> tuple[dict[str, Detector], dict[str, str]]:
    detectors: dict[str, Detector] = {}
    notes: dict[str, str] = {}
    for name in names:
        weights = faces.weights if name == faces.detector else None
        alone: dict[str, object] = {"detector": name, "weights": weights, "voters": [], "votes": 1}
        try:
            detectors[name] = create_detector(faces.model_copy(update=alone))
            notes[name] = ""
        except UnmaskError as error:
            logger.warning("%s", error)
            notes[name] = f"not compared: {error}"
    return detectors, notes


def _sample(
    videos: pd.DataFrame, parts: Sequence[Path], frames: int
) -> Iterator[tuple[str, Frame]]:
    """Yield frames of videos spread evenly over the ledger, and what they are called."""
    folders = {part_name(part): part for part in parts}
    # Videos without a face count most here: another detector might have found one.
    decoded = videos[
        videos["status"].isin([Status.OK, Status.NO_FACE]) & videos["part"].isin(list(folders))
    ]
    count = min(len(decoded), -(-frames // _FRAMES_PER_VIDEO))
    chosen = decoded.iloc[np.linspace(0, max(0, len(decoded) - 1), count).astype(int)]
    per_video = -(-frames // max(1, count))
    given = 0
    for part, video in zip(chosen["part"], chosen["video"], strict=True):
        try:
            with VideoFile(folders[part], video).opened() as source:
                for frame in sample_frames(source, FramesConfig(per_video=min(1000, per_video))):
                    if given < frames:
                        yield f"{video} at {frame.time:.1f} s", frame
                        given += 1
        except (av.FFmpegError, UnmaskError) as error:
            logger.warning("%s: %s", video, error)


def summarise(found: Mapping[str, Found], notes: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per detector.

    Args:
        found: what each detector found in the same frames.
        notes: of every detector, also of those that could not be had.

    Returns:
        Columns `detector`, `frames`, `hit_rate` (share of frames with a face), `faces_per_frame`,
        `ms_per_frame` (CPU time, median), `found_by_NAME` (share of this detector's faces that
        NAME finds at an IoU of 0.4) and `note`.
    """
    rows = []
    for name, note in notes.items():
        row: dict[str, object] = {"detector": name}
        if name in found:
            one = found[name]
            counts = np.array([len(faces) for faces in one.faces])
            row["frames"] = len(counts)
            row["hit_rate"] = float((counts > 0).mean()) if len(counts) else np.nan
            row["faces_per_frame"] = float(counts.mean()) if len(counts) else np.nan
            row["ms_per_frame"] = 1000 * float(np.median(one.seconds or [np.nan]))
            for other, theirs in found.items():
                row[f"found_by_{other}"] = _share_found(one.faces, theirs.faces)
        rows.append(row | {"note": note})
    columns = ["detector", "frames", "hit_rate", "faces_per_frame", "ms_per_frame"]
    columns += [*(f"found_by_{name}" for name in found), "note"]
    return pd.DataFrame(rows, columns=columns)


def _share_found(ours: Sequence[Detections], theirs: Sequence[Detections]) -> float:
    hits = [
        (iou(a.boxes, b.boxes) >= SAME_FACE_IOU).any(axis=1)
        for a, b in zip(ours, theirs, strict=True)
        if len(a)
    ]
    return float(np.concatenate(hits).mean()) if hits else float("nan")


def draw_comparison(table: pd.DataFrame) -> Figure:
    """Draw hit rates, times and the agreement matrix of the detectors that could be had."""
    had = table[table["frames"].notna()]
    names = had["detector"].to_list()
    figure = Figure(figsize=(6, 2.9 + 1.2 * len(names)))
    if not names:
        figure.suptitle("No detector of audits.detectors is installed")
        return figure
    panels: Sequence[Axes] = figure.subplots(3, 1)
    values = [("hit_rate", "share of frames with a face", "%.2f"), ("ms_per_frame", "ms", "%.0f")]
    for axes, (column, label, shape) in zip(panels, values, strict=False):
        colors = [_COLORS[name] for name in names]
        bars = axes.barh(names, had[column], color=colors, edgecolor="#444444", linewidth=0.6)
        axes.bar_label(bars, fmt=shape, padding=3)
        axes.set(xlabel=label)
        axes.margins(x=0.18)
        axes.invert_yaxis()
    panels[0].set_title(f"Hits in {int(had['frames'].max())} frames", loc="left")
    panels[1].set_title("CPU time a frame, median", loc="left")
    matrix = had[[f"found_by_{name}" for name in names]].to_numpy(float)
    panels[2].imshow(matrix, cmap="Blues", vmin=0, vmax=1.8, aspect="auto")
    for (row, column_index), share in np.ndenumerate(matrix):
        text = "–" if np.isnan(share) else f"{share:.2f}"
        panels[2].text(column_index, row, text, ha="center", va="center", fontsize=9)
    panels[2].set_xticks(range(len(names)), names, rotation=30, ha="right")
    panels[2].set_yticks(range(len(names)), names)
    panels[2].set_title("Faces of … found by …", loc="left")
    return figure


def _to_show(frame: Frame, title: str, number: int) -> _Shown:
    scale = min(1.0, _SHOWN_WIDTH / max(frame.width, frame.height))
    size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
    picture = cv2.cvtColor(picture_bgr(frame, *size), cv2.COLOR_BGR2RGB)
    return _Shown(np.asarray(picture, np.uint8), scale, title)


def _draw_boxes(shown: Sequence[_Shown], boxes: Mapping[str, Sequence[Detections]]) -> Figure:
    columns = 2
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(3.6 * columns, 2.4 * rows + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for position, (axes, one) in enumerate(zip(grid.flat, shown, strict=False)):
        axes.imshow(one.picture)
        axes.set_title(one.title, fontsize=8)
        _draw_faces(
            axes, {name: faces[position].scaled(one.scale) for name, faces in boxes.items()}
        )
    handles = [Rectangle((0, 0), 1, 1, fill=False, ec=_COLORS[name], lw=2) for name in boxes]
    figure.legend(handles, list(boxes), loc="outside upper center", ncols=max(1, len(boxes)))
    return figure


def _draw_faces(axes: Axes, found: Mapping[str, Detections]) -> None:
    """Draw all boxes, and beside those of one face a column with all scores."""
    groups: list[list[tuple[str, NDArray[np.float32], float]]] = []
    for name, faces in found.items():
        for box, score in zip(faces.boxes, faces.scores, strict=True):
            x0, y0, x1, y1 = (float(value) for value in box)
            color = _COLORS[name]
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=color, lw=1.6))
            same = (g for g in groups if iou(g[0][1][None], box[None])[0, 0] >= SAME_FACE_IOU)
            group = next(same, None)
            if group is None:
                groups.append(group := [])
            group.append((name, box, float(score)))
    for group in groups:
        corner = max(box[2] for _, box, _ in group), min(box[1] for _, box, _ in group)
        for line, (name, _, score) in enumerate(group):
            axes.annotate(
                f"{score:.2f}",
                (float(corner[0]), float(corner[1])),
                xytext=(3, -9 * line - 5),
                textcoords="offset points",
                fontsize=7,
                color=_COLORS[name],
                bbox={"facecolor": "black", "alpha": 0.75, "pad": 0.8, "linewidth": 0},
            )
