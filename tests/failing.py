"""Flows that fail, a store that fails, and what becomes of their states."""

from collections.abc import Sequence
from typing import Any

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FakeClock,
    RetryPolicy,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import DriverWrapper

__all__ = ["Calls", "THRICE", "Unreliable", "history", "new", "until_ended"]

THRICE = RetryPolicy(attempts=3, first=10.0, factor=2.0, jitter=False)


class Unreliable(DriverWrapper):
    """Fails commits on request.

    Attributes:
        failing: what the next commits raise, before they are stored or (``after``) after that.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.failing: list[Exception] = []
        self.is_after = False
        self.commits = 0

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.commits += 1
        verdicts = await super().commit(batch) if not self.failing or self.is_after else ()
        if self.failing:
            raise self.failing.pop(0)
        return verdicts


class Calls:
    """What a flow was called with, and what it does then.

    Attributes:
        outcomes: errors to be raised, one a call; after the last, the state is ended.
        at: when it was called, by the clock.
        keys: for effects.
        failures: as the context told them.
        errors: as the context told them.
    """

    def __init__(self, clock: FakeClock, *outcomes: BaseException) -> None:
        self.outcomes = list(outcomes)
        self.clock = clock
        self.at: list[float] = []
        self.keys: list[str] = []
        self.failures: list[int] = []
        self.errors: list[str] = []

    def __call__(self, ctx: StateContext, _: Engine) -> Command[None]:
        self.at.append(self.clock.monotonic())
        self.keys.append(ctx.effect_key)
        self.failures.append(ctx.failures)
        self.errors.append(ctx.error)
        if self.outcomes:
            raise self.outcomes.pop(0)
        return Commit(End(ctx))


async def new(engine: Engine, id: str = "a", to: str = "charge", **state: Any) -> StateContext:
    ctx = StateContext(State(id, **state))
    await engine.do(Commit(Transit(ctx, to)))
    return ctx


async def until_ended(engine: Engine, id: str = "a") -> State:
    async with engine.watch(since_rev=0) as states:
        async for state in states:
            if state.id == id and state.status is Status.ENDED:
                return state
    raise AssertionError("a watch has no end")


async def history(engine: Engine, id: str = "a") -> list[State]:
    return [state async for state in engine.states(since_rev=0) if state.id == id]
