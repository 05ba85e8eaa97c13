"""Rate limits that instances share: the times of the last turns, in one state of the store."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from flowstate import Command, InvalidInputError, StateContext
from flowstate.engines.workflow.definition import helper
from flowstate.engines.workflow.managers import Manager
from flowstate.engines.workflow.marks import sleep, step
from flowstate.engines.workflow.shared import PATIENT, changed, now

__all__ = ["Turn", "rate_limit"]

PREFIX = "flowstate.rate."  # Of the ids of rate limits.
TURNS = "turns"  # The value of a rate limit.
MOST = 1_000


class Turn(Struct, frozen=True):
    """When it is the turn of who has asked for one.

    Attributes:
        at: the time.
        after: seconds from when it was asked for.
    """

    at: datetime
    after: float


async def _reserve(rate: str, count: int, per: float | timedelta) -> Turn:
    span = per if isinstance(per, timedelta) else timedelta(seconds=per)
    asked = await now()

    def reserve(ctx: StateContext) -> Sequence[Command[Any]]:
        turns = ctx.get(list[datetime], TURNS, default=[])
        full = [turns[-count] + span] if len(turns) >= count else []
        ctx.put([*turns, max([asked, *turns[-1:], *full])][-count:], TURNS)
        return ()

    at = (await changed(f"{PREFIX}{rate}", reserve)).get(list[datetime], TURNS)[-1]
    return Turn(at, max(0.0, (at - asked).total_seconds()))


@helper(name="flowstate.rate_limit")
async def _enter(_s: Any, rate: str, count: int, per: float | timedelta) -> datetime:
    if not 1 <= count <= MOST:
        raise InvalidInputError("count", f"must be from 1 to {MOST}, not {count}")
    turn = await step(_reserve, rate, count, per, name="reserve", retry=PATIENT)
    await sleep(turn.after, name="turn")  # Always, so that later keys do not depend on the time.
    return turn.at


@helper(name="flowstate.rate_limit-leave", shielded=True)
async def _leave(_s: Any, _at: datetime, _failed: bool) -> None:
    pass


rate_limit: Manager[datetime] = Manager(_enter, _leave)
