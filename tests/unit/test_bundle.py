"""The bundle: what it ships, how large it may be, and what its card says."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from records import write_run
from unmask.config import (
    Config,
    EvaluationConfig,
    FramesConfig,
    KaggleConfig,
    Precision,
    TrainingConfig,
)
from unmask.config_files import load_settings
from unmask.errors import UnmaskError
from unmask.evaluation.metrics import binary_metrics
from unmask.evaluation.results import (
    METRICS,
    Comparison,
    EnsembleMetrics,
    ExperimentMetrics,
    ExperimentShifts,
    ShiftMetrics,
)
from unmask.files import write_json
from unmask.inference.calibrate import Calibration
from unmask.inference.predictor import Member, VideoCrops
from unmask.inference.records import MemberRecord, Parity
from unmask.inference.scoring_head import ScoringHead
from unmask.kaggle.bundle import check_parity, shipped_settings
from unmask.kaggle.card import CARD, write_card
from unmask.kaggle.choice import Shipped, check_size, choose_experiments, models_of
from unmask.kaggle.data import describe_data
from unmask.kaggle.notebook import NOTEBOOK, write_upload_files
from unmask.kaggle.parity import Clips, measure_parity, read_clips
from unmask.tables import FACES, SPLITS, VIDEOS, write_rows, write_table
from unmask.training.backbones import create_backbone
from unmask.training.model_file import load_model, save_model

SMALL = TrainingConfig(backbone="test_efficientnet", weights="none", image_size=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model, as training leaves it."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    torch.manual_seed(0)
    save_model(*create_backbone(SMALL), path)
    return path


def test_a_bundle_that_is_too_large_is_an_error_that_suggests_what_fits(
    model: Path, tmp_path: Path
) -> None:
    sizes = {}
    for precision in ("float16", "int8"):
        shutil.copyfile(model, tmp_path / precision)
        save_model(*load_model(model), tmp_path / precision, precision)
        sizes[precision] = (tmp_path / precision).stat().st_size
    write_run(tmp_path / "run.json", "wide", 0, 1)
    (one,) = models_of([model], [tmp_path / "run.json"])["wide"]
    models = {"wide": [one] * 4, "narrow": [one]}

    def message(max_bytes: int, **settings: Any) -> str:
        kaggle = KaggleConfig(max_bytes=max_bytes, **settings)
        with pytest.raises(UnmaskError) as caught:
            check_size(1000, models, {"wide"}, kaggle)
        return str(caught.value).partition("what fits: ")[2] or str(caught.value)

    check_size(1000, models, {"wide"}, KaggleConfig(max_bytes=1000 + 4 * sizes["float16"]))
    fitting = "kaggle.models: 3; kaggle.precision: int8; kaggle.experiment: narrow"
    assert message(1000 + int(3.5 * sizes["float16"])) == fitting
    assert message(1000 + int(1.5 * sizes["float16"])) == (
        "kaggle.models: 1; kaggle.experiment: narrow"
    )
    assert message(1000 + int(3.5 * sizes["int8"]), precision="int8") == (
        "kaggle.models: 3; kaggle.experiment: narrow"
    )
    nothing = message(1000)
    assert nothing.startswith("kaggle.max_bytes: the bundle would have ")
    assert nothing.endswith(", all else 1,000); train a smaller backbone")


def pair(model: Path, precision: Precision, folder: Path) -> Iterator[tuple[Member, Member]]:
    network, model_input = load_model(model)
    save_model(network, model_input, folder / precision, precision)
    head = ScoringHead("mean_logit", Calibration(4.0, 0.0, 0.5))
    yield (
        Member(network, model_input, 0.0, head, 0.5),
        Member(load_model(folder / precision)[0], model_input, 0.0, head, 0.5),
    )


def test_half_precision_must_not_change_predictions(model: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(6)]
    track = np.array([0, 0, 1, 2, 3, 3])
    boxes = np.tile(np.float32([0.2, 0.2, 0.8, 0.8]), (6, 1))
    crops = VideoCrops(pictures, boxes, np.array([0, 0, 0, 1, 2, 2]), track)
    clips = Clips(["p/a.mp4", "p/b.mp4", "p/c.mp4"], crops)
    half, eighth = (
        measure_parity(pair(model, precision, tmp_path), clips, 0.5)
        for precision in ("float16", "int8")
    )
    assert 0 < half.largest_change < 1e-3
    assert eighth.largest_change > 2 * half.largest_change
    check_parity(half, "float16")
    check_parity(Parity(3, 0.2, "p/b.mp4"), "int8")
    with pytest.raises(UnmaskError, match=r"kaggle\.precision: .* p/b\.mp4 by 0\.0011"):
        check_parity(Parity(3, 0.0011, "p/b.mp4"), "float16")


def test_a_bundle_predicts_with_the_settings_that_models_are_scored_with() -> None:
    config = Config(evaluation=EvaluationConfig(flip=True), frames=FramesConfig(per_video=5))
    shipped = load_settings(shipped_settings(config))
    assert (shipped.evaluation.flip, shipped.frames.per_video) == (True, 5)


def test_clips_are_some_faces_of_several_videos(worked_part: Path) -> None:
    clips = read_clips(worked_part / "faces", [worked_part / "faces/part-00.parquet"])
    assert {name.partition("/")[2] for name in clips.names} >= {"a.mp4", "b.mp4"}
    video = clips.crops.video
    assert len(clips.names) == video.max() + 1
    assert len(clips.crops.pictures) == len(video) == len(clips.crops.track)
    assert (np.diff(video) >= 0).all()
    assert np.bincount(video).max() <= 8


def test_one_model_of_each_fold_comes_before_a_second_seed(tmp_path: Path) -> None:
    runs = []
    for name, fold, seed in product(("b", "a"), (0, 1), (1, 2)):
        runs.append(tmp_path / f"{name}-{fold}-{seed}.json")
        write_run(runs[-1], name, fold, seed)
    ordered = models_of([run.with_suffix(".safetensors") for run in runs], runs)
    for name in ("a", "b"):
        order = [f"{name}-0-1", f"{name}-1-1", f"{name}-0-2", f"{name}-1-2"]
        assert [one.model.stem for one in ordered[name]] == order


def test_the_manifest_says_what_the_training_videos_are_like(tmp_path: Path) -> None:
    videos, faces = [], []
    for number in range(21):
        values = {"part": "p", "video": f"{number:02}.mp4", "label": "REAL", "source": "own"}
        values |= {"status": "ok", "video_width": 400, "video_height": 200 + 10 * number}
        values |= {"video_fps": 25.0, "video_codec_name": "h264", "video_bit_rate": None}
        videos.append(dict.fromkeys(VIDEOS.columns) | values)
        for frame, width in enumerate((50, 60, 90)):
            face = {"part": "p", "video": values["video"], "track": 0, "frame": frame}
            face |= {"x0": 10.0, "x1": 10.0 + width, "brightness": 100.0}
            faces.append(dict.fromkeys(FACES.columns) | face)
    videos[0] |= {"label": "FAKE", "method": "swap", "video_bit_rate": 400 * 200 * 25}
    videos.append(dict.fromkeys(VIDEOS.columns) | {"part": "p", "video": "x", "status": "missing"})
    write_rows(videos, VIDEOS, tmp_path / "videos.parquet")
    write_rows(faces, FACES, tmp_path / "faces.parquet")
    found = describe_data(tmp_path / "videos.parquet", [tmp_path / "faces.parquet"])
    assert found.labels == {"REAL": 20, "FAKE": 1}
    assert (found.methods, found.sources) == ({"swap": 1}, {"own": 21})
    assert found.codecs == {"h264": 21}
    assert found.ranges["height"] == (210, 390)  # the 2nd and the 20th of 21
    assert found.ranges["face_width"] == (60, 60)
    assert found.ranges["bits_per_pixel"] == (1, 1)


TEST = replace(
    binary_metrics(np.array([0.0, 1.0]), np.array([0.4, 0.6])),
    log_loss=0.25,
    roc_auc=0.9,
    constant_log_loss=0.45,
    intervals={"log_loss": (0.2, 0.3), "roc_auc": (None, None)},
)


def compared(folder: Path, ensemble: EnsembleMetrics | None) -> Path:
    for name in ("a", "b"):
        metrics = ExperimentMetrics(name, *[TEST] * 5, [], None, {}, {})
        write_json(metrics, folder / name / METRICS)
    write_json(Comparison(["b", "a"], [], ensemble), folder / "comparison.json")
    return folder / "comparison.json"


@pytest.mark.parametrize(
    ("wanted", "weights"),
    [("best", {"b": 1.0}), ("a", {"a": 1.0}), ("ensemble", {"a": 0.25, "b": 0.75})],
)
def test_the_configured_experiment_is_shipped(
    wanted: str, weights: dict[str, float], tmp_path: Path
) -> None:
    test = replace(TEST, log_loss=0.2)
    ensemble = EnsembleMetrics({"a": 0.25, "b": 0.75}, {}, 100, 0.1, test)
    shipped = choose_experiments(wanted, tmp_path, compared(tmp_path, ensemble))
    assert shipped.weights == weights
    assert shipped.test.log_loss == (0.2 if wanted == "ensemble" else 0.25)


def test_a_missing_ensemble_is_named_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(UnmaskError, match=r"^kaggle.experiment: there is no ensemble"):
        choose_experiments("ensemble", tmp_path, compared(tmp_path, None))


def test_notebook_and_metadata_are_valid(tmp_path: Path) -> None:
    config = KaggleConfig(owner="someone", title="A detector, 2nd try", hours=7.25)
    (tmp_path / "unmask-0.1.0-py3-none-any.whl").touch()
    write_upload_files(tmp_path, config, tmp_path / "upload.json")
    notebook, kernel, data_set, recorded = (
        json.loads((tmp_path / name).read_text())
        for name in (NOTEBOOK, "kernel-metadata.json", "dataset-metadata.json", "upload.json")
    )
    nbformat.validate(nbformat.from_dict(notebook))
    source = "\n".join("".join(cell["source"]) for cell in notebook["cells"])
    assert "--deadline 7.25h" in source
    assert 'find("unmask-0.1.0-py3-none-any.whl")' in source

    assert recorded == data_set
    assert data_set["id"] == kernel["id"] == "someone/a-detector-2nd-try"
    assert kernel["dataset_sources"] == [data_set["id"]]
    assert kernel["enable_internet"] is False
    assert len(data_set["licenses"]) == 1
    for title in ("- - - -", "Détecteur", "ab c d"):
        with pytest.raises(ValueError, match="title"):
            KaggleConfig(title=title)


def test_the_model_card_describes_data_and_performance(tmp_path: Path) -> None:
    ledger = {
        "videos": 1200,
        "statuses": {"ok": 1100, "no_face": 90, "missing": 10},
        "usable": {"FAKE": 900, "REAL": 200},
    }
    write_json(ledger, tmp_path / "ledger.json")
    videos = [f"{number}.mp4" for number in range(8)]
    rows = {"part": "p", "video": videos, "label": "REAL", "family": videos, "group": videos}
    splits = pd.DataFrame(rows).assign(source="p", fold=[0, 1, 2, 3] * 2)
    write_table(splits, SPLITS, tmp_path / "splits.parquet")
    losses = {"noise": replace(TEST, log_loss=0.61), "blur": replace(TEST, log_loss=0.5)}
    shifted = ShiftMetrics(TEST, losses, "noise", 0.555, 0.4)
    for name in ("a", "b"):
        shifts = ExperimentShifts(name, 0.4, shifted, shifted, {}, {}, {})
        write_json(shifts, tmp_path / f"{name}.json")
    head = ScoringHead("mean_logit", Calibration(1.0, 0.0, 0.5))
    members = [
        MemberRecord(
            *("x.safetensors", "a", f"fold{fold}-seed1", fold, 1, "", 0.0, "resnet18", 224),
            scoring_head=head,
            weight=0.5,
        )
        for fold in (0, 1)
    ]
    shipped = Shipped("a", {"a": 1.0}, TEST, "blur: strong")
    parity, kaggle = Parity(16, 2.5e-5, "p/1.mp4"), KaggleConfig()
    shifts = [tmp_path / "a.json", tmp_path / "b.json"]
    tables = (tmp_path / "ledger.json", tmp_path / "splits.parquet")
    write_card(*tables, shifts, members, shipped, kaggle, parity, tmp_path)
    text = " ".join((tmp_path / CARD).read_text().split())
    for words in (
        "| a | `resnet18` | 224 × 224 | fold0-seed1, fold1-seed1 | 1.00 |",
        "1,200 videos, of which 1,100 could be used (900 FAKE, 200 REAL); the others: 90 no_face,",
        "8 groups and 4 folds",
        "Each model trained on 2 of the folds",
        "| 0.250 (0.200–0.300) | 0.450 | 0.900 |",
        "the worst change (noise) | 0.610 | 0.450 |",
        "The worst subgroup is blur: strong.",
        "changed no probability by more than 2.5e-05",
        "`resnet18` ",
    ):
        assert words in text, words
    assert "`b`" not in text
    assert "`a`, models a fold0-seed1, a fold1-seed1." in (tmp_path / "README.md").read_text()
