"""Exploration: the figures that show the data before any model does."""

from __future__ import annotations

import logging
from pathlib import Path

from unmask.evaluation import figures
from unmask.tables import FACES, VIDEOS, Status, read_table, read_tables

logger = logging.getLogger(__name__)


def explore(ledger: Path, shards: Path, indices: list[Path], output: Path) -> None:
    """Draw the ledger, the labels, the containers and some faces into `output`.

    Args:
        ledger: `results/videos.parquet`.
        shards: folder of face shards.
        indices: face indices of all shards.
        output: folder of the figures.
    """
    output.mkdir(parents=True, exist_ok=True)
    videos = read_table(ledger, VIDEOS)
    usable = videos[videos["status"] == Status.OK]
    drawings = {
        "statuses.svg": figures.statuses(videos),
        "labels.svg": figures.label_distribution(videos[videos["label"].notna()]),
        "containers.svg": figures.container_values(videos),
        "faces.png": figures.face_samples(usable, read_tables(indices, FACES), shards),
    }
    for name, figure in drawings.items():
        figures.save(figure, output / name)
    logger.info("%s", ", ".join(drawings))
