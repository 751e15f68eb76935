"""Pages of the exploratory report: self-contained HTML that works without a network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from unmask.report.style import COLORS
from unmask.vocabulary import Label

SECONDS = 6.0

_STYLE = f"""
body {{ font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem;
  color: #222; background: #fff; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left;
  white-space: nowrap; }}
th {{ background: #f3f3f3; position: sticky; top: 0; }}
.number {{ text-align: right; }}
.REAL {{ color: {COLORS[Label.REAL]}; font-weight: 600; }}
.FAKE {{ color: {COLORS[Label.FAKE]}; font-weight: 600; }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 0.5rem; }}
figure {{ margin: 0; min-width: 0; }} video {{ width: 100%; background: #000; }}
img {{ max-width: 100%; }}
figcaption {{ font-size: 0.85rem; overflow-wrap: anywhere; }}
.controls {{ display: flex; gap: 0.6rem; align-items: center; margin: 0.3rem 0 1.5rem; }}
.controls input {{ flex: 1; min-width: 0; }}
button, select {{ font: inherit; padding: 0.25rem 0.8rem; }}
@media print {{ .controls {{ display: none; }} }}
"""

# The fake follows its original: same start, same speed, put right where they drift apart.
_SCRIPT = """
for (const box of document.querySelectorAll('.box')) {
  const [first, second] = box.querySelectorAll('video');
  const [button, slider, speed] = box.querySelectorAll('button, input, select');
  const both = action => { action(first); action(second); };
  button.onclick = () => {
    if (first.paused) { second.currentTime = first.currentTime; both(v => v.play()); }
    else both(v => v.pause());
  };
  first.onplay = () => { button.textContent = 'Pause'; };
  first.onpause = () => { button.textContent = 'Play'; second.pause(); };
  slider.oninput = () => both(v => {
    v.pause(); v.currentTime = slider.value * Math.min(first.duration, second.duration) / 1000; });
  speed.onchange = () => both(v => { v.playbackRate = Number(speed.value); });
  const follow = () => {
    if (!first.paused && Math.abs(first.currentTime - second.currentTime) > 0.06)
      second.currentTime = first.currentTime;
    if (first.duration) slider.value = 1000 * first.currentTime / first.duration;
    requestAnimationFrame(follow);
  };
  first.onended = () => { both(v => { v.currentTime = 0; v.play(); }); };
  follow();
}
"""


@dataclass(frozen=True)
class Pair:
    """An original and one of its fakes, as small clips.

    Attributes:
        original: file name of the REAL.
        fake: file name of the FAKE.
        clips: both as MP4, the original first.
    """

    original: str
    fake: str
    clips: tuple[bytes, bytes]


def pairs_page(pairs: Sequence[Pair]) -> str:
    """Return a page that plays each original beside its fake, in step."""
    boxes = "".join(_pair(pair) for pair in pairs)
    if not pairs:
        boxes = "<p>No FAKE whose original can be read.</p>"
    intro = (
        f"<p>The first {SECONDS:g} seconds at most, made small and silent: to see what was "
        "changed, not to judge artefacts.</p>"
    )
    return _page("Originals and fakes", intro + boxes, _SCRIPT)


def _pair(pair: Pair) -> str:
    figures = "".join(
        f'<figure><video muted playsinline preload="auto" src="data:video/mp4;base64,'
        f'{base64.b64encode(clip).decode()}"></video>'
        f'<figcaption><span class="{label}">{label}</span> {escape(name)}</figcaption></figure>'
        for label, name, clip in zip(Label, (pair.original, pair.fake), pair.clips, strict=True)
    )
    speeds = "".join(
        f'<option value="{speed}"{" selected" if speed == 1 else ""}>{speed}×</option>'
        for speed in (0.25, 0.5, 1)
    )
    return (
        f'<div class="box"><div class="pair">{figures}</div><div class="controls">'
        '<button type="button">Play</button><input type="range" max="1000" value="0" '
        f'aria-label="position"><select aria-label="speed">{speeds}</select></div></div>'
    )


def metadata_page(sections: Sequence[tuple[str, str, pd.DataFrame]]) -> str:
    """Return a page of tables: a heading, a sentence and the rows of each."""
    body = "".join(
        f'<h2>{escape(title)}</h2><p>{escape(text)}</p><div class="wide">{_table(rows)}</div>'
        for title, text, rows in sections
    )
    return _page("Metadata", body)


def pictures_page(title: str, sections: Sequence[tuple[str, str, bytes]]) -> str:
    """Return a page of pictures: a heading, a sentence and a JPEG each, in the page itself."""
    body = "".join(
        f'<h2>{escape(heading)}</h2><p>{escape(text)}</p><img alt="{escape(heading)}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}">'
        for heading, text, picture in sections
    )
    return _page(title, body)


# With fewer groups, intervals of the log loss cover less than they say.
_ENOUGH_GROUPS = 30
_FEW = f" With fewer than {_ENOUGH_GROUPS} groups the intervals are too narrow."

# What stands first on an experiment's page, with its words; the rest keeps its key.
_METRICS = {
    "log_loss": "log loss",
    "constant_log_loss": "log loss of the best constant answer",
    "roc_auc": "AUC",
    "average_precision": "average precision",
    "accuracy": "accuracy at one half",
    "eer": "equal error rate",
    "tpr_at_fpr_0.1": "FAKE found at 0.1 % false alarms",
    "tpr_at_fpr_1": "FAKE found at 1 % false alarms",
    "tpr_at_fpr_5": "FAKE found at 5 % false alarms",
    "log_weighted_precision_10": "log weighted precision, 10 % found",
    "log_weighted_precision_50": "log weighted precision, 50 % found",
    "log_weighted_precision_90": "log weighted precision, 90 % found",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "miscalibration": "of the log loss: miscalibration",
    "discrimination": "of the log loss: gained by telling apart",
    "count": "answers",
    "fake": "of them FAKE",
    "without_face": "of them without a face",
    "groups": "groups (families or identities)",
}


def experiment_page(metrics: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """Return one experiment's page: metrics with intervals, groups, readouts, figures.

    Args:
        metrics: the content of `metrics.json`.
        figures: heading to SVG.
    """
    columns = {
        "videos": metrics["test"],
        "not calibrated": metrics["test_uncalibrated"],
        "select role": metrics["val"],
        "people": metrics["people"],
        "faces": metrics["faces"],
    }
    rows = [
        {"": words, **{name: _with_interval(column, key) for name, column in columns.items()}}
        for key, words in _METRICS.items()
    ]
    groups = pd.DataFrame(
        [
            {
                "by": one["by"],
                "group": one["name"],
                "videos": one["count"],
                "FAKE": one["fake"],
                "log loss": one["log_loss"],
                "95 %": _ends(one["log_loss_interval"]),
                "best constant": one["constant_log_loss"],
                "AUC": one["roc_auc"],
            }
            for one in metrics["subgroups"]
        ]
    )
    readouts = pd.DataFrame(
        [
            {
                "model": name,
                "faces become": one["aggregate"],
                "calibration": one["calibrate"],
                "slope": one["calibration"]["slope"],
                "intercept": one["calibration"]["intercept"],
                "clip": one["calibration"]["clip"],
            }
            for name, one in metrics["readouts"].items()
        ]
    )
    few = metrics["test"]["groups"] < _ENOUGH_GROUPS
    worst = metrics["worst_subgroup"]
    body = _section(
        "Metrics",
        "Videos, people and faces of the report role, on which nothing was chosen; in brackets "
        "95 % intervals over groups that share nobody. The select role, on which the epoch was "
        "chosen, is answered by calibrations that have not seen the video." + (_FEW if few else ""),
        pd.DataFrame(rows),
    )
    body += _section("Groups", f"Worst: {worst}." if worst else "", groups)
    body += _section(
        "How faces become answers", "Chosen and fitted on each model's select role alone.", readouts
    )
    for heading, picture in figures.items():
        source = f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"
        body += f'<h2>{escape(heading)}</h2><img alt="{escape(heading)}" src="{source}">'
    return _page(str(metrics["experiment"]), body)


def comparison_page(
    comparison: pd.DataFrame,
    differences: Sequence[Mapping[str, Any]],
    ensemble: Mapping[str, Any] | None,
    figure: bytes,
) -> str:
    """Return the page that compares experiments.

    Args:
        comparison: the rows of `comparison.csv`, the best on the select role first.
        differences: from the first, see `unmask.evaluation.compare.Difference`.
        ensemble: what `compare` says of the ensemble; None where there is none.
        figure: SVG.
    """
    rows = [
        {
            "experiment": one["experiment"],
            "log loss": _number(one["test_log_loss"]),
            "95 %": _ends([one["test_log_loss_low"], one["test_log_loss_high"]]),
            "best constant": _number(one["test_constant_log_loss"]),
            "AUC": _number(one["test_roc_auc"]),
            "AUC, 95 %": _ends([one["test_roc_auc_low"], one["test_roc_auc_high"]]),
            "select role": _number(one["val_log_loss"]),
            "videos": one["test_count"],
            "groups": one["test_groups"],
        }
        for one in comparison.to_dict("records")
    ]
    body = _section(
        "Experiments",
        "On videos of the report role. The order is that of the select role: the report role "
        "chooses nothing. No constant answer beats the one given."
        + (_FEW if comparison["test_groups"].min() < _ENOUGH_GROUPS else ""),
        pd.DataFrame(rows),
    )
    source = f"data:image/svg+xml;base64,{base64.b64encode(figure).decode()}"
    body += f'<img alt="log loss of each experiment" src="{source}">'
    if differences:
        paired = [
            {
                "experiment": one["first"],
                "minus": one["second"],
                "log loss": _number(one["log_loss"]),
                "95 %": _ends(one["log_loss_interval"]),
                "AUC": _number(one["roc_auc"]),
                "AUC, 95 %": _ends(one["roc_auc_interval"]),
                "videos": one["videos"],
            }
            for one in differences
        ]
        body += _section(
            "Paired differences",
            "On the videos that both report on, resampled alike. An interval that holds 0 says "
            "that these videos cannot tell which is better.",
            pd.DataFrame(paired),
        )
    if ensemble is not None:
        members = pd.DataFrame(
            [{"experiment": name, "weight": _number(w)} for name, w in ensemble["weights"].items()]
        )
        report = ensemble["test"]
        text = (
            f"Log loss {report['log_loss']:.3f} {_ends(report['intervals']['log_loss'])} on the "
            "report role, each fold answered with weights from its own select role; "
            f"{ensemble['bytes'] / 1e6:,.0f} MB, {ensemble['seconds_per_video']:.2f} s a video for "
            "the models. The weights of all folds together:"
        )
        body += _section("Ensemble", text, members)
    return _page("Experiments compared", body)


def _section(heading: str, text: str, rows: pd.DataFrame) -> str:
    paragraph = f"<p>{escape(text)}</p>" if text else ""
    return f'<h2>{escape(heading)}</h2>{paragraph}<div class="wide">{_table(rows)}</div>'


def _with_interval(metrics: Mapping[str, Any], key: str) -> str:
    ends = metrics.get("intervals", {}).get(key)
    return f"{_number(metrics.get(key))} {_ends(ends)}".strip()


def _number(value: float | None) -> str:
    if value is None or pd.isna(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _ends(ends: Sequence[float | None] | None) -> str:
    if ends is None or any(end is None or pd.isna(end) for end in ends):
        return ""
    return f"({_number(ends[0])} to {_number(ends[1])})"


def _table(rows: pd.DataFrame) -> str:
    head = "".join(_heading(rows[column]) for column in rows)
    body = "".join(
        f"<tr>{''.join(_cell(value) for value in row)}</tr>"
        for row in rows.itertuples(index=False, name=None)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _heading(column: pd.Series) -> str:
    right = is_numeric_dtype(column) and not is_bool_dtype(column)
    return f"<th{' class=number' if right else ''}>{escape(str(column.name))}</th>"


def _cell(value: object) -> str:
    if value is None or pd.isna(value):  # type: ignore[call-overload]
        return "<td></td>"
    if isinstance(value, bool | np.bool_):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, int | float | np.number):
        whole = float(value).is_integer()
        text = f"{int(value):,}" if whole else f"{float(value):,.4g}"
        return f'<td class="number">{text}</td>'
    text = escape(str(value))
    return f'<td class="{text}">{text}</td>' if text in tuple(Label) else f"<td>{text}</td>"


def _page(title: str, body: str, script: str = "") -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}<script>{script}</script></body></html>\n"
    )
