"""Shortcuts: whether what containers say about videos already tells FAKE from REAL.

A classifier of container metadata alone, cross-validated by group, is what a model could cheat
with: by frame count alone, DFDC's own videos can be told apart a little (AUC 0.54), and data sets
whose fakes went through another encoder can be told apart completely.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold

from unmask.config import AuditsConfig
from unmask.errors import UnmaskError
from unmask.files import write_json
from unmask.tables import SPLITS, VIDEOS, read_table
from unmask.vocabulary import Label

logger = logging.getLogger(__name__)

NUMBERS = (
    *("file_size", "video_width", "video_height", "video_nb_frames", "video_bit_rate"),
    *("video_duration", "video_start_time", "video_fps", "video_rotation", "video_keyframes"),
    *("video_has_b_frames", "audio_channels", "audio_sample_rate", "audio_nb_frames"),
    *("audio_bit_rate", "audio_duration", "audio_start_time"),
)
NAMES = ("format", "video_codec_name", "video_pix_fmt", "audio_codec_name")
_FOLDS = 5
_RESAMPLES = 500
_CONFIDENCE = 0.95
_COMMON_NAMES = 50


@dataclass(frozen=True)
class Area:
    """An area under the ROC curve, cross-validated.

    Attributes:
        auc: the share of pairs of a FAKE and a REAL that are ordered rightly; 0.5 is chance.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    auc: float
    low: float
    high: float


@dataclass(frozen=True)
class Shortcuts:
    """What container metadata tells.

    Attributes:
        videos: videos looked at.
        groups: groups they belong to.
        together: of all columns; None where it cannot be measured.
        columns: of each column alone, the most telling first.
        reason: why it cannot be measured; empty where it can.
    """

    videos: int
    groups: int
    together: Area | None
    columns: dict[str, Area]
    reason: str = ""


def find_shortcuts(
    features: pd.DataFrame, fake: NDArray[np.bool_], groups: Sequence[str], seed: int
) -> Shortcuts:
    """Measure how well columns tell FAKE from REAL, all together and each alone.

    Predictions are out of fold (gradient-boosted trees, so the direction of an effect and its shape
    are learnt from other groups than those it is measured on: noise stays at 0.5). Only videos of
    one fold are compared with each other, because the answers of two models do not compare. The
    interval is a bootstrap over groups, whose videos are not independent.

    Args:
        features: one row per video; numbers, booleans and strings, any of them may be missing.
        fake: (n,) whether each is FAKE.
        groups: (n,) what must not be on both sides.
        seed: of the folds and of the bootstrap.
    """
    codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    features = _comparable(features)
    result = Shortcuts(len(fake), len(np.unique(codes)), None, {})
    of_label = [len(np.unique(codes[fake == value])) for value in (True, False)]
    if min(of_label) < 2:
        return _unmeasured(result, f"{of_label[0]} groups with a FAKE, {of_label[1]} with a REAL")
    if features.empty:
        return _unmeasured(result, "no column has two values")
    splitter = StratifiedGroupKFold(min(_FOLDS, *of_label), shuffle=True, random_state=seed)
    fold = np.empty(len(fake), dtype=int)
    for number, (_, held_out) in enumerate(splitter.split(features, fake, codes)):
        fold[held_out] = number
    if not any(0 < fake[fold == number].mean() < 1 for number in np.unique(fold)):
        return _unmeasured(result, "no fold has both labels")

    def area(columns: list[str]) -> Area:
        answers = _out_of_fold(features[columns], fake, fold, seed)
        return _area(answers, fake, fold, codes, seed)

    names = [str(column) for column in features]
    alone = {name: area([name]) for name in names}
    together = area(names) if len(names) > 1 else alone[names[0]]
    ranked = dict(sorted(alone.items(), key=lambda item: -item[1].auc))
    return Shortcuts(result.videos, result.groups, together, ranked)


def _unmeasured(result: Shortcuts, reason: str) -> Shortcuts:
    return Shortcuts(result.videos, result.groups, None, {}, f"cannot be measured: {reason}")


