"""``update``: what it commits, turns, shared revisions, and lost races."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    Noop,
    Pause,
    Put,
    Resume,
    Retry,
    RetryPolicy,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
    Transition,
)
from flowstate.driver import DuePage, DueQuery
from flowstate.drivers.memory import MemoryDriver
from flowstate.turns import turns_of
from tests.scripted import settled
from tests.updates import MANY, Store, add, commit_elsewhere, count


@pytest.fixture
def driver() -> Store:
    return Store()


@pytest.fixture
def flows() -> FlowRegistry:
    return FlowRegistry()


@pytest.fixture
async def engine(driver: Store, flows: FlowRegistry) -> AsyncIterator[Engine]:
    async with Engine(driver, flows, clock=FakeClock()) as engine:
        await engine.do(Commit(Pause(StateContext(State("a", labels={"kind": "x"})), {"why": "y"})))
        yield engine
        assert turns_of(driver.store_id)._lines == {}


# What it does


@pytest.fixture
async def clock_engine() -> AsyncIterator[Engine]:
    clock = FakeClock()
    async with Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine:
        yield engine


async def test_it_commits_what_the_change_made_of_the_state_and_no_step(engine: Engine) -> None:
    found = await engine.update("a", add)
    assert found == await engine.get_state("a")
    assert (found.rev, found.get(int, "n"), found.status) == (2, 1, Status.PAUSED)
    before = await engine.get_state("a", 1)
    assert (found.labels, found.transition) == (before.labels, before.transition)


async def test_a_change_may_be_async_and_return_commands(
    engine: Engine, flows: FlowRegistry
) -> None:
    flows.declare("work")
    other = StateContext(State("other"))

    async def one(ctx: StateContext) -> Command[None]:
        await asyncio.sleep(0)  # reason: it is async
        add(ctx)
        return Transit(ctx, "work")

    def several(ctx: StateContext) -> list[Command[Any]]:
        add(ctx)
        return [Delay(ctx, "work", after=timedelta(1)), Pause(other)]

    def commit(ctx: StateContext) -> Command[None]:
        return Commit(End(ctx))

    changes: list[Callable[[StateContext], Any]] = [one, several, commit]
    found = [await engine.update("a", change) for change in changes]
    assert [(s.rev, s.status, s.transition.to, s.get(int, "n")) for s in found] == [
        (2, Status.ACTIVE, "work", 1),
        (3, Status.ACTIVE, "work", 2),
        (5, Status.ENDED, "work", 2),
    ]
    assert found[1].delayed_until is not None
    assert other.committed.rev == 4


async def test_steps_and_commits_within_the_change_count(
    engine: Engine, flows: FlowRegistry
) -> None:
    flows.declare("work")

    async def step(ctx: StateContext) -> None:
        await engine.do(Transit(ctx, "work"))

    async def commit(ctx: StateContext) -> None:
        add(ctx)
        await engine.do(Commit(Transit(ctx, "work")))

    assert (await engine.update("a", step)).transition.to == "work"
    found = await engine.update("a", commit)
    assert (found.rev, found.get(int, "n"), await engine.head()) == (3, 1, 3)


async def test_a_change_that_changes_nothing_writes_nothing(engine: Engine) -> None:
    def same(ctx: StateContext) -> None:
        ctx.set_label("kind", "x")

    assert await engine.update("a", same) == await engine.get_state("a")
    assert await engine.update("a", lambda _: Noop()) == await engine.get_state("a")
    assert await engine.head() == 1


async def test_what_changes_nothing_is_still_decided_on_the_latest_revision(
    driver: Store, engine: Engine
) -> None:
    driver.gates = [gate := asyncio.Event()]
    first = asyncio.create_task(engine.update("a", add))
    await driver.reached.wait()  # It is committed, and has not heard of it.
    seen: list[int] = []
    second = asyncio.create_task(engine.update("a", lambda ctx: seen.append(ctx.current.rev)))
    await settled()
    async with Engine(driver._driver, FlowRegistry()) as other:
        await commit_elsewhere(other)
    gate.set()
    assert ((await first).rev, (await second).rev, seen) == (2, 3, [2, 3])


# Turns


async def test_async_changes_come_one_after_the_other_in_their_order(
    driver: Store, engine: Engine
) -> None:
    inside: list[int] = []
    order: list[int] = []

    def change(number: int) -> Callable[[StateContext], Awaitable[None]]:
        async def changing(ctx: StateContext) -> None:
            inside.append(number)
            await settled()
            assert inside == [number]
            order.append(number)
            add(ctx)
            inside.remove(number)

        return changing

    driver.reads = 0
    found = await asyncio.gather(*(engine.update("a", change(n)) for n in range(MANY)))
    assert order == list(range(MANY))
    assert [state.rev for state in found] == list(range(2, MANY + 2))
    assert await count(engine) == MANY
    assert driver.reads == 1 + 1  # The first one's, and that of the count.


async def test_engines_of_a_store_take_the_same_turns(driver: Store, engine: Engine) -> None:
    async with Engine(driver, FlowRegistry()) as other:
        driver.reads = 0
        engines = [engine, other] * MANY
        await asyncio.gather(*(each.update("a", add) for each in engines))
        assert driver.reads <= 2
    assert await count(engine) == 2 * MANY


async def test_plain_changes_that_wait_share_a_revision(driver: Store, engine: Engine) -> None:
    driver.reads = 0
    found = await asyncio.gather(*(engine.update("a", add) for _ in range(MANY)))
    assert [state.rev for state in found] == [2] + [3] * (MANY - 1)
    assert found[0].get(int, "n") == 1
    assert await count(engine) == MANY


async def test_each_change_is_called_in_the_context_of_its_caller(engine: Engine) -> None:
    user: ContextVar[str] = ContextVar("user")

    async def caller(name: str) -> None:
        user.set(name)
        await engine.update("a", lambda ctx: ctx.set_annotation(name, user.get()))

    names = [f"user-{number}" for number in range(MANY)]
    await asyncio.gather(*map(caller, names))
    assert (await engine.get_state("a")).annotations == {name: name for name in names}


async def test_what_raises_or_returns_commands_among_those_that_share_is_for_itself(
    engine: Engine,
) -> None:
    calls: list[str] = []

    def fails(ctx: StateContext) -> None:
        calls.append("fails")
        add(ctx)
        raise ZeroDivisionError

    def ends(ctx: StateContext) -> Command[None]:
        calls.append("ends")
        add(ctx)
        return End(ctx)

    changes: list[Callable[[StateContext], Any]] = [add, add, fails, add, ends, add, add]
    found = await asyncio.gather(
        *(engine.update("a", change) for change in changes), return_exceptions=True
    )
    assert isinstance(found[2], ZeroDivisionError)
    states = [state for state in found if isinstance(state, State)]
    assert [state.rev for state in states] == [2, 3, 4, 5, 6, 6]
    assert [state.status for state in states].index(Status.ENDED) == 3
    assert (await count(engine), calls) == (6, ["fails", "fails", "ends", "ends"])


async def test_what_is_refused_among_those_that_share_is_refused_alone(engine: Engine) -> None:
    def spoils(ctx: StateContext) -> None:
        ctx.set_label("kind", "\0")

    changes = [add, add, spoils, add, add]
    found = await asyncio.gather(
        *(engine.update("a", change) for change in changes), return_exceptions=True
    )
    assert [isinstance(each, InvalidInputError) for each in found] == [
        change is spoils for change in changes
    ]
    assert await count(engine) == 4


# Lost races


async def test_a_lost_race_calls_again_with_what_won(engine: Engine) -> None:
    seen: list[int] = []

    async def change(ctx: StateContext) -> None:
        seen.append(ctx.current.rev)
        add(ctx)
        if len(seen) < 4:
            await commit_elsewhere(engine)

    began = engine.clock.monotonic()
    assert (await engine.update("a", change)).rev == 5
    assert (seen, await count(engine)) == ([1, 2, 3, 4], 1)
    assert 0.0 < engine.clock.monotonic() - began < 1.0


async def test_it_loses_at_most_as_many_races_as_it_may(engine: Engine) -> None:
    calls = 0

    async def change(ctx: StateContext) -> None:
        nonlocal calls
        calls += 1
        add(ctx)
        await commit_elsewhere(engine)

    with pytest.raises(RevisionMismatchError) as raised:
        await engine.update("a", change, attempts=3)
    assert (raised.value.ids, calls, await count(engine)) == (("a",), 3, 0)


async def test_a_race_that_all_of_those_lose_who_share_is_run_again_by_all(
    driver: Store, engine: Engine
) -> None:
    driver.gates = [gate := asyncio.Event()]
    updates = [asyncio.create_task(engine.update("a", add)) for _ in range(MANY)]
    await driver.reached.wait()
    async with Engine(driver._driver, FlowRegistry()) as other:
        await commit_elsewhere(other)
    gate.set()
    found = await asyncio.gather(*updates)
    assert [state.rev for state in found] == [2] + [4] * (MANY - 1)
    assert await count(engine) == MANY


async def test_a_pause_after_a_failure_goes_on(clock_engine: Engine) -> None:
    calls: list[float] = []
    clock = clock_engine.clock

    @clock_engine.flows.flow("charge", retry=RetryPolicy(first=100.0, jitter=False))
    async def charge(ctx: StateContext, engine: Engine) -> Command:
        calls.append(clock.monotonic())
        if len(calls) == 1:
            raise OSError("no answer")
        return Commit(End(ctx))

    ctx = StateContext(State("order"))
    await clock_engine.do(Commit(Transit(ctx, "charge")))
    await clock_engine.execute(ctx)

    async with Delayer(clock_engine):
        for n in range(3):
            await clock.sleep(30.0)
            await clock_engine.update("order", partial(StateContext.put, value=n))
        await clock_engine.wait_for("order", status=Status.ENDED)

    assert calls[1] - calls[0] == pytest.approx(100.0)
    assert (await clock_engine.get_state("order")).get(int) == 2


# What stays as it was


async def test_an_update_that_moves_nothing_says_since_when(clock_engine: Engine) -> None:
    clock_engine.flows.declare("work")
    ctx = StateContext(State("order"))
    await clock_engine.do(Commit(Transit(ctx, "work")))
    found = [await clock_engine.update("order", add) for _ in range(2)]
    assert [(state.rev, state.transition.since) for state in found] == [(2, 1), (3, 1)]
    assert {state.transition.origin for state in found} == {"1"}
    ctx = StateContext(found[-1])
    ctx.put("progress")
    await clock_engine.do(Commit(Put(ctx)))
    assert (ctx.committed.transition.since, ctx.committed.transition.origin) == (0, "1")
    for command in (Retry(ctx), Pause(ctx), Resume(ctx)):
        await clock_engine.do(Commit(Put(changed(ctx), keep=True)))
        assert ctx.committed.transition.since > 0
        await clock_engine.do(Commit(command))
        assert ctx.committed.transition.since == 0
    assert ctx.fork("other").current.transition.since == 0


def changed(ctx: StateContext) -> StateContext:
    ctx.put(ctx.current.rev)
    return ctx


async def test_what_is_no_revision_cannot_be_since(clock_engine: Engine) -> None:
    clock_engine.flows.declare("work")
    for since in (-1, "1", None, True):
        ctx = StateContext(State("order", transition=Transition("work", since=since)))  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="since"):
            await clock_engine.do(Delay(ctx, "work", after=timedelta(1)))


async def test_whether_to_keep_is_true_or_false(clock_engine: Engine) -> None:
    with pytest.raises(InvalidInputError, match="keep"):
        await clock_engine.do(Commit(Put(StateContext(State("order")), keep=1)))  # type: ignore[arg-type]


async def test_a_step_in_the_same_commit_keeps_nothing(clock_engine: Engine) -> None:
    clock_engine.flows.declare("work")
    ctx = StateContext(State("order"))
    await clock_engine.do(Commit(Delay(ctx, "work", after=timedelta(1))))
    assert ctx.committed.delayed_until is not None
    await clock_engine.do(Commit(Retry(ctx), Put(ctx, keep=True)))
    assert ctx.committed.delayed_until is None
    assert list((await clock_engine.get_delayed_states()).delayed) == []


async def test_a_delay_that_loses_to_an_update_is_tried_again(clock_engine: Engine) -> None:
    clock, pages = clock_engine.clock, Overtaken(clock_engine)

    @clock_engine.flows.flow("late")
    async def late(ctx: StateContext, engine: Engine) -> Command:
        return Commit(End(ctx))

    ctx = StateContext(State("order"))
    await clock_engine.do(Commit(Delay(ctx, "late", after=timedelta(seconds=5))))
    async with Delayer(clock_engine, poll_interval=0.5):
        pages.begin()
        await clock.sleep(6.0)
        await clock_engine.wait_for("order", status=Status.ENDED)
    assert pages.updates == 1
    assert (await clock_engine.get_state("order")).get(int, "n") == 1


class Overtaken:
    """Lets an update come between the first page with a due delay and the commit of that."""

    def __init__(self, engine: Engine) -> None:
        self.updates = 0
        self._engine = engine
        self._get_due = engine.driver.get_due

    def begin(self) -> None:
        self._engine.driver.get_due = self.get_due  # type: ignore[method-assign]

    async def get_due(self, query: DueQuery) -> DuePage:
        page = await self._get_due(query)
        if page.due and not self.updates:
            self.updates += 1
            await self._engine.update("order", add)
        return page
