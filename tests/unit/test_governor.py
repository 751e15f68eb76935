"""The governor gives up frames, then members, then answers; it is never late."""

from collections.abc import Callable

import pytest

from unmask.kaggle.governor import Effort, Governor, efforts

HOUR = 3600.0
WORKERS = 3
STEPS = efforts(32, 4)
ORDER = [
    *(Effort(1.0, 4), Effort(0.5, 4), Effort(0.25, 4), Effort(0.125, 4)),
    *(Effort(0.125, 2), Effort(0.125, 1)),
]


def cost(prepare_s: float, network_s: float) -> Callable[[Effort, int], tuple[float, float]]:
    """Return what a video costs a worker and the networks, of the whole effort."""

    def of(effort: Effort, _: int) -> tuple[float, float]:
        decoding = 0.4 + 0.6 * effort.share  # not the governor's own assumption
        return prepare_s * decoding, network_s * effort.share * effort.members / 4

    return of


def run(
    videos: int, deadline: float, costs: Callable[[Effort, int], tuple[float, float]]
) -> tuple[list[Effort], float]:
    """Answer videos by a fake clock; return their efforts and when the last was answered."""
    now = 0.0
    governor = Governor(videos, STEPS, WORKERS, deadline, lambda: now)
    done: list[Effort] = []
    while len(done) < videos and (effort := governor.choose()) is not None:
        prepared, network = costs(effort, len(done))
        now += max(prepared / WORKERS, network)
        governor.answered(effort, prepared, network)
        done.append(effort)
    return done, now


def test_the_order_is_frames_then_members() -> None:
    assert STEPS == ORDER
    assert efforts(None, 1) == [Effort(share, 1) for share in (1.0, 0.5, 0.25, 0.125)]
    assert efforts(6, 3) == [Effort(1.0, 3), Effort(1.0, 2), Effort(1.0, 1)]


def test_with_time_enough_all_is_done_for_every_video() -> None:
    done, now = run(4000, 9 * HOUR, cost(6.0, 4.0))
    assert done == [STEPS[0]] * 4000
    assert now < 9 * HOUR


def test_without_a_deadline_nothing_is_given_up() -> None:
    governor = Governor(10, STEPS, WORKERS, None, lambda: 0.0)
    governor.answered(STEPS[0], 1e6, 1e6)
    assert governor.choose() == STEPS[0]


@pytest.mark.parametrize(
    ("prepare_s", "network_s"),
    [(30.0, 2.0), (45.0, 2.0), (3.0, 10.0), (3.0, 60.0), (20.0, 30.0), (3.0, 200.0)],
)
def test_4000_videos_that_cost_too_much_are_all_answered_in_nine_hours(
    prepare_s: float, network_s: float
) -> None:
    done, now = run(4000, 9 * HOUR, cost(prepare_s, network_s))
    assert len(done) == 4000
    assert now <= 9 * HOUR
    assert STEPS[0] in done
    assert set(done) != {STEPS[0]}
    # Time that is left over is spent: no more is given up than must be.
    assert now > 0.8 * 9 * HOUR


def test_what_gets_slow_in_the_middle_is_caught_up_with() -> None:
    quick, slow = cost(6.0, 4.0), cost(40.0, 30.0)
    done, now = run(
        4000, 9 * HOUR, lambda effort, count: (quick if count < 2000 else slow)(effort, count)
    )
    assert len(done) == 4000
    assert now <= 9 * HOUR
    assert done[:2000] == [STEPS[0]] * 2000
    assert set(done[2000:]) - {STEPS[0]}


def test_what_gets_quick_again_gets_all_again() -> None:
    slow, quick = cost(60.0, 60.0), cost(3.0, 2.0)
    done, _ = run(
        2000, 9 * HOUR, lambda effort, count: (slow if count < 200 else quick)(effort, count)
    )
    assert done[199] != STEPS[0]
    assert done[-1] == STEPS[0]


def test_where_even_the_least_is_too_much_the_rest_is_left_to_the_prior() -> None:
    done, now = run(4000, HOUR, cost(60.0, 5.0))
    assert 100 < len(done) < 4000
    assert done[-1] == STEPS[-1]
    assert now < HOUR + 60  # the video that was on its way


def test_what_is_given_up_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    run(400, HOUR, cost(3.0, 20.0))
    assert "of the frames and 4 models from here on" in caplog.text
