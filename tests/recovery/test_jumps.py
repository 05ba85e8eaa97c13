"""A jump of the store's clock makes what is alive look stalled, and is noticed."""

from datetime import UTC, datetime, timedelta

import pytest

from flowstate.recovery.scanning import Jumps

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
BEATS_WITHIN = timedelta(seconds=5)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def jumps(*looks: tuple[float, float]) -> Jumps:
    """Return what was noticed by looks: (seconds by the own clock, seconds by the store's)."""
    noticed = Jumps()
    for own, store in looks:
        noticed.look(own, own + 0.01, at(store))
    return noticed


@pytest.mark.parametrize(
    ("stalls_at", "now", "excused"),
    [
        (9, 61, False),  # It had stalled before the jump.
        (10.5, 61, True),
        (60, 61, True),
        (62, 63, True),  # By a time that is counted from before the jump.
        (62, 65.9, True),
        (62, 66, False),  # Its heartbeat would be here by now.
    ],
)
def test_what_looks_stalled_after_a_jump_has_time_for_a_heartbeat(
    stalls_at: float, now: float, excused: bool
) -> None:
    noticed = jumps((0, 9), (1, 10), (2, 61))
    assert noticed.excuse(at(stalls_at), at(now), BEATS_WITHIN) == excused


def test_a_clock_that_runs_is_no_jump() -> None:
    noticed = jumps((0, 0), (1, 1.2), (100, 125), (101, 90))
    assert not noticed.excuse(at(90), at(91), BEATS_WITHIN)
