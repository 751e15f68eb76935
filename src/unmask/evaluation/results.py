"""The files of an evaluation: names, and the types of their contents."""

from __future__ import annotations

from dataclasses import dataclass

from unmask.evaluation.metrics import Interval, Metrics

# File names in the folder of an experiment's evaluation.
METRICS = "metrics.json"  # ExperimentMetrics
CALIBRATION = "calibration.json"  # name of a model to its ScoringHead
PREDICTIONS_TABLE = "predictions.parquet"  # fold and video: validation and test predictions
OUT_OF_FOLD_TABLE = "out_of_fold.parquet"  # video of the ledger: its test prediction
PAGE = "page.html"


@dataclass(frozen=True)
class Subgroup:
    """Metrics of test videos with a property in common, and 95 % intervals."""

    by: str  # the property
    name: str  # its value
    count: int  # number of videos
    fake: int  # how many of them are FAKE
    log_loss: float  # of their predictions
    log_loss_interval: Interval
    constant_log_loss: float  # of the constant baseline of this subgroup
    excess: float  # `log_loss - constant_log_loss`; below 0 the model is better than the baseline
    excess_interval: Interval
    roc_auc: float | None  # None where a label does not occur

    def __str__(self) -> str:
        """Return the subgroup and its excess in words."""
        low, high = self.excess_interval
        known = "" if low is None or high is None else f", 95 % interval {low:+.3f} to {high:+.3f}"
        return (
            f"{self.by}: {self.name}, log loss {self.log_loss:.3f}, {self.excess:+.3f} relative to "
            f"its constant baseline{known}, {self.count} videos"
        )


@dataclass(frozen=True)
class ExperimentMetrics:
    """`metrics.json`."""

    experiment: str
    test: Metrics  # of its test videos, the folds pooled
    val: Metrics  # of its validation videos, calibrated by cross-fits that did not see them
    test_uncalibrated: Metrics  # of the test videos, with an identity calibration
    tracks: Metrics  # of the tracks of the test videos
    faces: Metrics  # of the faces of the test videos
    subgroups: list[Subgroup]  # of the test videos
    worst_subgroup: Subgroup | None  # by excess; None if none is large enough
    folds: dict[int, Metrics]  # of the test videos of each fold
    models: dict[str, Metrics]  # of the test videos of each model, by its name


@dataclass(frozen=True)
class Difference:
    """How two experiments differ on their common test videos, with 95 % intervals."""

    first: str
    second: str
    videos: int  # number of common test videos
    log_loss: float  # first minus second; below 0 the first is better
    log_loss_interval: Interval  # both resampled alike
    roc_auc: float | None  # first minus second; None where a label does not occur
    roc_auc_interval: Interval


@dataclass(frozen=True)
class EnsembleMetrics:
    """The ensemble of a comparison."""

    weights: dict[str, float]  # for shipping: fitted on the validation videos of all folds
    weights_of_folds: dict[int, dict[str, float]]  # fitted on those of one fold
    bytes: int  # of the weights of all models, as float16
    seconds_per_video: float  # of all networks for the crops of one video
    test: Metrics  # of the test videos, each fold predicted with its own weights


@dataclass(frozen=True)
class Comparison:
    """`comparison.json`."""

    order: list[str]  # the experiments by validation log loss, the best first
    differences: list[Difference]  # of each other experiment from the best one
    ensemble: EnsembleMetrics | None  # None without a common fold or a fitting member


@dataclass(frozen=True)
class ShiftMetrics:
    """Metrics of the clips of one role."""

    clean: Metrics  # of the unshifted clips
    shifts: dict[str, Metrics]  # of the clips under each shift
    worst: str  # the shift with the highest log loss
    mean_log_loss: float  # mean over the shifts
    clean_and_shifted_log_loss: float  # mean of the clean and the mean shifted log loss


@dataclass(frozen=True)
class ExperimentShifts:
    """`shifts.json`."""

    experiment: str
    selection_score: float  # `clean_and_shifted_log_loss` of the validation clips
    test: ShiftMetrics  # of its test clips, the folds pooled
    val: ShiftMetrics  # of its validation clips
    models: dict[str, ShiftMetrics]  # of the test clips of each model, by its name
    selection_scores: dict[str, float]  # of each model, by its name
    statuses: dict[str, dict[str, int]]  # by shift, the number of videos of each status
