"""The governor: how much each video may cost, so that all of them are answered in time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

# Fewer frames than these say little about a video.
_FEWEST_FRAMES = 4
_MOST_SHARES = 4
# So many videos tell what the next ones will cost: hundreds of seconds, not the whole run, since a
# machine or the videos may change.
_REMEMBERED = 50
# Answers must fit into this share of the time that is left.
_SHARE_OF_TIME = 0.95


@dataclass(frozen=True)
class Effort:
    """What is done for a video.

    Attributes:
        share: of the frames that the configuration samples.
        members: how many of the ensemble's models answer, the heaviest first.
    """

    share: float
    members: int


def efforts(frames: int | None, members: int) -> list[Effort]:
    """Return all efforts, dearest first: frames are given up before members.

    Args:
        frames: sampled of each video; None where they are sampled at a rate.
        members: models of the ensemble.
    """
    steps = [Effort(1.0, members)]
    while len(steps) < _MOST_SHARES and (frames or 32) * steps[-1].share / 2 >= _FEWEST_FRAMES:
        steps.append(Effort(steps[-1].share / 2, members))
    while steps[-1].members > 1:
        steps.append(Effort(steps[-1].share, (steps[-1].members + 1) // 2))
    return steps


@dataclass(frozen=True)
class _Answered:
    effort: Effort
    prepared_s: float
    network_s: float
    at: float


class Governor:
    """Choose the effort for each next video from what the last ones took.

    A video costs a worker the time to decode it and to find its faces, and this process the time of
    the networks; both go on side by side. Two thirds of the first are assumed to stay with fewer
    frames, as those between them are decoded all the same (`make bench-predict`); the second
    shrinks with them. What videos really took, end to end, beside that model scales it.
    """

    def __init__(
        self,
        videos: int,
        steps: list[Effort],
        workers: int,
        deadline: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the task.

        Args:
            videos: how many there are to answer.
            steps: what `efforts` returned.
            workers: processes that prepare videos.
            deadline: the time of `clock` at which all must be answered; None is without end.
            clock: seconds, never backwards.
        """
        self._left = videos
        self._steps = steps
        self._workers = workers
        self._deadline = deadline
        self._clock = clock
        self._answered: deque[_Answered] = deque(maxlen=_REMEMBERED)
        self._started = clock()
        self._effort = steps[0]

    def choose(self) -> Effort | None:
        """Return the dearest effort with which all are answered in time; None when it is over.

        Where none is cheap enough the cheapest is returned: the more videos are answered, the
        fewer get the prior.
        """
        if self._deadline is None:
            return self._steps[0]
        left = self._deadline - self._clock()
        if left <= 0:
            return None
        if not self._answered:
            return self._effort
        # A video more than there are: what is late with the last one cannot be caught up with.
        slack = 1 + 1 / self._left
        fitting = (one for one in self._steps if self.needs(one) * slack <= _SHARE_OF_TIME * left)
        effort = next(fitting, self._steps[-1])
        if effort != self._effort:
            logger.warning(
                "%d videos in %.0f s: %g of the frames and %d models from here on "
                "(%.2f s a video, %.2f s with all)",
                *(self._left, left, effort.share, effort.members),
                *(self.needs(effort) / max(self._left, 1), self.needs(self._steps[0]) / self._left),
            )
            self._effort = effort
        return effort

    def answered(self, effort: Effort, prepared_s: float, network_s: float) -> None:
        """Take note of a video.

        Args:
            effort: with which it was answered.
            prepared_s: seconds that a worker took.
            network_s: seconds that the networks took.
        """
        self._left -= 1
        if len(self._answered) == _REMEMBERED:
            self._started = self._answered[0].at
        self._answered.append(_Answered(effort, prepared_s, network_s, self._clock()))

    def needs(self, effort: Effort) -> float:
        """Return how many seconds the videos that are left would take; 0 before any is answered."""
        known = self._answered
        if not known:
            return 0.0
        prepared = sum(one.prepared_s for one in known)
        prepared /= sum(_decoding(one.effort.share) for one in known)
        network = sum(one.network_s for one in known)
        network /= sum(one.effort.share * one.effort.members for one in known)

        def modelled(one: Effort) -> float:
            waiting = prepared * _decoding(one.share) / self._workers
            return max(waiting, network * one.share * one.members)

        taken = (known[-1].at - self._started) / max(
            sum(modelled(one.effort) for one in known), 1e-9
        )
        return self._left * taken * modelled(effort)


def _decoding(share: float) -> float:
    """Return what preparing a share of a video's frames costs, beside all of them."""
    return (2 + share) / 3
