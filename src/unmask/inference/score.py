"""Scoring: one logit for every face crop of videos that a model was not trained on."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from unmask.config import EvaluationConfig
from unmask.files import write_json
from unmask.inference.predictor import FlipAverage
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
    read_table,
    read_tables,
    write_table,
)
from unmask.training.dataset import (
    SCORE_COLUMNS,
    create_score_loader,
    labelled_faces,
    loader_workers,
)
from unmask.training.model_file import half_bytes, load_model
from unmask.training.run_record import RunRecord
from unmask.videos.ledger import with_file
from unmask.vocabulary import Role

logger = logging.getLogger(__name__)

_COLUMNS = (*SCORE_COLUMNS, "frame", "time")


def score_model(
    model: Path,
    run: Path,
    shards: Path,
    indices: Sequence[Path],
    threads: int,
    batch_size: int,
    config: EvaluationConfig,
    output: Path,
    splits: Path | None = None,
    ledger: Path | None = None,
    shifted: bool = False,
    speed: Path | None = None,
) -> None:
    """Score the faces of videos that a model was not trained on.

    Args:
        model: `model.safetensors` of the training job.
        run: its `run.json`.
        shards: folder of the face shards.
        indices: their indices.
        threads: CPU threads.
        batch_size: crops per forward pass.
        config: the `evaluation` section.
        output: one row per face, see `unmask.tables.SCORES` and `SHIFT_SCORES`.
        splits: the split table, to score the validation and test videos of the model's fold.
        ledger: ledger of an external set, to score all its videos instead, as test videos.
        shifted: the faces are those of shifted videos.
        speed: JSON to write: `ScoringSpeed`.
    """
    torch.set_num_threads(threads)
    job = RunRecord.read(run)
    if splits is not None:
        roles = with_roles(read_table(splits, SPLITS), job.fold, job.folds)
        videos = roles[roles["role"] != Role.TRAIN]
    elif ledger is not None:
        videos = with_file(read_table(ledger, VIDEOS)).assign(role=str(Role.TEST))
    else:
        raise ValueError("neither splits nor ledger")
    if shifted:
        index, table = read_tables(indices, SHIFTED_FACES, ("shift", *_COLUMNS)), SHIFT_SCORES
    else:
        index, table = read_tables(indices, FACES, _COLUMNS), SCORES
    faces = labelled_faces(index, videos)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, model_input = load_model(model)
    cost = half_bytes(network)
    network.to(device)
    if config.flip:
        network = FlipAverage(network)
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
    per_crop = seconds / max(1, len(faces))
    if speed is not None:
        write_json(ScoringSpeed(job.experiment, job.model, cost, per_crop), speed)
    logger.info("%d crops scored, %.4f s each by the network", len(faces), per_crop)
