"""The files of an evaluation: their names, and their contents as types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unmask.evaluation.metrics import Interval, Metrics


@dataclass(frozen=True)
class EvaluationFiles:
    """The files of one experiment's evaluation, all in one folder."""

    folder: Path

    @property
    def metrics(self) -> Path:
        """JSON: `ExperimentMetrics`."""
        return self.folder / "metrics.json"

    @property
    def calibration(self) -> Path:
        """JSON: name of a model to its `ScoringHead`."""
        return self.folder / "calibration.json"

    @property
    def predictions(self) -> Path:
        """`unmask.tables.PREDICTIONS`: a row per fold and video of its validation and test role."""
        return self.folder / "predictions.parquet"

    @property
    def out_of_fold(self) -> Path:
        """`unmask.tables.OUT_OF_FOLD`: a row per video of the ledger."""
        return self.folder / "out_of_fold.parquet"

    @property
    def page(self) -> Path:
        """HTML page of all results."""
        return self.folder / "page.html"


@dataclass(frozen=True)
class Subgroup:
    """The metrics of some test videos that have a property in common.

    Attributes:
        by: the property.
        name: its value.
        count: number of videos.
        fake: how many of them are FAKE.
        log_loss: of their predictions.
        log_loss_interval: its 95 % interval.
        constant_log_loss: of the constant baseline of this subgroup.
        excess: `log_loss - constant_log_loss`; below 0 the model is better than the baseline.
        excess_interval: its 95 % interval.
        roc_auc: None where a label does not occur.
    """

    by: str
    name: str
    count: int
    fake: int
    log_loss: float
    log_loss_interval: Interval
    constant_log_loss: float
    excess: float
    excess_interval: Interval
    roc_auc: float | None

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
    """`metrics.json`.

    Attributes:
        experiment: name of the experiment.
        test: of its test videos, the folds pooled.
        val: of its validation videos, calibrated by cross-fits that did not see them.
        test_uncalibrated: of the test videos, with an identity calibration.
        tracks: of the tracks of the test videos.
        faces: of the faces of the test videos.
        subgroups: of the test videos.
        worst_subgroup: the one with the highest excess; None without a large enough subgroup.
        folds: of the test videos of each fold.
        models: of the test videos of each model, by its name.
    """

    experiment: str
    test: Metrics
    val: Metrics
    test_uncalibrated: Metrics
    tracks: Metrics
    faces: Metrics
    subgroups: list[Subgroup]
    worst_subgroup: Subgroup | None
    folds: dict[int, Metrics]
    models: dict[str, Metrics]


@dataclass(frozen=True)
class Difference:
    """How two experiments differ on their common test videos.

    Attributes:
        first: name of an experiment.
        second: name of another.
        videos: number of common test videos.
        log_loss: of the first minus that of the second; below 0 the first is better.
        log_loss_interval: its 95 % interval, both resampled alike.
        roc_auc: of the first minus that of the second; None where a label does not occur.
        roc_auc_interval: its interval.
    """

    first: str
    second: str
    videos: int
    log_loss: float
    log_loss_interval: Interval
    roc_auc: float | None
    roc_auc_interval: Interval


@dataclass(frozen=True)
class EnsembleMetrics:
    """The ensemble of a comparison.

    Attributes:
        weights: of each experiment, fitted on the validation videos of all folds: for shipping.
        weights_of_folds: of each experiment, fitted on the validation videos of one fold.
        bytes: of the weights of all models, as float16.
        seconds_per_video: of all networks for the crops of one video.
        test: of the test videos, each fold predicted with its own weights.
    """

    weights: dict[str, float]
    weights_of_folds: dict[int, dict[str, float]]
    bytes: int
    seconds_per_video: float
    test: Metrics


@dataclass(frozen=True)
class Comparison:
    """`comparison.json`.

    Attributes:
        order: the experiments by validation log loss, the best first.
        differences: of each other experiment from the best one.
        ensemble: None if there are not two experiments with a common fold, or nothing fits.
    """

    order: list[str]
    differences: list[Difference]
    ensemble: EnsembleMetrics | None


@dataclass(frozen=True)
class ShiftMetrics:
    """Metrics of the clips of one role.

    Attributes:
        clean: of the unshifted clips.
        shifts: of the clips under each shift.
        worst: the shift with the highest log loss.
        mean_log_loss: mean over the shifts.
        clean_and_shifted_log_loss: mean of the clean and the mean shifted log loss.
    """

    clean: Metrics
    shifts: dict[str, Metrics]
    worst: str
    mean_log_loss: float
    clean_and_shifted_log_loss: float


@dataclass(frozen=True)
class ExperimentShifts:
    """`shifts.json`.

    Attributes:
        experiment: name of the experiment.
        selection_score: `clean_and_shifted_log_loss` of the validation clips.
        test: of its test clips, the folds pooled.
        val: of its validation clips.
        models: of the test clips of each model, by its name.
        selection_scores: of each model, by its name.
        statuses: by shift, the number of videos of each status.
    """

    experiment: str
    selection_score: float
    test: ShiftMetrics
    val: ShiftMetrics
    models: dict[str, ShiftMetrics]
    selection_scores: dict[str, float]
    statuses: dict[str, dict[str, int]]
