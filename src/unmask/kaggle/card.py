"""The model card and the README of a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import timm
from jinja2 import Environment, PackageLoader, StrictUndefined

from unmask.config import KaggleConfig
from unmask.evaluation.metrics import Metrics
from unmask.evaluation.results import ExperimentShifts
from unmask.files import read_json
from unmask.inference.records import MemberRecord, Parity
from unmask.kaggle.choice import Shipped
from unmask.kaggle.notebook import NOTEBOOK
from unmask.tables import SPLITS, read_table
from unmask.vocabulary import Status

CARD = "MODEL_CARD.md"


def write_card(
    ledger: Path,
    splits: Path,
    shifts: Sequence[Path],
    members: Sequence[MemberRecord],
    shipped: Shipped,
    kaggle: KaggleConfig,
    parity: Parity,
    folder: Path,
) -> None:
    """Write `MODEL_CARD.md` and `README.md` into the bundle's folder.

    Args:
        ledger: `ledger.json`.
        splits: the split table.
        shifts: `shifts.json` of all experiments; empty without the shift suite.
        members: the shipped models.
        shipped: name and metrics of the experiment or ensemble.
        kaggle: prior, clip and precision.
        parity: effect of the precision.
        folder: of the bundle.
    """
    counts, table = json.loads(ledger.read_text()), read_table(splits, SPLITS)
    shifted = [read_json(path, ExperimentShifts) for path in shifts]
    for name in (CARD, "README.md"):
        text = _ENVIRONMENT.get_template(f"{name}.j2").render(
            ledger=counts,
            unusable={name: n for name, n in counts["statuses"].items() if name != Status.OK},
            groups=table["group"].nunique(),
            folds=table["fold"].nunique(),
            shifts=[one for one in shifted if one.experiment in shipped.weights],
            members=members,
            shipped=shipped,
            kaggle=kaggle,
            parity=parity,
            notebook=NOTEBOOK,
            card=CARD,
        )
        (folder / name).write_text(text, encoding="utf-8")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())


def _metric(metrics: Metrics, name: str) -> str:
    """Return a metric with its interval."""
    value = metrics.values()[name]
    if value is None:
        return "?"
    low, high = metrics.intervals[name]
    return f"{value:.3f}" + ("" if low is None or high is None else f" ({low:.3f}–{high:.3f})")


def _licence(backbone: str) -> str:
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    return (config.license if config else None) or "see where its weights are from"


_ENVIRONMENT = Environment(
    loader=PackageLoader("unmask.kaggle"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {"counts": _counts, "metric": _metric, "licence": _licence}
