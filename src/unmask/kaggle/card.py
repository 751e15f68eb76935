"""The model card: what a bundle was made from, how good it is, and what not to use it for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm

from unmask.config import KaggleConfig
from unmask.evaluation.metrics import Metrics
from unmask.evaluation.results import ExperimentShifts
from unmask.files import read_json
from unmask.inference.records import MemberRecord, Parity
from unmask.tables import SPLITS, read_table
from unmask.vocabulary import Status

CARD = "MODEL_CARD.md"

_CARD = """# {title}: model card

Answers a video with the probability that a face in it was manipulated.

## Models

| experiment | backbone | input | models | weight |
|---|---|---|---|---|
{models}

## Data

{videos:,} videos, of which {usable:,} could be used ({labels}); the others: {others}. They are in
{groups:,} groups and {folds} folds, and no group is in two. Each model trained on {trained}
of the folds, chose epoch, aggregation and calibration on one, and is measured on one that it has
never seen.

## What to expect

| on | log loss | best constant answer | AUC |
|---|---|---|---|
{figures}

Intervals are 95 %, by bootstrap over groups. {shifts}The figures are of people and cameras like
those of the training data. Competitors of the DeepFake Detection Challenge measured .10 to .25 on
their own held-out videos and got .43 on the private test set, whose videos came from elsewhere:
expect the worst line here, not the best.

{worst}

Answers assume that a share of {prior:g} of the videos is FAKE, and stay within [{clip:g},
{most:g}]. A video without a face is answered with that share. The weights are shipped as
{precision}; on {compared} videos of the training data that changed no answer by more than
{change:.1e}.

## Limits

- It says how likely a manipulation is under the data above. It is no proof of anything about a
  person, and no reason to act against one without a look at the video.
- Ways to fake that the data lacks may pass unnoticed. So may faces that are small, dark or turned
  away; sound is not listened to.

## Licences

- unmask: Apache-2.0.
- Weights: {licences}. What they may be used for is bound to the terms of the data that they were
  trained on; DFDC and FaceForensics++ are for research.
- Detector and packages: `licences` in `manifest.json`.
"""


@dataclass(frozen=True)
class CardSources:
    """Tables of the run that the card tells of.

    Attributes:
        ledger: `ledger.json`.
        splits: the split table.
        shifts: `shifts.json` of all experiments; none where the shift suite is off.
    """

    ledger: Path
    splits: Path
    shifts: list[Path]


def write_card(
    sources: CardSources,
    members: Sequence[MemberRecord],
    test: Metrics,
    worst_group: str,
    config: KaggleConfig,
    parity: Parity,
    output: Path,
) -> None:
    """Write the model card as Markdown.

    Args:
        sources: what the models were made from.
        members: as the manifest describes them.
        test: test metrics with intervals.
        worst_group: the subgroup with the highest log loss, described; empty where none is known.
        config: title, prior, clip and precision are told.
        parity: what the precision changes.
        output: the file.
    """
    ledger = json.loads(sources.ledger.read_text())
    splits = read_table(sources.splits, SPLITS)
    statuses = {name: n for name, n in ledger["statuses"].items() if name != Status.OK}
    experiments = {one.experiment for one in members}
    shifts = [
        one
        for one in (read_json(path, ExperimentShifts) for path in sources.shifts)
        if one.experiment in experiments
    ]
    folds = splits["fold"].nunique()
    text = _CARD.format(
        title=config.title,
        models=_rows(_model_rows(members)),
        videos=ledger["videos"],
        usable=sum(ledger["usable"].values()),
        labels=_counts(ledger["usable"]),
        others=_counts(statuses) or "none",
        groups=splits["group"].nunique(),
        folds=folds,
        trained=folds - 2,
        figures=_rows(_figure_rows(test, shifts)),
        shifts="" if shifts else "The shift suite was not run (`evaluation.shift_videos`). ",
        worst=f"The worst group: {worst_group}." if worst_group else "",
        prior=config.prior,
        clip=config.clip,
        most=1 - config.clip,
        precision=config.precision,
        compared=parity.videos,
        change=parity.largest_change,
        licences=", ".join(
            f"`{name}` {_licence(name)}" for name in sorted({one.backbone for one in members})
        ),
    )
    output.write_text(text, encoding="utf-8")


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())


def _model_rows(members: Sequence[MemberRecord]) -> Iterator[tuple[str, ...]]:
    for experiment in dict.fromkeys(one.experiment for one in members):
        of = [one for one in members if one.experiment == experiment]
        size, weight = of[0].image_size, sum(one.weight for one in of)
        yield (
            *(experiment, f"`{of[0].backbone}`", f"{size} × {size}"),
            *(", ".join(one.model for one in of), f"{weight:.2f}"),
        )


def _figure_rows(test: Metrics, shifts: Sequence[ExperimentShifts]) -> Iterator[tuple[str, ...]]:
    yield (
        "people that the models have not seen",
        _with_interval(test, "log_loss"),
        f"{test.constant_log_loss:.3f}",
        _with_interval(test, "roc_auc"),
    )
    for one in shifts:
        role, name = one.test, one.experiment
        constant = f"{role.clean.constant_log_loss:.3f}"
        for on, loss in (
            (f"`{name}`, clips changed as a test set's are", role.mean_log_loss),
            (f"`{name}`, the worst change ({role.worst})", role.shifts[role.worst].log_loss),
        ):
            yield on, f"{loss:.3f}", constant, ""


def _with_interval(test: Metrics, name: str) -> str:
    value = test.values()[name]
    if value is None:
        return "?"
    low, high = test.intervals[name]
    known = "" if low is None or high is None else f" ({low:.3f}–{high:.3f})"
    return f"{value:.3f}{known}"


def _licence(backbone: str) -> str:
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    return (config.license if config else None) or "see where its weights are from"
