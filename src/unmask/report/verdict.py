"""What test results say about a detector, in one line."""

from __future__ import annotations


def baseline_warning(log_loss: float, high: float | None, constant: float) -> str | None:
    """Return a warning unless a detector is better than the constant baseline.

    Args:
        log_loss: on test videos.
        high: upper end of its 95 % interval; None or NaN where there are too few groups.
        constant: log loss of predicting the share of FAKE for every video, 0 if all have one label.
    """
    if constant == 0:
        return "all test videos have one label, so nothing is known about telling labels apart"
    if log_loss >= constant:
        return (
            f"NO BETTER THAN THE CONSTANT BASELINE ({log_loss:.3f}, baseline {constant:.3f}): do "
            "not use this detector; train on videos of more people and sources"
        )
    if high is None or not high < constant:
        return (
            f"MAY BE NO BETTER THAN THE CONSTANT BASELINE ({log_loss:.3f}, baseline "
            f"{constant:.3f}): the test videos are too few to tell"
        )
    return None
