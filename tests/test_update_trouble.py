"""Updates that are refused, fail, lie within each other, or are cancelled, and what they leave."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    CommitUnknownError,
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
    Receive,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    StoreUnavailableError,
)
from flowstate.turns import turns_of
from tests.scripted import settled, turns_until
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


async def test_an_unreachable_store_is_waited_for_once_by_all(
    driver: Store, engine: Engine, flows: FlowRegistry
) -> None:
    flows.declare("work")

    async def change(ctx: StateContext) -> None:
        add(ctx)

    await engine.do(Commit(Pause(StateContext(State("b")))))
    for send in (
        lambda: engine.update("a", add),
        lambda: engine.update("a", change),
        lambda: engine.signal("a", "m"),
        lambda: engine.do(Commit(Receive(StateContext(State("b", 2)), "m", to="work"))),
    ):
        driver.answers = [StoreUnavailableError("on purpose")]
        found = await asyncio.gather(*(send() for _ in range(MANY)), return_exceptions=True)
        assert [type(each) for each in found] == [StoreUnavailableError] * MANY
    assert await count(engine) == 0


async def test_what_is_unreachable_for_one_change_is_so_for_no_other(engine: Engine) -> None:
    async def asks_elsewhere(ctx: StateContext) -> None:
        raise StoreUnavailableError("of something else")

    changes: list[Any] = [asks_elsewhere, *[add] * MANY]
    found = await asyncio.gather(
        *(engine.update("a", change) for change in changes), return_exceptions=True
    )
    assert [type(each) for each in found] == [StoreUnavailableError, *[State] * MANY]
    assert await count(engine) == MANY


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


class Outcome(BaseException):
    """As the one by which a test runner fails a test."""


def _raises(_: StateContext) -> None:
    raise Outcome


def _is_cancelled(_: StateContext) -> None:
    raise asyncio.CancelledError


def _is_elsewhere(ctx: StateContext) -> None:
    ctx.committed = State("a", 77)


def _is_another(ctx: StateContext) -> None:
    ctx.current = ctx.committed = State("b", 2)


def _has_no_data(ctx: StateContext) -> None:
    del ctx.data


@pytest.mark.parametrize(
    "spoils", [_raises, _is_cancelled, _is_elsewhere, _is_another, _has_no_data]
)
async def test_a_change_that_spoils_its_context_spoils_no_other(
    engine: Engine, spoils: Callable[[StateContext], None]
) -> None:
    await engine.do(Commit(Pause(StateContext(State("b")))))
    for place in range(3):
        changes: list[Any] = [add, add]
        changes.insert(place, spoils)
        updates = [asyncio.create_task(engine.update("a", change)) for change in changes]
        await asyncio.wait(updates)
        spoilt = updates.pop(place)
        assert [update.result().id for update in updates] == ["a", "a"]
        if not spoilt.cancelled():
            spoilt.exception()
        assert await count(engine) == 2 * (place + 1)
    assert await count(engine, "b") == 0


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


@pytest.mark.parametrize("places", [["a", "b"], ["a", "b", "c"]])
async def test_updates_within_each_other_crosswise_come_to_an_end(
    engine: Engine, places: list[str]
) -> None:
    await engine.do(Commit(*[Pause(StateContext(State(id))) for id in ("b", "c")]))
    all_inside = asyncio.Barrier(len(places))

    def move(to: str) -> Callable[[StateContext], Any]:
        calls: list[str] = []

        async def change(ctx: StateContext) -> None:
            calls.append(to)
            if len(calls) == 1:
                await all_inside.wait()
                await asyncio.gather(engine.update(to, add))
            add(ctx)

        return change

    next_to = [*places[1:], places[0]]
    await asyncio.gather(
        *(engine.update(id, move(to)) for id, to in zip(places, next_to, strict=True))
    )
    assert [await count(engine, id) for id in places] == [2] * len(places)


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
