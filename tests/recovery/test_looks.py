"""A state has stalled only if the process that would recover it has seen it stand still."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from flowstate import State
from flowstate.driver import Liveness
from flowstate.recovery.looks import MOST_DOUBTS, MOST_LOOKS, Looks
from flowstate.recovery_rules import RETRY_AFTER
from flowstate.state import Transition

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
RETRY = 10.0
RELIED_ON = 9.0  # Seconds; an engine stops then what it could not keep alive.


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def state(rev: int, committed_at: float, retry: float = RETRY) -> State:
    rules = {RETRY_AFTER: str(retry)}
    transition = Transition("work")
    return State("a", rev, annotations=rules, transition=transition, committed_at=at(committed_at))


def found(rev: int, began: float, now: float, beat_at: float | None = None) -> Liveness:
    beaten = None if beat_at is None else at(beat_at)
    return Liveness(rev, at(began + RETRY), beaten, "", at(now), None)


def looks(*seen: tuple[float, float, int]) -> Looks:
    """Return looks: (seconds by the own clock, seconds by the store's, the head)."""
    made = Looks()
    for own, store, head in seen:
        made.add(own, at(store), head)
    return made


def test_what_was_committed_after_a_look_counts_from_the_next_one() -> None:
    made = looks((0, 0, 4), (1, 1, 5), (2, 2, 5))
    assert made.recoverable_at(state(5, 0.5), found(5, 0.5, 2), 2) == 1 + RELIED_ON


def test_a_change_from_outside_is_no_sign_of_life() -> None:
    made = looks((0, 0, 4), (1, 1, 5), (8, 8, 5), (9, 9, 6))
    changed = state(6, 8.5)
    changed = replace(changed, transition=replace(changed.transition, since=5))
    assert made.recoverable_at(changed, found(6, 0.5, 11), 11) == 1 + RELIED_ON


def test_what_no_look_has_shown_counts_from_now_on() -> None:
    made = looks((0, 0, 4), (1, 1, 4))
    assert made.recoverable_at(state(5, 0.5), found(5, 0.5, 2), 2) == 2 + RELIED_ON
    assert Looks().recoverable_at(state(5, 0.5), found(5, 0.5, 2), 2) == 2 + RELIED_ON


def test_a_heartbeat_of_no_seconds_hands_over_at_once() -> None:
    made = looks((0, 0, 5), (8, 8, 5))
    liveness = found(5, 9 - RETRY, 9, beat_at=9)
    assert made.recoverable_at(state(5, 8.5), liveness, 9) < 9


def test_the_first_look_is_believed() -> None:
    made = looks((100, 3_600, 5), (101, 3_601, 5))
    assert made.recoverable_at(state(5, 0), found(5, 0, 3_601), 101) == 100 - 3_600 + RELIED_ON


def test_a_jump_ahead_makes_nothing_older() -> None:
    made = looks((0, 0, 5), (1, 1, 5), (2, 2, 5), (3, 1_003, 5))
    assert made.recoverable_at(state(5, 0), found(5, 1.5, 1_003, 1.5), 3) == 2 + RELIED_ON


BEHIND = [(state(5, 0), found(5, -2, 10, beat_at=8.5)), (state(5, 8.5), found(5, -2, 10))]


@pytest.mark.parametrize(("state", "found"), BEHIND, ids=["heartbeat", "commit"])
def test_what_the_store_heard_of_while_its_clock_was_behind_counts_from_now_on(
    state: State, found: Liveness
) -> None:
    """Two looks see neither step of the clock; the last time of the state shows the first."""
    made = looks((0, 0, 5), (8, 8, 5), (9, 9, 5), (10, 10, 5))
    assert made.recoverable_at(state, found, 10) == 10 + RELIED_ON
    assert made.recoverable_at(state, found, 12) == 10 + RELIED_ON
    again = replace(found, beat_at=at(8.6))
    assert made.recoverable_at(state, again, 13) == 13 + RELIED_ON


def test_of_too_many_states_in_doubt_some_wait_for_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowstate.recovery.looks.MOST_DOUBTS", 2)
    made, (ahead, behind) = looks((0, 0, 5)), BEHIND[1]
    many = [replace(ahead, id=id) for id in "abc"]
    assert [made.recoverable_at(each, behind, 10) for each in many] == [10 + RELIED_ON] * 3
    found = [made.recoverable_at(each, behind, 11) for each in many]
    assert found == [10 + RELIED_ON, 10 + RELIED_ON, 11 + RELIED_ON]
    assert made.recoverable_at(many[2], behind, 30) == 30 + RELIED_ON
    assert made.recoverable_at(many[2], behind, 31) == 30 + RELIED_ON


def test_states_in_doubt_that_find_no_room_cost_no_more_than_the_others() -> None:
    made, (ahead, behind) = looks((0, 0, 5)), BEHIND[1]
    seconds = list[float]()
    for half in range(2):
        began = time.process_time()
        for number in range(MOST_DOUBTS):
            made.recoverable_at(replace(ahead, id=f"{half} {number}"), behind, 10)
        seconds.append(time.process_time() - began)
    assert seconds[1] < 10 * seconds[0]  # A look through all of them for each: 300 times as much.


def test_a_clock_that_is_behind_at_a_look_makes_older_looks_worth_nothing() -> None:
    made = looks((0, 0, 5), (9, 9, 5), (11, 8, 5), (12, 12, 5))
    assert made.recoverable_at(state(5, 0), found(5, 7.5, 12, 7.5), 12) == 11 + RELIED_ON


def test_a_clock_that_steps_back_just_before_a_look_as_well() -> None:
    """It shows the same as at the look before, and was behind that in between."""
    made = looks((0, 0, 5), (9, 9, 5), (11, 9.5, 5), (12, 12, 5))
    assert made.recoverable_at(state(5, 0), found(5, 8, 12, 8), 12) == 11 + RELIED_ON


def test_a_stamp_ahead_of_the_clock_says_nothing() -> None:
    """The clock was an hour ahead once, and was set right before the commit."""
    made = looks((0, 0, 4), (1, 1, 5), (20, 20, 5))
    assert made.recoverable_at(state(5, 3_600), found(5, 0.5, 20), 20) == 1 + RELIED_ON


def test_a_clock_that_is_set_back_for_good_delays_nothing() -> None:
    made = looks((0, 1_000, 4), (1, 1, 4), (2, 2, 5), (12, 12, 5))
    assert made.recoverable_at(state(5, 1_000), found(5, 1.5, 12), 12) == 2 + RELIED_ON


@pytest.mark.parametrize("age", [5.0, 100.0, 3_000.0])
def test_of_many_looks_enough_are_kept(age: float) -> None:
    made = Looks()
    for second in range(10_000):
        made.add(second, at(second), second)
    rev, retry = int(10_000 - age), 2 * age
    liveness = Liveness(rev, at(rev + retry), None, "", at(10_000), None)
    since = made.recoverable_at(state(rev, rev, retry), liveness, 10_000) - retry * 9 / 10
    assert rev <= round(since, 6) <= rev + age / 10
    assert len(made._looks) <= MOST_LOOKS
