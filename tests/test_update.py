"""``update``: turns, shared commits, lost races, refusals, cancellation, what is left behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    CommitUnknownError,
    Delay,
    DriverError,
    End,
    Engine,
    EngineStoppedError,
    Execute,
    FakeClock,
    FlowRegistry,
    InvalidCommandError,
    InvalidInputError,
    Noop,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Transit,
)
from flowstate.driver import Verdict, Writes
from flowstate.turns import turns_of
from tests.scripted import Scripted, settled, turns_until

MANY = 16


class Store(Scripted):
    """A scripted driver that also counts reads, and answers the next commits otherwise.

    Attributes:
        reads: of single states, so far.
        answers: what the next batches are answered, instead of being stored.
        gates: each holds the verdicts of one batch back, after it was stored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.answers: list[Exception] = []
        self.gates: list[asyncio.Event] = []

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        self.reads += 1
        return await super().get_state(id, rev)

    async def commit(self, batch: list[Writes]) -> list[Verdict]:  # type: ignore[override]
        if self.answers:
            return [self.answers.pop(0)] * len(batch)  # type: ignore[list-item]
        verdicts = list(await super().commit(batch))
        if self.gates:
            gate = self.gates.pop(0)
            self.reached.set()
            await gate.wait()
            self.reached.clear()
        return verdicts


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


def add(ctx: StateContext) -> None:
    ctx.put(ctx.get(int, "n", default=0) + 1, "n")


async def count(engine: Engine, id: str = "a") -> int:
    return (await engine.get_state(id)).get(int, "n", default=0)


async def commit_elsewhere(engine: Engine, id: str = "a") -> None:
    """Commit a state as another process would: without a turn."""
    ctx = StateContext(await engine.get_state(id))
    await engine.do(Commit(Pause(ctx)))


# What it does


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


