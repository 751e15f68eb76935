"""The Kaggle notebook that predicts the challenge's test set, and Kaggle's metadata files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmask.config import KaggleConfig
from unmask.files import write_json

NOTEBOOK = "submission.ipynb"

_TITLE = """# {title}

Predicts the probability of being fake for every video of the test set. Weights, code and
calibration come from the data set `{data_set}`; no internet is used.
"""

_FIND = """import sys
from glob import glob
from pathlib import Path

import pandas as pd


def find(name):
    found = glob(f"/kaggle/input/**/{{name}}", recursive=True)
    assert found, f"no {{name}}: add the data set or the competition that has it to the notebook"
    return Path(found[0])


bundle = find("{wheel}").parent
sample = find("sample_submission.csv")
videos = sample.parent / "test_videos"
bundle, sample, videos"""

_PREDICT = """!"{{sys.executable}}" "{{bundle}}/predict.py" --videos "{{videos}}" \\
    --sample "{{sample}}" --out submission.csv --deadline {hours:g}h"""

_CHECK = """submission = pd.read_csv("submission.csv")
assert submission["filename"].tolist() == pd.read_csv(sample)["filename"].tolist()
submission["label"].describe()"""


def write_upload_files(bundle: Path, config: KaggleConfig, output: Path) -> None:
    """Write the notebook and Kaggle's metadata files into a bundle.

    These files depend on title, owner, competition and hours; nothing that predicts does.

    Args:
        bundle: the exported folder.
        config: the `kaggle` section.
        output: a copy of the metadata of the data set.
    """
    wheel = next(bundle.glob("unmask-*.whl"))
    write_json(build_notebook(config, wheel.name), bundle / NOTEBOOK)
    write_json(notebook_metadata(config), bundle / "kernel-metadata.json")
    write_json(dataset_metadata(config), bundle / "dataset-metadata.json")
    write_json(dataset_metadata(config), output)


def build_notebook(config: KaggleConfig, wheel: str) -> dict[str, Any]:
    """Return the notebook in nbformat 4.5.

    Args:
        config: title, owner and hours are used.
        wheel: file name of the project's wheel, by which the notebook finds the bundle.
    """
    data_set = f"{config.owner}/{config.slug}"
    title = _TITLE.format(title=config.title, data_set=data_set)
    code = (_FIND.format(wheel=wheel), _PREDICT.format(hours=config.hours), _CHECK)
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "source": title}]
    cells += [
        {"cell_type": "code", "source": one, "execution_count": None, "outputs": []} for one in code
    ]
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "cells": [
            {"id": f"cell-{number}", "metadata": {}} | cell for number, cell in enumerate(cells)
        ],
    }


def notebook_metadata(config: KaggleConfig) -> dict[str, Any]:
    """Return `kernel-metadata.json`, for `kaggle kernels push`."""
    return {
        "id": f"{config.owner}/{config.slug}",
        "title": config.title,
        "code_file": NOTEBOOK,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        # The PyTorch of Kaggle's image has no code for a P100.
        "machine_shape": "NvidiaTeslaT4",
        "enable_internet": False,
        "dataset_sources": [f"{config.owner}/{config.slug}"],
        "competition_sources": [config.competition],
        "kernel_sources": [],
        "model_sources": [],
    }


def dataset_metadata(config: KaggleConfig) -> dict[str, Any]:
    """Return `dataset-metadata.json`, for `kaggle datasets create`."""
    return {
        "title": config.title,
        "id": f"{config.owner}/{config.slug}",
        "licenses": [{"name": "other"}],
    }
