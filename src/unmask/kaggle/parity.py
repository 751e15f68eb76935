"""Parity: by how much weights of less precision change the answers to real videos."""

from __future__ import annotations

from collections.abc import Iterable
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

_VIDEOS = 16
_FACES_OF_EACH = 8


@dataclass(frozen=True)
class Clips:
    """Crops of some videos of the training data.

    Attributes:
        names: `part/video` of each video.
        crops: of these videos.
    """

    names: list[str]
    crops: VideoCrops


def read_clips(shards: Path, indices: list[Path]) -> Clips:
    """Read up to 8 faces of each of up to 16 videos, spread over all that have any.

    Args:
        shards: folder of face shards.
        indices: face indices of all shards.
    """
    columns = ["part", "video", "track", "frame", "shard", "key", "offset", "size"]
    faces = read_tables(indices, FACES, columns)
    number = faces.groupby(["part", "video"], sort=True).ngroup()
    faces = faces[number.isin(_spread(number.max() + 1, _VIDEOS))]
    few = pd.concat(
        [rows.iloc[_spread(len(rows), _FACES_OF_EACH)] for _, rows in faces.groupby(number)]
    )
    reader = ShardReader(shards)
    pictures = [
        decode_jpeg(reader.read(shard, offset, size), key)
        for shard, key, offset, size in zip(
            *(few[name] for name in ("shard", "key", "offset", "size")), strict=True
        )
    ]
    names = few["part"] + "/" + few["video"]
    video, track = (
        np.asarray(few.groupby(columns[:depth], sort=False).ngroup(), np.int64) for depth in (2, 3)
    )
    return Clips(list(dict.fromkeys(names)), VideoCrops(pictures, video, track))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return up to `most` numbers below `count`, evenly apart."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def measure_parity(pairs: Iterable[tuple[Member, Member]], clips: Clips, prior: float) -> Parity:
    """Answer clips with trained and with shipped weights.

    Args:
        pairs: each member as it was trained and as it is shipped; one pair is held at a time.
        clips: what is answered.
        prior: share of FAKE that is expected.
    """
    device = torch.device("cpu")  # where float32 is what it says
    total, answers = 0.0, np.zeros((2, len(clips.names)))
    for pair in pairs:
        for row, member in enumerate(pair):
            answers[row] += member.weight * member_log_odds(member, clips.crops, prior, device)
        total += pair[0].weight
    changes = np.abs(np.diff(expit(answers / total), axis=0)[0])
    most = int(changes.argmax())
    return Parity(len(clips.names), float(changes[most]), clips.names[most])
