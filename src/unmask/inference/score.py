"""Scores: the logit of every face crop that a model was not trained on."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader

from unmask.files import write_json
from unmask.progress import track
from unmask.splits.roles import with_roles
from unmask.tables import FACES, SCORES, SPLITS, read_table, read_tables, write_table
from unmask.training.backbones import ModelInput
from unmask.training.dataset import (
    Batch,
    create_score_loader,
    labelled_faces,
    loader_workers,
)
from unmask.training.model_file import half_bytes, load_model
from unmask.vocabulary import Role

logger = logging.getLogger(__name__)


def score_model(
    model: Path,
    run: Path,
    shards: Path,
    indices: list[Path],
    splits: Path,
    threads: int,
    batch_size: int,
    output: Path,
    speed: Path,
) -> None:
    """Score the select and the report role of one model.

    Args:
        model: `model.safetensors` of the training job.
        run: its `run.json`, for experiment, fold, seed and prior shift.
        shards: folder of face shards.
        indices: face indices of all shards.
        splits: the split table.
        threads: CPU threads.
        batch_size: crops per forward pass.
        output: one row per crop, see `unmask.tables.SCORES`.
        speed: JSON: bytes of the model as a bundle holds it, and its seconds per crop here.
    """
    torch.set_num_threads(threads)
    job = json.loads(run.read_text())
    network, model_input = load_model(model)
    roles = with_roles(read_table(splits, SPLITS), job["fold"], job["folds"])
    roles["fold"] = job["fold"]
    faces = labelled_faces(read_tables(indices, FACES), roles)
    faces = faces[faces["role"] != Role.TRAIN].reset_index(drop=True)
    loader = create_score_loader(faces, shards, model_input, batch_size, loader_workers(threads))
    logits, seconds = predict_logits(network, model_input, loader)
    faces["logit"] = logits + job["prior_shift"]
    faces["experiment"] = job["experiment"]
    faces["seed"] = job["seed"]
    write_table(faces, SCORES, output)
    cost = {"bytes": half_bytes(network), "seconds_per_crop": seconds / max(1, len(faces))}
    write_json({"experiment": job["experiment"], "model": job["model"], **cost}, speed)
    logger.info(
        "%d crops scored, %.4f s each by the model alone", len(faces), cost["seconds_per_crop"]
    )


def predict_logits(
    network: nn.Module, model_input: ModelInput, loader: DataLoader[Batch]
) -> tuple[pd.Series, float]:
    """Return the logits of every row of the loader's dataset, in its order.

    Returns:
        The logits, and the seconds that the network took for them, without those of the loader.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).eval()
    mean, std = model_input.statistics(device)
    logits, seconds = [], 0.0
    with torch.inference_mode():
        for batch in track(loader, "batches"):
            started = time.perf_counter()
            images = model_input.normalize(batch["image"].to(device), mean, std)
            logits.append(network(images).squeeze(1).double().cpu())
            seconds += time.perf_counter() - started
    return pd.Series(torch.cat(logits).numpy()), seconds
