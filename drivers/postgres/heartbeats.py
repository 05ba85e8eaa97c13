"""Heartbeats: one statement for many, and what becomes of those whose row was locked."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from flowstate.driver import Heartbeat
from flowstate.drivers.kit.resolving import Backoff
from flowstate.errors import StoreBusyError

__all__ = ["beat"]

CHUNK = 1_000  # Commits of the same states wait while a statement goes through so many.
LONGEST = 365_000 * 86_400.0  # Beyond the last time that there is.
Ask = Callable[..., Awaitable[list[tuple[Any, ...]]]]


async def beat(
    heartbeats: Sequence[Heartbeat], ask: Ask, backoff: Callable[[], Backoff], name: str
) -> list[bool]:
    """Note heartbeats; return for each whether its revision is the latest of its state.

    Args:
        heartbeats: to be noted.
        ask: runs the statement with its parameters, perhaps more than once.
        backoff: makes pauses.
        name: of the store, for errors.

    Raises:
        DriverError: they could not be noted, or not all of them.
    """
    found: list[bool] = []
    for start in range(0, len(heartbeats), CHUNK):
        found += await _beat(heartbeats[start : start + CHUNK], ask, backoff(), name)
    return found


async def _beat(
    heartbeats: Sequence[Heartbeat], ask: Ask, backoff: Backoff, name: str
) -> list[bool]:
    """Ask until no row is locked: the statement passes over those, and waits for none.

    Normally a commit holds it, and then the heartbeat comes too late: no later look at the row
    finds its revision to be the latest.
    """
    answers = await _noted(heartbeats, ask)
    while left := [place for place, answer in enumerate(answers) if answer is None]:
        if not await backoff.pause():
            id = heartbeats[left[0]].id
            raise StoreBusyError(f"{name}: the latest revision of {id!r} was locked for too long")
        found = await _noted([heartbeats[place] for place in left], ask)
        for place, answer in zip(left, found, strict=True):
            answers[place] = answer
    return [bool(answer) for answer in answers]


async def _noted(heartbeats: Sequence[Heartbeat], ask: Ask) -> list[bool | None]:
    ((answers,),) = await ask(
        [beat.id for beat in heartbeats],
        [beat.rev for beat in heartbeats],
        [_micros(beat.seconds) for beat in heartbeats],
        [beat.note for beat in heartbeats],
    )
    return list(answers)


def _micros(seconds: float | None) -> int | None:
    return None if seconds is None else round(max(0.0, min(seconds, LONGEST)) * 1_000_000)
