"""Instances of a workflow that sleep for a year."""

from collections.abc import Iterator

from msgspec.structs import replace

from benchmarks.definitions import Nothing, sleeper
from flowstate import Engine, FlowRegistry, State
from flowstate.codec import DelayBody, encode_body, encode_delay
from flowstate.driver import NewTimer, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.workflow import Workflows
from flowstate.timers import timer_id

__all__ = ["asleep", "sleeping_writes"]


async def asleep() -> State:
    """Return the state of an instance that sleeps."""
    async with Engine(MemoryDriver(), FlowRegistry()) as engine:
        async with Workflows(engine, [sleeper]) as workflows:
            await workflows.start(sleeper, "asleep", Nothing())
            await engine.idle()
        return await engine.get_state("asleep")


def sleeping_writes(state: State, count: int) -> Iterator[Writes]:
    """Return the commits of so many instances that sleep as one does."""
    new = replace(state, rev=0, committed_at=None)
    for number in range(count):
        yield _writes(replace(new, id=f"asleep-{number}"))


def _writes(state: State) -> Writes:
    rows = [
        NewTimer(
            timer_id(state.id, name),
            name,
            0,
            timer.to,
            timer.due,
            timer.after,
            encode_delay(DelayBody(timer.to, timer=name)),
        )
        for name, timer in state.timers.items()
    ]
    body = encode_body(state)
    return Writes(state.id, (state,), (body,), timers=tuple(rows), size=len(body))
