"""The governor gives up frames, then members, then predictions; it is never late."""

from collections.abc import Callable

import pytest

from unmask.kaggle.governor import Governor, Setting, list_settings

HOUR = 3600.0
WORKERS = 3
SETTINGS = list_settings(32, 4)

Costs = Callable[[Setting, int], tuple[float, float]]


def cost(preparation_s: float, network_s: float) -> Costs:
    """Return the cost of a video for a worker and for the networks, given those of all frames."""

    def of(setting: Setting, _: int) -> tuple[float, float]:
        decoding = 0.4 + 0.6 * setting.frames  # differs from the governor's own model
        return preparation_s * decoding, network_s * setting.frames * setting.members / 4

    return of


def changing(first: Costs, videos: int, then: Costs) -> Costs:
    return lambda setting, number: (first if number < videos else then)(setting, number)


def run(videos: int, deadline: float, costs: Costs) -> tuple[list[Setting], float]:
    """Predict videos on a simulated clock; return their settings and the time at the end."""
    now = 0.0
    governor = Governor(videos, SETTINGS, WORKERS, deadline, lambda: now)
    used: list[Setting] = []
    while len(used) < videos and (setting := governor.choose()) is not None:
        preparation, network = costs(setting, len(used))
        now += max(preparation / WORKERS, network)
        governor.record(setting, preparation, network)
        used.append(setting)
    return used, now


def test_frames_are_reduced_before_members() -> None:
    assert [(one.frames, one.members) for one in SETTINGS] == [
        *((1.0, 4), (0.5, 4), (0.25, 4), (0.125, 4), (0.125, 2), (0.125, 1))
    ]
    assert [one.frames for one in list_settings(None, 1)] == [1.0, 0.5, 0.25, 0.125]
    assert [one.members for one in list_settings(6, 3)] == [3, 2, 1]


def test_with_enough_time_or_no_deadline_nothing_is_reduced() -> None:
    used, now = run(4000, 9 * HOUR, cost(6.0, 4.0))
    assert used == [SETTINGS[0]] * 4000
    assert now < 9 * HOUR
    governor = Governor(10, SETTINGS, WORKERS, None, lambda: 0.0)
    governor.record(SETTINGS[0], 1e6, 1e6)
    assert governor.choose() == SETTINGS[0]


@pytest.mark.parametrize(
    ("preparation_s", "network_s"),
    [(30.0, 2.0), (45.0, 2.0), (3.0, 10.0), (3.0, 60.0), (20.0, 30.0), (3.0, 200.0)],
)
def test_4000_expensive_videos_are_all_predicted_in_nine_hours(
    preparation_s: float, network_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    used, now = run(4000, 9 * HOUR, cost(preparation_s, network_s))
    assert len(used) == 4000
    assert 0.8 * 9 * HOUR < now <= 9 * HOUR  # nothing is reduced without need
    assert SETTINGS[0] in used
    assert set(used) != {SETTINGS[0]}
    assert "from here on" in caplog.text


def test_a_slowdown_half_way_is_compensated() -> None:
    used, now = run(4000, 9 * HOUR, changing(cost(6.0, 4.0), 2000, cost(40.0, 30.0)))
    assert len(used) == 4000
    assert now <= 9 * HOUR
    assert used[:2000] == [SETTINGS[0]] * 2000
    assert set(used[2000:]) - {SETTINGS[0]}


def test_after_a_slow_start_nothing_is_reduced_any_more() -> None:
    used, _ = run(2000, 9 * HOUR, changing(cost(60.0, 60.0), 200, cost(3.0, 2.0)))
    assert used[199] != SETTINGS[0]
    assert used[-1] == SETTINGS[0]


def test_where_the_cheapest_setting_is_too_slow_the_rest_gets_the_prior() -> None:
    used, now = run(4000, HOUR, cost(60.0, 5.0))
    assert 100 < len(used) < 4000
    assert used[-1] == SETTINGS[-1]
    assert now < HOUR + 60  # the last video started before the deadline
