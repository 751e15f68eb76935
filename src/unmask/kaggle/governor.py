"""The governor: how much to spend on each video, so that all of them finish before a deadline."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

_FEWEST_FRAMES = 4
_MOST_FRAME_SHARES = 4
# The cost model is corrected by the last so many videos: some hundred seconds, not the whole run,
# because the load of the machine and the videos may change.
_REMEMBERED = 50
# The predicted time must fit into this share of the remaining time.
_TIME_SHARE = 0.95


@dataclass(frozen=True)
class Setting:
    """How much is spent on a video."""

    frames: float  # share of the frames that the configuration samples
    members: int  # number of the ensemble's models, in descending order of weight


def list_settings(frames: int | None, members: int) -> list[Setting]:
    """Return all settings, the most expensive first: frames are reduced before members.

    Args:
        frames: number sampled of each video; None if frames are sampled at a rate.
        members: number of models of the ensemble.
    """
    shares = [0.5**halvings for halvings in range(_MOST_FRAME_SHARES)]
    enough = [share for share in shares if share == 1 or share * (frames or 32) >= _FEWEST_FRAMES]
    settings = [Setting(share, members) for share in enough]
    while settings[-1].members > 1:
        settings.append(Setting(enough[-1], (settings[-1].members + 1) // 2))
    return settings


@dataclass(frozen=True)
class _Measurement:
    setting: Setting
    preparation_s: float
    network_s: float
    at: float


class Governor:
    """Choose the setting of each next video from the measured costs of the last ones.

    A video costs the time of a worker that decodes it and finds faces, and the time of the networks
    in this process; both run at the same time. With fewer frames, two thirds of the first remain,
    because the frames in between are decoded anyway (`make bench-predict`); the second is
    proportional. The ratio of measured wall time to this model corrects it.
    """

    def __init__(
        self,
        videos: int,
        settings: list[Setting],
        workers: int,
        deadline: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start to measure.

        Args:
            videos: number of videos to predict.
            settings: returned by `list_settings`.
            workers: number of processes that prepare videos.
            deadline: in seconds of `clock`; None for no deadline.
            clock: monotonic.
        """
        self._left, self._settings, self._workers = videos, settings, workers
        self._deadline, self._clock = deadline, clock
        self._measured: deque[_Measurement] = deque(maxlen=_REMEMBERED)
        self._since = clock()
        self._current = settings[0]

    def choose(self) -> Setting | None:
        """Return the most expensive setting that still finishes before the deadline.

        If none does, the cheapest one, so that as few videos as possible get the prior. None after
        the deadline.
        """
        if self._deadline is None:
            return self._settings[0]
        left = self._deadline - self._clock()
        if left <= 0:
            return None
        if not self._measured:
            return self._current
        # As if there were one video more, because nothing can make up for a late last video.
        slack = 1 + 1 / self._left
        limit = _TIME_SHARE * left / slack
        fitting = (one for one in self._settings if self.needed_s(one) <= limit)
        setting = next(fitting, self._settings[-1])
        if setting != self._current:
            logger.warning(
                "%d videos in %.0f s: from here on %g of the frames and %d models "
                "(%.2f s per video, instead of %.2f s with all)",
                *(self._left, left, setting.frames, setting.members),
                *(self.needed_s(one) / self._left for one in (setting, self._settings[0])),
            )
            self._current = setting
        return setting

    def record(self, setting: Setting, preparation_s: float, network_s: float) -> None:
        """Record the seconds that a finished video cost a worker and the networks."""
        self._left -= 1
        if len(self._measured) == _REMEMBERED:
            self._since = self._measured[0].at
        self._measured.append(_Measurement(setting, preparation_s, network_s, self._clock()))

    def needed_s(self, setting: Setting) -> float:
        """Return the predicted seconds for the remaining videos; 0 before any is finished."""
        known = self._measured
        if not known:
            return 0.0
        shares = sum(_preparation_share(one.setting) for one in known)
        preparation = sum(one.preparation_s for one in known) / shares
        passes = sum(one.setting.frames * one.setting.members for one in known)
        network = sum(one.network_s for one in known) / passes

        def modelled(one: Setting) -> float:
            of_worker = preparation * _preparation_share(one) / self._workers
            return max(of_worker, network * one.frames * one.members)

        all_modelled = max(sum(modelled(one.setting) for one in known), 1e-9)
        return self._left * (known[-1].at - self._since) / all_modelled * modelled(setting)


def _preparation_share(setting: Setting) -> float:
    """Return the cost of preparing a video relative to that with all frames."""
    return (2 + setting.frames) / 3
