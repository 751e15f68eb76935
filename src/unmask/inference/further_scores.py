"""Further scores: the logits of shifted crops, and of the crops of external sets."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from unmask.inference.score import predict_logits
from unmask.splits.roles import with_roles
from unmask.tables import (
    FACES,
    SCORES,
    SHIFT_SCORES,
    SHIFTED_FACES,
    SPLITS,
    VIDEOS,
    read_table,
    read_tables,
    write_table,
)
from unmask.training.dataset import create_score_loader, labelled_faces, loader_workers
from unmask.training.model_file import load_model
from unmask.videos.ledger import with_file
from unmask.vocabulary import Role

logger = logging.getLogger(__name__)


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
    """Score the shifted crops of one model's select and report role, all shifts in one go.

    Args:
        model: `model.safetensors` of the training job.
        run: its `run.json`.
        shards: folder of the shards of shifted crops.
        indices: their indices.
        splits: the split table.
        threads: CPU threads.
        batch_size: crops per forward pass.
        output: one row per crop, see `unmask.tables.SHIFT_SCORES`.
    """
    torch.set_num_threads(threads)
    job = json.loads(run.read_text())
    network, model_input = load_model(model)
    roles = with_roles(read_table(splits, SPLITS), job["fold"], job["folds"])
    roles = roles.assign(fold=job["fold"])
    faces = labelled_faces(read_tables(indices, SHIFTED_FACES), roles)
    faces = faces[faces["role"] != Role.TRAIN].reset_index(drop=True)
    loader = create_score_loader(faces, shards, model_input, batch_size, loader_workers(threads))
    logits, _ = predict_logits(network, model_input, loader)
    faces["logit"] = logits + job["prior_shift"]
    write_table(faces.assign(experiment=job["experiment"], seed=job["seed"]), SHIFT_SCORES, output)
    logger.info("%d crops scored", len(faces))


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
        output: one row per crop, see `unmask.tables.SCORES`; all of the report role.
    """
    torch.set_num_threads(threads)
    job = json.loads(run.read_text())
    network, model_input = load_model(model)
    videos = with_file(read_table(ledger, VIDEOS))
    faces = labelled_faces(read_tables(indices, FACES), videos)
    loader = create_score_loader(faces, shards, model_input, batch_size, loader_workers(threads))
    logits, _ = predict_logits(network, model_input, loader)
    faces["logit"] = logits + job["prior_shift"]
    model_columns = {name: job[name] for name in ("experiment", "fold", "seed")}
    write_table(faces.assign(role=str(Role.TEST), **model_columns), SCORES, output)
    logger.info("%d crops of %d videos scored", len(faces), len(videos))
