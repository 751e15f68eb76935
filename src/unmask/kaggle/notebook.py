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
    data_set = f"{config.owner}/{config.slug}"
    notebook = {
        "id": data_set,
        "title": config.title,
        "code_file": NOTEBOOK,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        # The PyTorch of Kaggle's image has no code for a P100.
        "machine_shape": "NvidiaTeslaT4",
        "enable_internet": False,
        "dataset_sources": [data_set],
        "competition_sources": [config.competition],
        "kernel_sources": [],
        "model_sources": [],
    }
    bundle_metadata = {"title": config.title, "id": data_set, "licenses": [{"name": "other"}]}
    wheel = next(bundle.glob("unmask-*.whl"))
    write_json(_build_notebook(config, data_set, wheel.name), bundle / NOTEBOOK)
    write_json(notebook, bundle / "kernel-metadata.json")  # for `kaggle kernels push`
    write_json(bundle_metadata, bundle / "dataset-metadata.json")  # for `kaggle datasets create`
    write_json(bundle_metadata, output)


def _build_notebook(config: KaggleConfig, data_set: str, wheel: str) -> dict[str, Any]:
    """Return the notebook in nbformat 4.5; it finds the bundle by the name of our wheel."""
    title = _TITLE.format(title=config.title, data_set=data_set)
    code = (_FIND.format(wheel=wheel), _PREDICT.format(hours=config.hours), _CHECK)
    cells: list[dict[str, Any]] = [
        {"cell_type": "markdown", "source": title},
        *({"cell_type": "code", "source": x, "execution_count": None, "outputs": []} for x in code),
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