# Refusals and failures


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (lambda _: 5, "change"),
        (lambda _: {"a": 1}, "change"),
        (lambda _: "Noop", "change"),
        (lambda _: (Noop(), 5), "commit"),
        (Execute, "commit"),
        (lambda ctx: [Commit(End(ctx))], "commit"),
        (lambda ctx: setattr(ctx, "current", State("b")), "state.id"),
        (lambda ctx: setattr(ctx, "current", 5), "state"),
        (lambda ctx: ctx.put("x" * 2_000_000), "values['value']"),
    ],
)
async def test_nonsense_is_refused_and_leaves_the_state_alone(
    engine: Engine, made: Callable[[StateContext], Any], field: str
) -> None:
    async def made_later(ctx: StateContext) -> Any:
        return made(ctx)

    for change in (made, made_later):
        with pytest.raises(InvalidInputError) as caught:
            await engine.update("a", change)
        assert caught.value.field == field
    assert await engine.head() == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"id": ""}, "id"),
        ({"change": "add"}, "change"),
        ({"attempts": 0}, "attempts"),
        ({"attempts": True}, "attempts"),
    ],
)
async def test_bad_arguments_are_refused(
    engine: Engine, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await engine.update(**{"id": "a", "change": add, **arguments})
    assert caught.value.field == field


async def test_an_unknown_state_is_not_made(engine: Engine) -> None:
    found = await asyncio.gather(
        *(engine.update("b", add) for _ in range(3)), return_exceptions=True
    )
    assert [type(each) for each in found] == [StateNotFoundError] * 3


@pytest.mark.parametrize("error", [DriverError("on purpose"), CommitUnknownError("t")])
async def test_a_commit_that_fails_fails_its_caller(
    driver: Store, engine: Engine, error: Exception
) -> None:
    driver.answers = [error]
    with pytest.raises(type(error)):
        await engine.update("a", add)
    assert (await engine.update("a", add)).get(int, "n") == 1


async def test_an_unknown_outcome_is_that_of_all_who_share(driver: Store, engine: Engine) -> None:
    driver.gates = [gate := asyncio.Event()]
    updates = [asyncio.create_task(engine.update("a", add)) for _ in range(MANY)]
    await driver.reached.wait()
    driver.answers = [CommitUnknownError("t")]
    gate.set()
    found = await asyncio.gather(*updates, return_exceptions=True)
    assert [type(each) for each in found] == [State] + [CommitUnknownError] * (MANY - 1)
    assert await count(engine) == 1


async def test_an_engine_that_stops_refuses_those_who_wait(driver: Store) -> None:
    async with Engine(driver, FlowRegistry()) as engine:
        await engine.do(Commit(Pause(StateContext(State("a")))))
        go = asyncio.Event()

        async def waits(ctx: StateContext) -> None:
            await go.wait()
            add(ctx)

        updates = [asyncio.create_task(engine.update("a", c)) for c in (waits, add, waits)]
        await settled()
    go.set()
    found = await asyncio.gather(*updates, return_exceptions=True)
    assert [type(each) for each in found] == [EngineStoppedError] * 3


# Within each other


async def test_an_update_within_a_change_of_the_same_state_is_refused(engine: Engine) -> None:
    async def inside(ctx: StateContext) -> None:
        add(ctx)
        await engine.update("a", add)

    async def in_a_task(ctx: StateContext) -> None:
        add(ctx)
        await asyncio.gather(engine.update("a", add))

    for change in (inside, in_a_task):
        with pytest.raises(InvalidCommandError, match="is being changed by the caller already"):
            await engine.update("a", change)
    assert await count(engine) == 0


async def test_an_update_within_a_change_of_another_state_is_fine(engine: Engine) -> None:
    await engine.do(Commit(Pause(StateContext(State("b")))))

    async def inside(ctx: StateContext) -> None:
        add(ctx)
        await engine.update("b", add)

    await engine.update("a", inside)
    assert (await count(engine), await count(engine, "b")) == (1, 1)


async def test_what_a_change_starts_in_the_background_waits_for_its_turn(
    engine: Engine, flows: FlowRegistry
) -> None:
    @flows.flow("child")
    async def child(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.update("a", add)
        return Commit(End(ctx))

    async def starts(ctx: StateContext) -> None:
        await engine.start(StateContext(State("child")), "child")
        await settled()
        add(ctx)

    await engine.update("a", starts)
    await engine.wait_for("child", status=Status.ENDED)
    assert await count(engine) == 2


# Cancellation


async def cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_cancelled_before_its_turn_it_is_not_done(engine: Engine) -> None:
    go = asyncio.Event()

    async def waits(ctx: StateContext) -> None:
        add(ctx)
        await go.wait()

    first = asyncio.create_task(engine.update("a", waits))
    others = [asyncio.create_task(engine.update("a", add)) for _ in range(3)]
    await settled()
    await cancel(others[1])
    go.set()
    await asyncio.gather(first, others[0], others[2])
    assert await count(engine) == 3


async def test_cancelled_when_its_turn_has_just_come_it_passes_it_on(engine: Engine) -> None:
    go = asyncio.Event()

    async def waits(ctx: StateContext) -> None:
        await go.wait()
        add(ctx)

    first, second, third = (asyncio.create_task(engine.update("a", waits)) for _ in range(3))
    await settled()
    first.add_done_callback(lambda _: second.cancel())
    go.set()
    await asyncio.wait([first, second, third])
    assert (second.cancelled(), await count(engine)) == (True, 2)


async def test_cancelled_in_its_change_it_is_not_done(engine: Engine) -> None:
    async def waits(ctx: StateContext) -> None:
        add(ctx)
        await asyncio.Event().wait()

    first = asyncio.create_task(engine.update("a", waits))
    second = asyncio.create_task(engine.update("a", add))
    await settled()
    await cancel(first)
    await second
    assert await count(engine) == 1


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("who", ["the one that leads", "one that shares", "all"])
async def test_cancelled_while_its_commit_is_on_its_way_it_is_done(
    driver: Store, engine: Engine, who: str, times: int
) -> None:
    driver.gates = [first, gate] = [asyncio.Event(), asyncio.Event()]
    updates = [asyncio.create_task(engine.update("a", add)) for _ in range(MANY)]
    await driver.reached.wait()
    first.set()
    await turns_until(lambda: not driver.gates and driver.reached.is_set())
    # Now all the others share a commit.
    chosen = {"the one that leads": updates[1:2], "one that shares": updates[5:6], "all": updates}
    for _ in range(times):
        for task in chosen[who]:
            task.cancel()
        await settled()
    late = asyncio.create_task(engine.update("a", add))
    await settled()
    assert await count(engine) == MANY
    gate.set()
    await asyncio.wait([*updates, late])
    cancelled = [task for task in updates if task.cancelled()]
    assert cancelled == [task for task in chosen[who] if task is not updates[0]]
    assert await count(engine) == MANY + 1


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_while_the_shared_race_is_lost_it_is_not_done_again(
    driver: Store, engine: Engine, times: int
) -> None:
    driver.gates = [first, gate] = [asyncio.Event(), asyncio.Event()]
    updates = [asyncio.create_task(engine.update("a", add)) for _ in range(MANY)]
    await driver.reached.wait()
    async with Engine(driver._driver, FlowRegistry()) as other:
        await commit_elsewhere(other)
    first.set()
    await turns_until(lambda: not driver.gates and driver.reached.is_set())
    for _ in range(times):
        updates[5].cancel()
        await settled()
    gate.set()
    await asyncio.wait(updates)
    assert [task for task in updates if task.cancelled()] == [updates[5]]
    assert await count(engine) == MANY - 1


# What is left behind


async def test_no_turn_is_kept_of_states_that_are_not_being_changed(engine: Engine) -> None:
    contexts = [StateContext(State(f"{number}")) for number in range(1_000)]
    for start in range(0, 1_000, 100):
        await engine.do(Commit(*map(Pause, contexts[start : start + 100])))
    await asyncio.gather(
        *(engine.update(ctx.current.id, add) for ctx in contexts for _ in range(3))
    )
    assert turns_of(engine.driver.store_id)._lines == {}
    assert await count(engine, "999") == 3
