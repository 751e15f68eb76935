"""Parity: by how much weights of lower precision change the predictions for real videos."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import expit

from unmask.faces.images import decode_jpeg
from unmask.faces.shards import ShardReader
from unmask.inference.predictor import Member, VideoCrops, member_log_odds
from unmask.inference.records import Parity
from unmask.tables import FACES, read_tables
from unmask.training.dataset import SCORE_COLUMNS, face_boxes

_VIDEOS = 16
_FACES_PER_VIDEO = 8


@dataclass(frozen=True)
class Clips:
    """Crops of some videos of the training data, named `part/video`."""

    names: list[str]
    crops: VideoCrops


def read_clips(shards: Path, indices: Sequence[Path]) -> Clips:
    """Read up to 8 faces of each of up to 16 videos, evenly spread over the videos with faces."""
    columns = ["part", "video", "track"]
    faces = read_tables(indices, FACES, [*SCORE_COLUMNS, "frame"])
    number = faces.groupby(columns[:2]).ngroup()
    chosen = [faces[number == one] for one in _spread(number.max() + 1, _VIDEOS)]
    faces = pd.concat([rows.iloc[_spread(len(rows), _FACES_PER_VIDEO)] for rows in chosen])
    reader = ShardReader(shards)
    pictures = [
        decode_jpeg(reader.read(str(row.shard), int(row.offset), int(row.size)), str(row.key))
        for row in faces.itertuples()
    ]
    video, track = (faces.groupby(columns[:n], sort=False).ngroup().to_numpy() for n in (2, 3))
    names = (faces["part"] + "/" + faces["video"]).unique()
    return Clips(list(names), VideoCrops(pictures, face_boxes(faces), video, track))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return up to `most` numbers below `count`, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def measure_parity(pairs: Iterable[tuple[Member, Member]], clips: Clips, prior: float) -> Parity:
    """Predict clips with each member as trained and as shipped, on the CPU.

    One pair is in memory at a time. `prior` is the expected share of FAKE.
    """
    device = torch.device("cpu")  # a GPU may compute float32 with lower precision
    total, log_odds = 0.0, np.zeros((2, len(clips.names)))
    for pair in pairs:
        for row, member in enumerate(pair):
            predicted = member_log_odds(member, clips.crops, prior, device)
            log_odds[row] += member.weight * predicted.videos
        total += pair[0].weight
    changes = np.abs(np.diff(expit(log_odds / total), axis=0)[0])
    most = int(changes.argmax())
    return Parity(len(clips.names), float(changes[most]), clips.names[most])
