"""The bundle: a flat folder with everything that predicts a test set without internet."""

from __future__ import annotations

import hashlib
import logging
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import unmask
from unmask.config import Config, Precision
from unmask.errors import UnmaskError
from unmask.evaluation.results import CALIBRATION
from unmask.faces.detectors import DETECTORS
from unmask.faces.weights import YUNET, find_weights
from unmask.files import read_json, write_json
from unmask.inference.predictor import CONFIG, MANIFEST, Member
from unmask.inference.records import FileRecord, Manifest, MemberRecord, Parity
from unmask.inference.scoring_head import ScoringHead
from unmask.kaggle import entry
from unmask.kaggle.card import write_card
from unmask.kaggle.choice import Shipped, Trained, check_size, choose_experiments, models_of
from unmask.kaggle.data import describe_data
from unmask.kaggle.parity import measure_parity, read_clips
from unmask.kaggle.submission import SCRIPT
from unmask.kaggle.wheels import build_wheel, copy_wheels, licence_of, repack_wheel, required
from unmask.training.model_file import load_model, save_model

logger = logging.getLogger(__name__)

_VERSIONS = ("torch", "timm", "opencv-python-headless", "av", "numpy", "pydantic")
# Installed in any image that can run this project; so is what they require.
_IMAGE = ("torch", "timm", "numpy", "opencv-python-headless", "pandas", "safetensors")
# The largest change of a probability that half precision may cause.
_LARGEST_CHANGE = 1e-3


def export_bundle(
    models: list[Path],
    runs: list[Path],
    evaluation: Path,
    comparison: Path,
    shards: Path,
    indices: list[Path],
    splits: Path,
    videos: Path,
    ledger: Path,
    threads: int,
    config: Config,
    output: Path,
    shifts: Sequence[Path] = (),
) -> None:
    """Write the Kaggle upload folder.

    Args:
        models: `model.safetensors` of all trained models; those of the chosen experiments ship.
        runs: `run.json` of the same models, in the same order.
        evaluation: folder with one evaluation folder per experiment.
        comparison: `comparison.json`, for the best experiment and the ensemble.
        shards: folder of face shards, on which trained and shipped weights are compared.
        indices: face indices of the shards.
        splits: the split table, for the model card.
        videos: the ledger as a table; the manifest says what the training videos are like.
        ledger: `ledger.json`, for the model card.
        threads: CPU threads.
        config: sections frames, limits, faces and kaggle, and evaluation.flip, are used.
        output: the folder; its content is replaced.
        shifts: `shifts.json` of all experiments, for the model card.

    Raises:
        UnmaskError: the bundle is larger than `kaggle.max_bytes`, or half precision changes
            predictions. No folder is left.
    """
    torch.set_num_threads(threads)
    kaggle = config.kaggle
    shipped = choose_experiments(kaggle.experiment, evaluation, comparison)
    of_experiments = models_of(models, runs)
    with _removed_on_failure(output):
        chosen = {name: of_experiments[name][: kaggle.models] for name in shipped.weights}
        packages = _write_code(config, output)
        rest = sum(path.stat().st_size for path in output.iterdir())
        check_size(rest, of_experiments, set(chosen), kaggle)

        members: list[MemberRecord] = []
        pairs = _save_members(chosen, shipped, evaluation, kaggle.precision, output, members)
        parity = measure_parity(pairs, read_clips(shards, indices), kaggle.prior)
        check_parity(parity, kaggle.precision)

        write_card(ledger, splits, shifts, members, shipped, kaggle, parity, output)
        manifest = Manifest(
            unmask=unmask.__version__,
            members=members,
            metrics=shipped.test.values(),
            intervals=shipped.test.intervals,
            parity=parity,
            versions={name: version(name) for name in _VERSIONS}
            | {"python": platform.python_version()},
            licences={
                "unmask": "Apache-2.0",
                YUNET.name: "MIT (libfacedetection), quantised by OpenCV Zoo (Apache-2.0)",
                "members": "as the data they were trained on allows",
                **{name: licence_of(name) for name in packages},
            },
            files={path.name: _record(path) for path in sorted(output.iterdir())},
            data=describe_data(videos, indices),
        )
        write_json(manifest, output / MANIFEST)
        total = sum(path.stat().st_size for path in output.iterdir())
        if total > kaggle.max_bytes:
            raise UnmaskError(
                f"kaggle.max_bytes: the bundle has {total:,} bytes, {total - kaggle.max_bytes:,} "
                "too many; lower kaggle.models"
            )
        logger.info("%s: %s, %d models", output, shipped.name, len(members))


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Empty a folder, and remove it if the block fails: half a bundle must not be uploaded."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder)
        raise


