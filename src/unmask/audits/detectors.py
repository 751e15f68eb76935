"""Detectors compared on frames of the data: hit rates, agreement and CPU time."""

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
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from unmask.config import AuditsConfig, FacesConfig
from unmask.errors import UnmaskError
from unmask.faces.boxes import iou
from unmask.faces.detectors import DETECTORS, SAME_FACE_IOU, Detections, Detector, create_detector
from unmask.faces.search import detect_faces
from unmask.files import atomic_path
from unmask.progress import track
from unmask.report.examples import spread
from unmask.report.style import WIDTH, draw_bars, draw_pictures, save
from unmask.tables import VIDEOS, read_table
from unmask.videos.color import picture_bgr
from unmask.videos.frames import Frame
from unmask.videos.sampling import sample_frames
from unmask.videos.source import VideoFile, part_name
from unmask.vocabulary import Status

logger = logging.getLogger(__name__)

# Frames of one video are similar, so more videos tell more than more frames of each.
_FRAMES_PER_VIDEO = 4
_SHOWN = 8
_SHOWN_WIDTH = 480


@dataclass
class DetectorResult:
    """What one detector found: faces and CPU seconds of each frame."""

    faces: list[Detections]
    seconds: list[float]


def compare_detectors(
    ledger: Path, parts: Sequence[Path], audits: AuditsConfig, faces: FacesConfig, output: Path
) -> None:
    """Write `comparison.csv`, `comparison.svg` and `boxes.png` into `output`.

    A detector that is not installed gets a row with a note instead of an error.

    Args:
        ledger: `results/videos.parquet`.
        parts: folders or archives of the parts that frames are taken from.
        audits: which detectors, on how many frames.
        faces: sizes and limits of detections, as in cropping.
        output: the folder.
    """
    cv2.setNumThreads(1)
    detectors, notes = _create_detectors(audits.detectors, faces)
    results = {name: DetectorResult([], []) for name in detectors}
    examples: list[tuple[str, Frame, dict[str, Detections]]] = []
    sampled = _sample_frames(read_table(ledger, VIDEOS), parts, audits.detector_frames)
    step = max(1, audits.detector_frames // _SHOWN)
    for number, (title, frame) in enumerate(track(sampled, "frames", audits.detector_frames)):
        for name, detector in detectors.items():
            if number == 0:  # the first call also allocates memory
                detect_faces(frame, detector, faces)
            started = time.process_time()
            results[name].faces.append(detect_faces(frame, detector, faces))
            results[name].seconds.append(time.process_time() - started)
        if number % step == 0 and len(examples) < _SHOWN:
            found = {name: one.faces[-1] for name, one in results.items()}
            examples.append((title, frame, found))
    table = summarise(results, notes)
    output.mkdir(parents=True, exist_ok=True)
    with atomic_path(output / "comparison.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4g")
    save(draw_comparison(table), output / "comparison.svg")
    save(_draw_examples(examples, list(results)), output / "boxes.png")
    logger.info("\n%s", table.to_string(index=False))


def _create_detectors(
    names: Sequence[str], faces: FacesConfig
) -> tuple[dict[str, Detector], dict[str, str]]:
    """Return the installed detectors, and a note for each name: why it is left out, or nothing."""
    detectors: dict[str, Detector] = {}
    notes: dict[str, str] = {}
    for name in names:
        weights = faces.weights if name == faces.detector else None
        alone: dict[str, object] = {"detector": name, "weights": weights, "voters": (), "votes": 1}
        try:
            detectors[name] = create_detector(faces.model_copy(update=alone))
            notes[name] = ""
        except UnmaskError as error:
            logger.warning("%s", error)
            notes[name] = f"not compared: {error}"
    return detectors, notes


def _sample_frames(
    videos: pd.DataFrame, parts: Sequence[Path], count: int
) -> Iterator[tuple[str, Frame]]:
    """Yield titles and frames of videos spread evenly over the ledger."""
    folders = {part_name(part): part for part in parts}
    # Videos without a face matter most: another detector might have found one.
    decoded = videos["status"].isin([Status.OK, Status.NO_FACE])
    decodable = videos[decoded & videos["part"].isin(list(folders))]
    chosen = spread(decodable, -(-count // _FRAMES_PER_VIDEO))
    per_video = min(1000, -(-count // max(1, len(chosen))))
    yielded = 0
    for part, video in zip(chosen["part"], chosen["video"], strict=True):
        try:
            with VideoFile(folders[part], video).opened() as source:
                for frame in sample_frames(source, per_video):
                    if yielded < count:
                        yield f"{video} at {frame.time:.1f} s", frame
                        yielded += 1
        except (av.FFmpegError, UnmaskError) as error:
            logger.warning("%s: %s", video, error)


def summarise(results: Mapping[str, DetectorResult], notes: Mapping[str, str]) -> pd.DataFrame:
    """Return one row per detector, installed or not.

    Returns:
        Columns `detector`, `frames`, `hit_rate` (share of frames with a face), `faces_per_frame`,
        `ms_per_frame` (CPU time, median), `found_by_NAME` (share of this detector's faces that
        NAME finds with an IoU of at least 0.4) and `note`.
    """
    rows = {}
    for name, result in results.items():
        counts = pd.Series([len(faces) for faces in result.faces], dtype=float)
        rows[name] = {
            "frames": len(counts),
            "hit_rate": (counts > 0).mean(),
            "faces_per_frame": counts.mean(),
            "ms_per_frame": 1000 * pd.Series(result.seconds, dtype=float).median(),
        } | {
            f"found_by_{other}": _share_found(result.faces, theirs.faces)
            for other, theirs in results.items()
        }
    columns = ["frames", "hit_rate", "faces_per_frame", "ms_per_frame"]
    columns += [f"found_by_{name}" for name in results]
    table = pd.DataFrame.from_dict(rows, "index", columns=columns)
    return (
        table.reindex(list(notes)).assign(note=list(notes.values())).reset_index(names="detector")
    )


def _share_found(ours: Sequence[Detections], theirs: Sequence[Detections]) -> float:
    hits = [
        (iou(a.boxes[:, None], b.boxes) >= SAME_FACE_IOU).any(axis=1)
        for a, b in zip(ours, theirs, strict=True)
        if len(a)
    ]
    return float(np.concatenate(hits).mean()) if hits else float("nan")


def draw_comparison(table: pd.DataFrame) -> Figure:
    """Draw hit rates, times and the agreement matrix of the installed detectors."""
    measured = table[table["frames"].notna()].set_index("detector")
    names = measured.index.to_list()
    figure = Figure(figsize=(WIDTH, 2.9 + 1.2 * len(names)))
    if not names:
        figure.suptitle("No detector of audits.detectors is installed")
        return figure
    hit_axes, time_axes, matrix_axes = figure.subplots(3, 1)
    colors = [DETECTORS[name].color for name in names]
    hits, times = measured["hit_rate"], measured["ms_per_frame"]
    draw_bars(hit_axes, hits, [f"{value:.2f}" for value in hits], colors)
    title = f"Hit rate in {int(measured['frames'].max())} frames"
    hit_axes.set(title=title, xlabel="share of frames with a face")
    draw_bars(time_axes, times, [f"{value:.0f}" for value in times], colors)
    time_axes.set(title="Median CPU time per frame", xlabel="ms")
    matrix = measured[[f"found_by_{name}" for name in names]].to_numpy(float)
    matrix_axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1.8, aspect="auto")
    for (row, column), share in np.ndenumerate(matrix):
        text = "–" if np.isnan(share) else f"{share:.2f}"
        matrix_axes.text(column, row, text, ha="center", va="center", fontsize=9)
    matrix_axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    matrix_axes.set_yticks(range(len(names)), names)
    matrix_axes.set_title("Share of the row's faces that the column's detector finds")
    return figure


def _draw_examples(
    examples: Sequence[tuple[str, Frame, dict[str, Detections]]], names: Sequence[str]
) -> Figure:
    """Draw frames with the boxes and scores of each detector."""
    pictures, scales = [], []
    for _, frame, _ in examples:
        scale = min(1.0, _SHOWN_WIDTH / max(frame.width, frame.height))
        size = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        pictures.append(cv2.cvtColor(picture_bgr(frame, *size), cv2.COLOR_BGR2RGB))
        scales.append(scale)
    titles = [title for title, _, _ in examples]
    figure, panels = draw_pictures("Detected faces", pictures, titles, across=2, cell=(3.6, 2.4))
    for axes, scale, (_, _, found) in zip(panels, scales, examples, strict=True):
        for line, (name, faces) in enumerate(found.items()):
            for (x0, y0, x1, y1), score in zip(
                faces.scaled(scale).boxes, faces.scores, strict=True
            ):
                color = DETECTORS[name].color
                axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=color, lw=1.6))
                axes.annotate(
                    f"{score:.2f}",
                    (x1, y0),
                    xytext=(3, -9 * line - 5),
                    textcoords="offset points",
                    fontsize=7,
                    color=color,
                    bbox={"facecolor": "black", "alpha": 0.75, "pad": 0.8, "linewidth": 0},
                )
    handles = [Patch(fill=False, ec=DETECTORS[name].color, lw=2) for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=max(1, len(names)))
    return figure
