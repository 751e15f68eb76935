"""What a prediction means, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from unmask.inference.records import Manifest, VideoPrediction
from unmask.report.verdict import baseline_warning

_LISTED = 6


def describe(prediction: VideoPrediction) -> str:
    """Return a prediction in a line."""
    if prediction.probability is None:
        return f"{prediction.video}: no prediction ({prediction.status}: {prediction.detail})"
    tracks = ", ".join(f"{one.probability:.3f}" for one in prediction.tracks)
    each = f"; each track: {tracks}" if len(prediction.tracks) > 1 else ""
    damage = f"; {prediction.detail}" if prediction.detail else ""
    return (
        f"{prediction.video}: {prediction.probability:.3f} "
        f"(a face in {frames_with_face(prediction)} of {prediction.frames} frames{each}{damage})"
    )


def frames_with_face(prediction: VideoPrediction) -> int:
    """Return the number of sampled frames with a face."""
    return len({face.frame for one in prediction.tracks for face in one.faces})


def explain_probability(probability: float, prior: float) -> str:
    """Return what a probability says, in a few sentences."""
    return (
        f"The detector estimates a probability of {probability:.3f} that a face in this video was "
        f"manipulated. It expects {100 * prior:g} % of the videos it is given to be FAKE. Of many "
        f"videos with this value, about {100 * probability:.0f} % should be FAKE, as far as they "
        "are like its training videos."
    )


def warning_of(manifest: Manifest) -> str | None:
    """Return a warning unless a bundle's tests show that it beats the constant baseline."""
    loss, constant = (manifest.metrics.get(name) for name in ("log_loss", "constant_log_loss"))
    if loss is None or constant is None:
        return "this bundle was not tested"
    return baseline_warning(loss, manifest.intervals.get("log_loss", (None, None))[1], constant)


def limits_of(manifest: Manifest) -> list[str]:
    """Return sentences: what a bundle's tests say about its predictions, and what they do not."""
    return list(_limits(manifest))


def _limits(manifest: Manifest) -> Iterator[str]:
    metrics, constant = manifest.metrics, manifest.metrics.get("constant_log_loss")
    if metrics.get("log_loss") is not None and constant is not None:
        measured = f"log loss of {_value(manifest, 'log_loss')}"
        if metrics.get("roc_auc") is not None:
            measured += f" and a ROC AUC of {_value(manifest, 'roc_auc')}"
        yield (
            f"On {metrics.get('count') or 0:,.0f} test videos of people that it had not seen, it "
            f"had a {measured}. Predicting the same for every video has a log loss of "
            f"{constant:.3f}."
        )
    if data := manifest.data:
        labels = " and ".join(f"{count:,} {label}" for label, count in data.labels.items())
        methods = f" The FAKE ones were made by {_listed(data.methods)}." if data.methods else ""
        yield (
            f"It was trained and tested on {labels} videos, from {_listed(data.sources)}.{methods}"
        )
    yield (
        "Videos from elsewhere are harder. Manipulations that its data lack may go unnoticed, and "
        "so may faces that are small, dark or turned away. Sound is ignored. A probability is no "
        "proof of anything about a person."
    )


def _value(manifest: Manifest, name: str) -> str:
    """Return a metric with its interval."""
    low, high = manifest.intervals.get(name, (None, None))
    known = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
    return f"{manifest.metrics[name]:.3f}{known}"


def _listed(counts: Mapping[str, int]) -> str:
    named = [f"{name} ({count:,})" for name, count in [*counts.items()][:_LISTED]]
    more = len(counts) - _LISTED
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
