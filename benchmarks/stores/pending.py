"""Timers that are pending for years, each with the state that it belongs to."""

from collections.abc import Iterator
from datetime import timedelta
from functools import cache

from benchmarks.flows import FINISH
from benchmarks.stores.filling import FIRST_DUE, PAUSE
from flowstate import State, Status
from flowstate.codec import DelayBody, encode_body, encode_delay
from flowstate.driver import NewTimer, Writes
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import MAX_TIMERS
from flowstate.state import Timer
from flowstate.timers import timer_id

__all__ = ["timed_writes", "timer_body"]


def timed_writes(count: int) -> Iterator[Writes]:
    """Return the commits of paused states with so many timers in all, due as delays are."""
    for first in range(0, count, MAX_TIMERS):
        due = FIRST_DUE + timedelta(seconds=first)
        names = [f"t{number}" for number in range(min(MAX_TIMERS, count - first))]
        timers = FrozenDict(dict.fromkeys(names, Timer(FINISH, due)))
        yield _timed(State(f"timed-{first}", transition=PAUSE, status=Status.PAUSED, timers=timers))


def _timed(state: State) -> Writes:
    body = encode_body(state)
    rows = [
        NewTimer(timer_id(state.id, name), name, 0, timer.to, timer.due, None, timer_body(name))
        for name, timer in state.timers.items()
    ]
    return Writes(state.id, (state,), (body,), timers=tuple(rows), size=len(body))


@cache
def timer_body(name: str) -> str:
    """Return the body of the row of a timer."""
    return encode_delay(DelayBody(FINISH, timer=name))
