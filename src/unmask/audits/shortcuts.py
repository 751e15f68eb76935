"""Metadata shortcuts: how well container metadata alone separates FAKE from REAL.

What a classifier of metadata can learn, a detector can learn too, instead of looking at faces.
DFDC's own videos are hardly separable this way (AUC 0.54 by the number of frames), but data sets
whose fakes went through another encoder can be perfectly separable.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold

from unmask.config import AuditsConfig
from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.report.style import COLORS, GRAY, WIDTH, create_axes, draw_intervals, save
from unmask.tables import SHOWN, SPLITS, VIDEOS, read_table
from unmask.vocabulary import Label

logger = logging.getLogger(__name__)

_COLUMNS = [
    *("file_size", "video_width", "video_height", "video_nb_frames", "video_bit_rate"),
    *("video_duration", "video_start_time", "video_fps", "video_rotation", "video_keyframes"),
    *("video_has_b_frames", "audio_channels", "audio_sample_rate", "audio_nb_frames"),
    *("audio_bit_rate", "audio_duration", "audio_start_time"),
    *("format", "video_codec_name", "video_pix_fmt", "audio_codec_name"),
    *("video_streams", "video_stream_index", "video_color_range", "video_color_space", *SHOWN),
]
_FOLDS = 5
_RESAMPLES = 500
_MAX_CATEGORIES = 50
_MAX_BARS = 12  # columns in the figure


@dataclass(frozen=True)
class Area:
    """A cross-validated area under the ROC curve with its 95 % interval; 0.5 is chance."""

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Shortcuts:
    """How well metadata separates the labels."""

    videos: int
    groups: int
    together: Area | None  # of all columns; None if it cannot be measured
    columns: dict[str, Area]  # of each column alone, the largest area first
    reason: str = ""  # why nothing can be measured


def audit_shortcuts(
    ledger: Path, splits: Path, config: AuditsConfig, seed: int, output: Path, figure: Path
) -> None:
    """Measure how well the container metadata of the split's videos predicts their labels.

    Args:
        ledger: `results/videos.parquet`.
        splits: `results/splits.parquet`, for its groups.
        config: the `audits` section.
        seed: the configuration's seed.
        output: JSON of the areas.
        figure: SVG of the areas.

    Raises:
        UnmaskError: the area exceeds `audits.shortcut_auc`, and `audits.on_shortcut` is `stop`.
    """
    groups = read_table(splits, SPLITS)[["part", "video", "group"]]
    videos = read_table(ledger, VIDEOS).merge(groups, on=["part", "video"])
    videos = videos[videos["video_codec_name"].notna() & videos["label"].isin(list(Label))]
    columns = videos[_COLUMNS].assign(has_audio=videos["audio_codec_name"].notna())
    fake = (videos["label"] == Label.FAKE).to_numpy(dtype=bool)
    found = find_shortcuts(columns, fake, list(videos["group"]), seed)
    area, limit = found.together, config.shortcut_auc
    # The lower end, so that a few dozen videos raise no false alarm.
    leaks = area is not None and area.low > limit
    write_json({"limit": limit, "leaks": leaks, **asdict(found)}, output)
    save(draw_shortcuts(found, limit), figure)
    logger.info("%s", found.reason or f"{found.videos} videos: {area}")
    if area is not None and leaks:
        best = next(iter(found.columns))
        message = (
            f"container metadata alone separates FAKE from REAL: AUC {area.auc:.2f} "
            f"({area.low:.2f} to {area.high:.2f}), limit {limit:g} (audits.shortcut_auc); "
            f"best column {best} ({found.columns[best].auc:.2f})"
        )
        if config.on_shortcut == "stop":
            raise UnmaskError(
                f"{message}; encode both labels alike, or set audits.on_shortcut: warn"
            )
        logger.warning("%s", message)


def find_shortcuts(
    features: pd.DataFrame, fake: NDArray[np.bool_], groups: Sequence[str], seed: int
) -> Shortcuts:
    """Measure how well columns separate FAKE from REAL, all together and each alone.

    Gradient-boosted trees predict out of fold, so noise has an area of 0.5. Only videos of the same
    fold are compared with each other, because scores of different models are not comparable. The
    bootstrap is over groups, because the videos of a group are not independent.

    Args:
        features: (n, columns) numbers, booleans and strings, with missing values.
        fake: (n,).
        groups: (n,) names; a group is kept in one fold.
        seed: of the folds and of the bootstrap.
    """
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    features = _as_features(features)
    fake_groups, real_groups = (len(np.unique(codes[fake == value])) for value in (True, False))

    def unmeasured(reason: str) -> Shortcuts:
        reason = f"cannot be measured: {reason}"
        return Shortcuts(len(fake), len(np.unique(codes)), None, {}, reason)

    if min(fake_groups, real_groups) < 2:
        return unmeasured(f"{fake_groups} groups with a FAKE, {real_groups} with a REAL")
    if features.empty:
        return unmeasured("no column has two values")
    splits = min(_FOLDS, fake_groups, real_groups)
    splitter = StratifiedGroupKFold(splits, shuffle=True, random_state=seed)
    fold = np.empty(len(fake), dtype=int)
    for number, (_, held_out) in enumerate(splitter.split(features, fake, codes)):
        fold[held_out] = number
    if not any(0 < fake[fold == number].mean() < 1 for number in np.unique(fold)):
        return unmeasured("no fold has both labels")

    def measure(columns: list[str]) -> Area:
        scores = _predict_out_of_fold(features[columns], fake, fold, seed)
        return _area_with_interval(scores, fake, fold, codes, seed)

    names = [str(column) for column in features]
    alone = {name: measure([name]) for name in names}
    together = measure(names) if len(names) > 1 else alone[names[0]]
    ranked = dict(sorted(alone.items(), key=lambda item: -item[1].auc))
    return Shortcuts(len(fake), len(np.unique(codes)), together, ranked)


def _as_features(table: pd.DataFrame) -> pd.DataFrame:
    """Return numbers as float64 and strings as categories, without constant columns.

    A missing value counts as a value: below all numbers, or as a category of its own. (The trees
    accept missing values, but fail on a column whose training values are all missing.)
    """
    columns: dict[str, pd.Series] = {}
    for name, values in table.items():
        if values.nunique(dropna=False) < 2:
            continue
        known = values.dropna()
        if known.map(lambda value: isinstance(value, str)).any():
            common = known.value_counts().index[:_MAX_CATEGORIES]
            strings = values.astype("object").where(values.isin(common), "other")
            columns[str(name)] = strings.where(values.notna(), "none").astype("category")
        else:
            numbers = values.astype("float64")
            columns[str(name)] = numbers.fillna(numbers.min() - 1)
    return pd.DataFrame(columns, index=table.index)


def _predict_out_of_fold(
    features: pd.DataFrame, fake: NDArray[np.bool_], fold: NDArray[np.int_], seed: int
) -> NDArray[np.float64]:
    scores = np.full(len(fake), 0.5)
    for number in np.unique(fold):
        train = fold != number
        model = HistGradientBoostingClassifier(
            max_iter=60,
            max_leaf_nodes=15,
            # The default of 20 makes no split at all in a few dozen videos.
            min_samples_leaf=int(np.clip(train.sum() // 20, 2, 20)),
            early_stopping=False,
            categorical_features="from_dtype",
            random_state=seed,
        )
        if len(np.unique(fake[train])) == 2:
            model.fit(features[train], fake[train])
            scores[~train] = model.predict_proba(features[~train])[:, 1]
    return scores


def _area_with_interval(
    scores: NDArray[np.float64],
    fake: NDArray[np.bool_],
    fold: NDArray[np.int_],
    group: NDArray[np.int_],
    seed: int,
) -> Area:
    # Ranks by fold, then by score in [0, 1]: one sort serves all resamples.
    rank = np.unique(2 * fold + scores, return_inverse=True)[1]
    fold_of_rank = np.zeros(rank.max() + 1, dtype=int)
    fold_of_rank[rank] = fold

    def auc(weights: NDArray[np.float64]) -> float:
        fakes = np.bincount(rank, weights * fake)
        reals = np.bincount(rank, weights * ~fake)
        reals_of_fold = np.bincount(fold_of_rank, reals)
        before = np.concatenate([[0.0], np.cumsum(reals_of_fold)])[fold_of_rank]
        below = np.cumsum(reals) - reals - before
        pairs = float(np.bincount(fold_of_rank, fakes) @ reals_of_fold)
        return float(fakes @ (below + reals / 2)) / pairs if pairs else np.nan

    rng = np.random.default_rng(seed)
    groups = int(group.max()) + 1
    drawn = (
        np.bincount(rng.integers(groups, size=groups), minlength=groups) for _ in range(_RESAMPLES)
    )
    areas = [auc(counts[group].astype(float)) for counts in drawn]
    low, high = np.nanpercentile(areas, [2.5, 97.5])
    return Area(auc(np.ones(len(fake))), float(low), float(high))


def draw_shortcuts(found: Shortcuts, limit: float) -> Figure:
    """Draw the areas with their 95 % intervals: all columns together, then the best columns."""
    areas = {} if found.together is None else {"all columns": found.together}
    areas |= dict(list(found.columns.items())[:_MAX_BARS])
    title, label = "Metadata shortcuts", "ROC AUC of container metadata, cross-validated"
    size = (WIDTH, 1.9 + 0.34 * max(3, len(areas)))
    figure, axes = create_axes(title, label, size=size)
    if not areas:
        axes.text(0.5, 0.5, found.reason, ha="center", transform=axes.transAxes, wrap=True)
        axes.set_yticks([])
        return figure
    rows = pd.DataFrame(map(vars, areas.values())).rename(columns={"auc": "value"})
    rows = rows.assign(name=list(areas), caption=rows["value"].map("{:.2f}".format))
    colors = {True: COLORS[Label.FAKE], False: COLORS[Label.REAL]}
    draw_intervals(axes, rows.assign(color=(rows["low"] > limit).map(colors)))
    axes.axvline(0.5, color=GRAY, linestyle=":", label="chance")
    axes.axvline(limit, color=COLORS[Label.FAKE], linestyle="--", label="limit")
    axes.set_xlim(0.2, 1.02)
    figure.legend(loc="outside lower center", ncols=2)
    return figure
