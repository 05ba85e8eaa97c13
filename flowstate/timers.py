"""Timers: they have names, belong to a state, and fire however often it moves meanwhile.

A revision says which timers its state has. The store keeps a row for each, by which it is found
when it is due. Both change in the same commit, so a row is right as long as the revision is the
latest one.
"""

from collections.abc import Mapping
from datetime import datetime

from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.ground.limits import to_utc
from flowstate.mailboxes.mailbox import RECEIVE
from flowstate.state import State, Status, Timer

__all__ = [
    "TIMER",
    "WAIT_TIMER",
    "changed_timers",
    "lasting_timers",
    "timer_id",
    "timer_to_fire",
    "without_timer",
]

TIMER = "flowstate.timer"  # Annotation of the transition that a timer makes: its name.
WAIT_TIMER = "flowstate.wait"  # The name of the timer that ends a wait for a message.
HEXADECIMAL_DIGITS = 40  # Of 160 bits: no two names ever have the same.


def timer_id(state_id: str, name: str) -> str:
    """Return the id of the row of a timer: short, so that each store can have it as a key."""
    import hashlib  # Loads OpenSSL, which most programs never need.  # noqa: PLC0415

    digest = hashlib.sha256(f"{state_id}\0{name}".encode()).hexdigest()
    return f"timer-{digest[:HEXADECIMAL_DIGITS]}"


def lasting_timers(state: State, known: State) -> Mapping[str, Timer]:
    """Return the timers of a state as its next revision has them.

    Those that count from the commit of ``known`` get their time; an ended state has none, and one
    that does not wait for a message any more has none that ends the wait.
    """
    timers, at = state.timers, _time_of(known)
    if state.status is Status.ENDED:
        return EMPTY
    if WAIT_TIMER in timers and not _is_waiting(state):
        timers = without_timer(state, WAIT_TIMER)
    times = {
        name: Timer(timer.to, timer.due_at(at))
        for name, timer in timers.items()
        if at is not None and known.timers.get(name) is timer and _is_relative(timer)
    }
    return FrozenDict({**timers, **times}) if times else timers


def changed_timers(timers: Mapping[str, Timer], known: State) -> tuple[list[str], list[str]]:
    """Return the names of timers that were set since ``known``, and of those that are gone.

    A timer that counts from its commit, and is another object than before, was set again.
    """
    at = _time_of(known)
    is_set = [n for n, timer in timers.items() if not _is_same(known.timers.get(n), timer, at)]
    return is_set, [name for name in known.timers if name not in timers]


def timer_to_fire(state: State, name: str) -> Timer | None:
    """Return a timer of a committed state with its time: the same in all revisions that have it."""
    timer = None if state.status is Status.ENDED else state.timers.get(name)
    return None if timer is None else Timer(timer.to, timer.due_at(_time_of(state)))


def without_timer(state: State, name: str) -> Mapping[str, Timer]:
    """Return the timers of a state that are left when one has fired."""
    return FrozenDict({key: timer for key, timer in state.timers.items() if key != name})


def _is_waiting(state: State) -> bool:
    return state.status is Status.PAUSED and RECEIVE in state.transition.annotations


def _is_same(own: Timer | None, timer: Timer, at: datetime | None) -> bool:
    """Return whether a state committed at this time has a timer, not one that was set otherwise."""
    if type(own) is not Timer or (own.due is None and at is None):
        return False
    if timer.due is None:
        return own is timer
    return (own.to, own.due_at(at)) == (timer.to, timer.due)


def _time_of(state: State) -> datetime | None:
    at = state.committed_at
    return None if at is None else to_utc("committed.committed_at", at)


def _is_relative(timer: Timer) -> bool:
    return type(timer) is Timer and timer.after is not None
