"""Scoring: one logit for every face crop of videos that a model was not trained on.

The same loop scores the validation and test videos of a fold, their shifted versions, and external
data sets.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from unmask.files import write_json
from unmask.inference.records import ScoringSpeed
from unmask.progress import track
from unmask.splits.roles import with_roles
from unmask.tables import (
    FACES,
    SCORES,
    SHIFT_SCORES,
    SHIFTED_FACES,
    SPLITS,
    VIDEOS,
    Table,
    read_table,
    read_tables,
    write_table,
)
from unmask.training.dataset import create_score_loader, labelled_faces, loader_workers
from unmask.training.model_file import half_bytes, load_model
from unmask.training.run_record import RunRecord
from unmask.videos.ledger import with_file
from unmask.vocabulary import Role

logger = logging.getLogger(__name__)

# The columns of a face index that scoring needs. Landmarks are most of an index, and not needed.
_COLUMNS = ("part", "video", "track", "frame", "time", "shard", "key", "offset", "size")


def score_model(
    model: Path,
    run: Path,
    shards: Path,
    indices: Sequence[Path],
    splits: Path,
    threads: int,
    batch_size: int,
    output: Path,
    speed: Path,
) -> None:
    """Score the validation and test faces of one model.

    Args:
        model: `model.safetensors` of the training job.
        run: its `run.json`, for experiment, fold, seed and prior shift.
        shards: folder of face shards.
        indices: face indices of all shards.
        splits: the split table.
        threads: CPU threads.
        batch_size: crops per forward pass.
        output: one row per crop, see `unmask.tables.SCORES`.
        speed: JSON file for a `ScoringSpeed`.
    """
    faces = read_tables(indices, FACES, _COLUMNS)
    measured = _score(
        model, run, shards, _held_out(faces, run, splits), threads, batch_size, output
    )
    write_json(measured, speed)


def score_shifts(
    model: Path,
    run: Path,
    shards: Path,
    indices: Sequence[Path],
    splits: Path,
    threads: int,
    batch_size: int,
    output: Path,
) -> None:
    """Score the shifted validation and test faces of one model, all shifts in one pass.

    Args:
        model: `model.safetensors` of the training job.
        run: its `run.json`.
        shards: folder of the shards of shifted faces.
        indices: their indices.
        splits: the split table.
        threads: CPU threads.
        batch_size: crops per forward pass.
        output: one row per crop, see `unmask.tables.SHIFT_SCORES`.
    """
    faces = _held_out(read_tables(indices, SHIFTED_FACES, ("shift", *_COLUMNS)), run, splits)
    _score(model, run, shards, faces, threads, batch_size, output, SHIFT_SCORES)


def score_set(
    model: Path,
    run: Path,
    shards: Path,
    indices: Sequence[Path],
    ledger: Path,
    threads: int,
    batch_size: int,
    output: Path,
) -> None:
    """Score all faces of an external set with one model.

    Args:
        model: `model.safetensors` of the training job.
        run: its `run.json`.
        shards: folder of the set's face shards.
        indices: their indices.
        ledger: the set's own ledger.
        threads: CPU threads.
        batch_size: crops per forward pass.
        output: one row per crop, see `unmask.tables.SCORES`; all have the role `test`.
    """
    videos = with_file(read_table(ledger, VIDEOS)).assign(role=str(Role.TEST))
    faces = labelled_faces(read_tables(indices, FACES, _COLUMNS), videos)
    _score(model, run, shards, faces, threads, batch_size, output)


def _held_out(index: pd.DataFrame, run: Path, splits: Path) -> pd.DataFrame:
    """Return the faces of the videos that a model was not trained on, with label and role."""
    job = RunRecord.read(run)
    roles = with_roles(read_table(splits, SPLITS), job.fold, job.folds)
    return labelled_faces(index, roles[roles["role"] != Role.TRAIN])


def _score(
    model: Path,
    run: Path,
    shards: Path,
    faces: pd.DataFrame,
    threads: int,
    batch_size: int,
    output: Path,
    table: Table = SCORES,
) -> ScoringSpeed:
    """Write the logit of each face, moved to the prior of the model's data; return the speed."""
    torch.set_num_threads(threads)
    job = RunRecord.read(run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, model_input = load_model(model)
    size = half_bytes(network)
    network.to(device)
    mean, std = model_input.statistics(device)
    loader = create_score_loader(faces, shards, model_input, batch_size, loader_workers(threads))
    logits, seconds = [], 0.0
    with torch.inference_mode():
        for batch in track(loader, "batches"):
            started = time.perf_counter()
            images = model_input.normalize(batch["image"].to(device), mean, std)
            logits.append(network(images).squeeze(1).double().cpu())
            seconds += time.perf_counter() - started
    scored = faces.assign(
        logit=torch.cat(logits).numpy() + job.prior_shift,
        experiment=job.experiment,
        fold=job.fold,
        seed=job.seed,
    )
    write_table(scored, table, output)
    speed = ScoringSpeed(job.experiment, job.model, size, seconds / max(1, len(faces)))
    logger.info("%d crops scored, %.4f s each by the network", len(faces), speed.seconds_per_crop)
    return speed
