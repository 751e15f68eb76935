"""The `run.json` of a training that never ran, and the bundle of an untrained model."""

import hashlib
import json
import shutil
from pathlib import Path

import torch

from unmask.config import Config, FacesConfig, FramesConfig, TrainingConfig
from unmask.faces.weights import YUNET, find_weights
from unmask.files import write_json
from unmask.inference.calibrate import Calibration
from unmask.inference.predictor import CONFIG, MANIFEST
from unmask.inference.properties import TrainingData
from unmask.inference.records import FileRecord, Manifest, MemberRecord, Parity
from unmask.inference.scoring_head import ScoringHead
from unmask.training.backbones import create_backbone
from unmask.training.model_file import save_model
from unmask.training.run_record import LoggedMetrics, RunDescription, RunRecord


def write_run(
    path: Path,
    experiment: str,
    fold: int,
    seed: int = 1,
    folds: int = 3,
    assumed_prior: float = 0.5,
    description: RunDescription | None = None,
    history: list[LoggedMetrics] | None = None,
) -> RunRecord:
    """Write the record of a training; return it."""
    model = f"fold{fold}-seed{seed}"
    record = RunRecord(
        experiment=experiment,
        model=model,
        fold=fold,
        folds=folds,
        seed=seed,
        prior_shift=0.0,
        assumed_prior=assumed_prior,
        best_epoch=0,
        val_log_loss=0.6,
        seconds=1.0,
        ended_ms=1,
        description=description or RunDescription(model, model, 0, {}, {}, {}),
        history=history
        or [LoggedMetrics(1, 1, {"epoch": 0, "train/loss": 0.7, "val/log_loss": 0.6})],
    )
    write_json(record, path)
    return record


def write_bundle(folder: Path, data: TrainingData | None = None, run_id: str = "") -> Path:
    """Write the bundle of one small untrained model, without wheels; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    config = TrainingConfig(backbone="test_efficientnet", weights="none", image_size=64)
    save_model(*create_backbone(config), folder / "fold0.safetensors", precision="float16")
    shutil.copyfile(find_weights(YUNET, "faces.weights"), folder / YUNET.name)
    settings = Config(frames=FramesConfig(per_video=3), faces=FacesConfig(size=64)).model_dump(
        include={"frames", "limits", "faces", "evaluation", "kaggle"}
    )
    settings["faces"]["weights"] = YUNET.name
    (folder / CONFIG).write_text(json.dumps(settings))
    member = MemberRecord(
        *("fold0.safetensors", "tiny", "fold0-seed1", 0, 1, run_id, 1.0, "test_efficientnet", 64),
        scoring_head=ScoringHead("mean_logit", Calibration(1.5, 0.4, 0.8)),
        weight=1.0,
    )
    files = {
        path.name: FileRecord(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.iterdir()
        if path.name != MANIFEST
    }
    metrics = {"log_loss": 0.5, "constant_log_loss": 0.69, "roc_auc": 0.8, "count": 40.0}
    intervals = {"log_loss": (0.4, 0.6), "roc_auc": (0.7, 0.9)}
    parity = Parity(1, 0.0, "p/a.mp4")
    manifest = Manifest("1", [member], metrics, intervals, parity, {}, {}, files, data)
    write_json(manifest, folder / MANIFEST)
    return folder
