"""Timers at random: rows and states agree, and each fires once, whatever happens to a state."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from random import Random

import pytest

from flowstate import (
    CancelTimer,
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    Forget,
    InvalidCommandError,
    Pause,
    Put,
    RevisionMismatchError,
    SetTimer,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Transit,
)
from tests.timers import Recorder, opened


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Recorder:
    return Recorder(clock)


@pytest.fixture
async def engine(driver: Recorder, clock: FakeClock) -> AsyncIterator[Engine]:
    async with opened(driver, clock) as engine:
        yield engine


async def pause(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(Pause(ctx))


IDS, NAMES = ("a", "b", "c"), ("t", "u")


class Chance:
    """Does something at random with states that have timers, and looks whether all agrees."""

    def __init__(self, engine: Engine, clock: FakeClock, seed: int) -> None:
        self.engine, self.clock, self.rng = engine, clock, Random(seed)
        self.contexts = {id: StateContext(State(id)) for id in IDS}
        self.lost = 0

    def commands(self, ctx: StateContext) -> list[Command[None]]:
        """Return what is done with a state by one commit."""
        rng, after = self.rng, timedelta(seconds=self.rng.randrange(6))
        name, now = rng.choice(NAMES), self.clock.now()
        choices: list[list[Command[None]]] = [
            [SetTimer(ctx, name, "ring", after=after), Put(ctx)],
            [SetTimer(ctx, name, "work", until=now + after), Transit(ctx, "work")],
            [CancelTimer(ctx, name), Pause(ctx)],
            [Pause(ctx)],
            [Transit(ctx, "work")],
            [Delay(ctx, "ring", after=after, commit=rng.random() < 0.5)],
            [End(ctx)],
            [End(ctx), Forget(ctx)],
        ]
        found = rng.choice(choices)
        is_over = ctx.current.status is Status.ENDED and isinstance(found[0], SetTimer)
        return [Transit(ctx, "work"), *found] if is_over else found

    async def step(self) -> None:
        rng = self.rng
        id = rng.choice(IDS)
        if rng.random() < 0.6:
            await self.read(id)
        ctx = self.contexts[id]
        try:
            for command in self.commands(ctx) if rng.random() < 0.2 else ():
                if not isinstance(command, Put | Delay):
                    await self.engine.do(command)
            await self.engine.do(Commit(*self.commands(ctx)))
        except (RevisionMismatchError, InvalidCommandError):
            self.lost += 1
            await self.read(id)
        if rng.random() < 0.5:
            await self.clock.sleep(rng.choice([0.0, 0.5, 1.0, 3.0]))

    async def read(self, id: str) -> None:
        try:
            state = await self.engine.get_state(id)
        except StateNotFoundError:
            state = State(id)
        self.contexts[id] = StateContext(state)

    async def rows(self) -> dict[tuple[str, str], datetime]:
        page = await self.engine.get_delayed_states(limit=1_000)
        return {(row.state.id, row.timer): row.due for row in page.delayed if row.timer}

    async def promised(self) -> dict[tuple[str, str], datetime | None]:
        """Return the timers of all states, as their latest revisions have them."""
        return {
            (state.id, name): state.timer_due(name)
            async for state in self.engine.states(latest_only=True)
            for name in state.timers
        }


def check_log(log: list[State]) -> int:
    """Each timer that fired was there, was due, and is gone; return how many have fired."""
    latest: dict[str, State] = {}
    count = 0
    for state in log:
        before = latest.get(state.id, State(state.id))
        if state.transition.cause == "timer":
            due = before.timer_due(name := StateContext(state).timer)
            assert due is not None
            assert state.committed_at is not None
            assert state.committed_at >= due
            assert {*before.timers} - {*state.timers} == {name}
            count += 1
        for name in {*before.timers} & {*state.timers}:
            timer, due = state.timers[name], before.timer_due(name)
            assert timer.after is not None or timer.due is not None
            if state.transition.cause in {"delay", "timer", "end"}:
                assert (timer.due, timer.to) == (due, before.timers[name].to)
        latest[state.id] = State(state.id) if state.transition.cause == "forget" else state
    return count


@pytest.mark.parametrize("seed", range(40))
async def test_rows_and_states_agree_whatever_happens(
    engine: Engine, clock: FakeClock, seed: int
) -> None:
    chance = Chance(engine, clock, seed)
    engine.flows.set("ring", pause, replace=True)
    async with Delayer(engine, poll_interval=0.5, rng=Random(seed)):
        for _ in range(150):
            await chance.step()
            assert await chance.rows() == await chance.promised()
        await clock.sleep(60.0)
        await engine.idle()
    assert await chance.rows() == await chance.promised() == {}
    assert check_log([state async for state in engine.states()]) > 0
    assert 0 < chance.lost < 150
