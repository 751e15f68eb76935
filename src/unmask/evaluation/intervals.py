"""95 % intervals of metrics, from a bootstrap over groups.

An original and its fakes have correlated errors, and so have all videos of a person. Resampling
single videos would treat the errors as independent and make intervals far too narrow. Whole groups
of the split (families, or identities) are drawn instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from unmask.evaluation.metrics import Counts, Interval, finite, metrics_of, row_losses

Floats = NDArray[np.float64]

# Fewer groups have no interval. Its upper end would often be more than ten times its lower end.
FEWEST_GROUPS = 5
_CONFIDENCE = 0.95
# More distinct probabilities than this are merged with their neighbours to save memory. Intervals
# hardly change.
_LEVELS = 4096
_BOOTSTRAP_T_GROUPS = 20
# Resamples that are in memory at once.
_BLOCK = 50


@dataclass(frozen=True)
class Resampling:
    """Draws of whole groups, the same for all metrics and experiments that are compared."""

    group: NDArray[np.int64]  # (n,), the number of each row's group, from 0
    draws: int
    seed: int

    @property
    def groups(self) -> int:
        """Return the number of groups."""
        return int(self.group.max()) + 1

    def weights(self) -> Iterator[Floats]:
        """Yield float64 (groups, up to 50): how often each group was drawn in each resample."""
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.draws, _BLOCK):
            block = min(_BLOCK, self.draws - start)
            drawn = rng.integers(self.groups, size=(block, self.groups))
            drawn += self.groups * np.arange(block)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=block * self.groups)
            yield counts.reshape(block, self.groups).T.astype(np.float64)


def resampling(groups: NDArray[np.object_], draws: int, seed: int = 0) -> Resampling:
    """Return the resampling of rows by the names of their groups."""
    return Resampling(np.unique(groups, return_inverse=True)[1].astype(np.int64), draws, seed)


def resampled_metrics(
    labels: Floats, probabilities: Floats, resampled: Resampling
) -> dict[str, Floats]:
    """Return each metric of `metrics_of` in each resample, float64 (draws,)."""
    levels, level = _levels(probabilities)
    shape = (len(levels), resampled.groups)
    fakes, reals = (
        sparse.csr_array((1.0 * (labels == value), (level, resampled.group)), shape=shape)
        for value in (1, 0)
    )
    blocks = [
        metrics_of(Counts(levels, fakes @ weights, reals @ weights))
        for weights in resampled.weights()
    ]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _levels(probabilities: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return ascending probabilities (levels,) and the level of each row (n,)."""
    levels, level = np.unique(probabilities, return_inverse=True)
    if len(levels) <= _LEVELS:
        return levels, level
    rank = np.argsort(np.argsort(probabilities, kind="stable"), kind="stable")
    merged = rank * _LEVELS // len(probabilities)
    return np.bincount(merged, probabilities) / np.bincount(merged), merged


def interval(values: Floats, groups: int) -> Interval:
    """Return the 95 % interval of a metric from its resamples.

    The expanded percentile interval (Hesterberg, "What Teachers Should Know About the Bootstrap",
    2015, section 5.3). Its percentiles are further out than 2.5 and 97.5, so that it covers as
    often as Student's t with few groups: with n groups, the lower one is
    Phi(-sqrt(n / (n - 1)) t_{0.975, n - 1}).

    Args:
        values: float64 (draws,); NaN for a resample that lacks a label.
        groups: number of groups that were drawn from.
    """
    known = values[np.isfinite(values)]
    if groups < FEWEST_GROUPS or not len(known):
        return None, None
    student = stats.t.ppf((1 + _CONFIDENCE) / 2, groups - 1)
    tail = 100 * stats.norm.cdf(-np.sqrt(groups / (groups - 1)) * student)
    low, high = np.percentile(known, [tail, 100 - tail])
    return finite(low), finite(high)


def mean_interval(values: Floats, resampled: Resampling) -> Interval:
    """Return the 95 % interval of a mean over rows; `values` is float64 (n,).

    The bootstrap-t interval (Efron and Tibshirani, 1993, section 12.5) of a ratio of sums over
    groups. A few very wrong predictions skew the losses, and percentile intervals then cover less
    often than they should (docs/decisions/022 has a simulation).

    Fewer than 20 groups have Student's interval, on the log scale if no row is negative. Some
    resamples of few groups contain a single group, whose standard error is 0.
    """
    if resampled.groups < FEWEST_GROUPS:
        return None, None
    sums = np.bincount(resampled.group, values)
    counts = np.bincount(resampled.group, np.ones(len(values)))
    mean, error = _mean_and_error(sums, counts, np.ones((resampled.groups, 1)))
    if resampled.groups < _BOOTSTRAP_T_GROUPS:
        return _student_interval(float(mean[0]), float(error[0]), resampled.groups, values.min())
    drawn = [_mean_and_error(sums, counts, weights) for weights in resampled.weights()]
    means, errors = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        student = (means - mean[0]) / errors
    known = student[np.isfinite(student)]
    tail = 50 * (1 - _CONFIDENCE)
    low, high = np.percentile(known, [tail, 100 - tail])
    return finite(mean[0] - high * error[0]), finite(mean[0] - low * error[0])


def _student_interval(mean: float, error: float, groups: int, lowest: float) -> Interval:
    reach = stats.t.ppf((1 + _CONFIDENCE) / 2, groups - 1) * error * np.sqrt(groups / (groups - 1))
    if lowest >= 0 and mean > 0:
        return finite(mean * np.exp(-reach / mean)), finite(mean * np.exp(reach / mean))
    return finite(mean - reach), finite(mean + reach)


def _mean_and_error(
    sums: NDArray[Any], counts: NDArray[Any], weights: Floats
) -> tuple[Floats, Floats]:
    """Return the mean and its linearised standard error in each resample, both (resamples,)."""
    total = counts @ weights
    mean = sums @ weights / total
    residual = sums[:, None] - mean * counts[:, None]
    return mean, np.sqrt((weights * residual**2).sum(0)) / total


def metric_intervals(
    labels: Floats, probabilities: Floats, resampled: Resampling
) -> dict[str, Interval]:
    """Return the 95 % interval of each metric of `metrics_of`."""
    found = resampled_metrics(labels, probabilities, resampled)
    intervals = {name: interval(values, resampled.groups) for name, values in found.items()}
    losses = row_losses(labels, probabilities)
    return intervals | {name: mean_interval(rows, resampled) for name, rows in losses.items()}