def _comparable(features: pd.DataFrame) -> pd.DataFrame:
    """Return columns that trees take: numbers as float, names as categories, none that is constant.

    A column that is only there for some videos is not constant: absence is a value as well, below
    all others. (Trees know missing values, but fail where all that they learn from are missing.)
    """
    columns: dict[str, pd.Series] = {}
    for name in features:
        values = features[name]
        if values.nunique(dropna=False) < 2:
            continue
        if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
            columns[str(name)] = _filled(values.astype("float64"))
        elif values.dropna().map(lambda value: isinstance(value, bool)).all():
            columns[str(name)] = _filled(pd.to_numeric(values.map({True: 1.0, False: 0.0})))
        else:
            known = values.astype("object").where(values.notna(), "none")
            common = known.value_counts().index[:_COMMON_NAMES]
            columns[str(name)] = known.where(known.isin(common), "other").astype("category")
    return pd.DataFrame(columns, index=features.index)


def _filled(values: pd.Series) -> pd.Series:
    return values.fillna(values.min() - 1)


def _out_of_fold(
    features: pd.DataFrame, fake: NDArray[np.bool_], fold: NDArray[np.int_], seed: int
) -> NDArray[np.float64]:
    answers = np.full(len(fake), np.nan)
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
        if len(np.unique(fake[train])) < 2:
            answers[~train] = 0.5
        else:
            model.fit(features[train], fake[train])
            answers[~train] = model.predict_proba(features[~train])[:, 1]
    return answers


def _area(
    answers: NDArray[np.float64],
    fake: NDArray[np.bool_],
    fold: NDArray[np.int_],
    group: NDArray[np.int_],
    seed: int,
) -> Area:
    # Answers as ranks that grow with the fold (answers are in [0, 1]): one sort for all resamples.
    rank = np.unique(2 * fold + answers, return_inverse=True)[1]
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
    count = int(group.max()) + 1
    resampled = []
    for _ in range(_RESAMPLES):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        resampled.append(auc(drawn[group].astype(float)))
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.nanpercentile(resampled, [tail, 100 - tail])
    return Area(auc(np.ones(len(fake))), float(low), float(high))


def audit_shortcuts(
    ledger: Path, splits: Path, config: AuditsConfig, seed: int, output: Path
) -> None:
    """Write what the containers of the split's videos tell about their labels.

    Args:
        ledger: `results/videos.parquet`.
        splits: `results/splits.parquet`, for its groups.
        config: the `audits` section.
        seed: the configuration's seed.
        output: JSON of the areas, those of single columns in order.

    Raises:
        UnmaskError: the containers tell more than the configuration allows, and it says `stop`.
    """
    groups = read_table(splits, SPLITS)[["part", "video", "group"]]
    videos = read_table(ledger, VIDEOS).merge(groups, on=["part", "video"])
    videos = videos[videos["video_codec_name"].notna() & videos["label"].isin(list(Label))]
    columns = videos[[*NUMBERS, *NAMES]].assign(has_audio=videos["audio_codec_name"].notna())
    fake = (videos["label"] == Label.FAKE).to_numpy(dtype=bool)
    found = find_shortcuts(columns, fake, list(videos["group"]), seed)
    # By the lower end, so that a few dozen videos raise no false alarm.
    leaks = found.together is not None and found.together.low > config.shortcut_auc
    report = {"limit": config.shortcut_auc, "leaks": leaks, **asdict(found)}
    write_json(report, output)
    logger.info("%s", found.reason or f"{found.videos} videos: {found.together}")
    if leaks:
        _tell(found, config)


def _tell(found: Shortcuts, config: AuditsConfig) -> None:
    assert found.together is not None
    area, most = found.together, next(iter(found.columns))
    said = (
        f"container metadata alone tells FAKE from REAL: AUC {area.auc:.2f} "
        f"({area.low:.2f} to {area.high:.2f}), limit {config.shortcut_auc:g} "
        f"(audits.shortcut_auc); most by {most} ({found.columns[most].auc:.2f})"
    )
    if config.on_shortcut == "stop":
        raise UnmaskError(
            f"{said}; make both labels with one encoder, or set audits.on_shortcut: warn"
        )
    logger.warning("%s", said)
