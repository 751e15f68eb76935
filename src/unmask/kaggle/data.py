"""What the training data of a bundle is like, so that other videos can be compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from unmask.inference.properties import RANGES, TrainingData, bits_per_pixel
from unmask.tables import FACES, VIDEOS, read_table, read_tables
from unmask.vocabulary import Label, Status

_VIDEO = ["part", "video"]
# Nine in ten videos are between them.
_PERCENTILES = (0.05, 0.95)


def describe_data(ledger: Path, indices: Sequence[Path]) -> TrainingData:
    """Describe the videos of a run that have faces.

    Args:
        ledger: the table `VIDEOS`.
        indices: face indices of its shards.
    """
    videos = read_table(ledger, VIDEOS)
    videos = videos[videos["status"] == Status.OK]
    columns = [*_VIDEO, "x0", "x1", "brightness"]
    faces = read_tables(indices, FACES, columns)
    of_videos = faces.assign(face_width=faces["x1"] - faces["x0"]).groupby(_VIDEO)
    measured = videos.assign(
        width=videos["video_width"],
        height=videos["video_height"],
        frame_rate=videos["video_fps"],
        bits_per_pixel=bits_per_pixel(
            *(videos[f"video_{name}"] for name in ("bit_rate", "width", "height", "fps"))
        ),
    )
    measured = measured.join(of_videos["face_width"].median(), on=_VIDEO)
    measured = measured.join(of_videos["brightness"].mean(), on=_VIDEO)
    return TrainingData(
        labels=_counts(videos["label"]),
        methods=_counts(videos.loc[videos["label"] == Label.FAKE, "method"]),
        sources=_counts(videos["source"]),
        codecs=_counts(videos["video_codec_name"]),
        ranges={
            name: (float(low), float(high))
            for name in RANGES
            for known in [measured[name].replace([np.inf, -np.inf], np.nan).dropna()]
            if len(known)
            for low, high in [known.quantile(list(_PERCENTILES))]
        },
    )


def _counts(values: pd.Series) -> dict[str, int]:
    """Return the number of each value, the most frequent first; absent ones are left out."""
    return {str(value): int(count) for value, count in values.value_counts().items()}