def shipped_settings(config: Config) -> dict[str, Any]:
    """Return the settings that prediction depends on."""
    sections = dict.fromkeys(("frames", "limits", "faces", "kaggle"), True)
    return config.model_dump(include=sections | {"evaluation": {"flip"}})


def _write_code(config: Config, output: Path) -> list[str]:
    """Write settings, code, wheels and detector; return the packages of the wheels."""
    settings = shipped_settings(config)
    faces, kaggle = config.faces, config.kaggle
    detector = DETECTORS[faces.detector]
    packages = {DETECTORS[name].distribution for name in faces.voters}
    if wanted := detector.weights:
        shutil.copyfile(find_weights(wanted, "faces.weights", faces.weights), output / wanted.name)
        settings["faces"]["weights"] = wanted.name
    else:
        packages.add(detector.distribution)
    shipped = required([*kaggle.wheels, *sorted(filter(None, packages))], _IMAGE)
    for package in shipped:
        repack_wheel(package, output)
    if kaggle.wheelhouse is not None:
        copy_wheels(Path(kaggle.wheelhouse), output)
        settings["kaggle"]["wheelhouse"] = None  # a path of this machine
    build_wheel(output)
    shutil.copyfile(entry.__file__, output / SCRIPT)
    write_json(settings, output / CONFIG)
    return shipped


def _save_members(
    chosen: Mapping[str, Sequence[Trained]],
    shipped: Shipped,
    evaluation: Path,
    precision: Precision,
    output: Path,
    members: list[MemberRecord],
) -> Iterator[tuple[Member, Member]]:
    """Save each member and append its record to `members`; yield it as trained and as shipped."""
    for experiment, models in chosen.items():
        heads = read_json(evaluation / experiment / CALIBRATION, dict[str, ScoringHead])
        for one in models:
            run = one.run
            file = output / f"{experiment}_{run.model}.safetensors"
            network, model_input = load_model(one.model)
            save_model(network, model_input, file, precision)
            head, weight = heads[run.model], shipped.weights[experiment] / len(models)
            members.append(
                MemberRecord(
                    *(file.name, run.experiment, run.model, run.fold, run.seed),
                    run_id=run.description.run_id,
                    prior_shift=run.prior_shift,
                    backbone=model_input.backbone,
                    image_size=model_input.size,
                    scoring_head=head,
                    weight=weight,
                )
            )
            member = Member(network, model_input, run.prior_shift, head, weight)
            yield member, replace(member, network=load_model(file)[0])


def check_parity(parity: Parity, precision: Precision) -> None:
    """Check that half precision changes no prediction.

    Raises:
        UnmaskError: it changes one by more than 0.001.
    """
    logger.info(
        "%s changes the probabilities of %d videos by at most %.1e (%s)",
        *(precision, parity.videos, parity.largest_change, parity.video),
    )
    if precision == "float16" and parity.largest_change > _LARGEST_CHANGE:
        raise UnmaskError(
            f"kaggle.precision: float16 changes the probability of {parity.video} by "
            f"{parity.largest_change:.4f}, more than {_LARGEST_CHANGE:g}; take float32"
        )


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
