"""Every operation of the server drivers while the server stands still.

Each ends within a bound, says what is unknown, and can be cancelled; an engine can be closed; and
all of it works again when the server goes on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from flowstate import (
    Commit,
    CommitUnknownError,
    Delay,
    DriverError,
    End,
    Engine,
    FlowRegistry,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)
from flowstate.driver import Driver, DueQuery, Heartbeat, Seen, StateQuery
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from tests.generators.standstill import Running, standing_still

TIMEOUT = 1.0
SLACK = 4.0  # Of a busy machine, and of an outcome that is asked for once more.
BOUND = TIMEOUT + SLACK
SHUTDOWN = 0.5
Opened = tuple[Running, Callable[[], Driver]]
Verb = Callable[[Driver], Awaitable[object]]

pytestmark = pytest.mark.timeout(120)

READING: dict[str, Verb] = {
    "get_state": lambda driver: driver.get_state("a"),
    "get_state at a revision": lambda driver: driver.get_state("a", 1),
    "get_states": lambda driver: driver.get_states(StateQuery()),
    "get_data": lambda driver: driver.get_data("0" * 64),
    "get_due delays": lambda driver: driver.get_due(DueQuery("delay", everything=True)),
    "get_due stalls": lambda driver: driver.get_due(DueQuery("stall")),
    "get_liveness": lambda driver: driver.get_liveness(["a", "b"]),
}
WRITING: dict[str, Verb] = {
    "beat": lambda driver: driver.beat([Heartbeat("a", 1, 60.0, "note")]),
    "compact": lambda driver: driver.compact(1),
}
VERBS = READING | WRITING


@pytest.fixture(params=["postgres", "redis"])
def opened(request: pytest.FixtureRequest) -> Opened:
    """A server that may be stopped, and what makes drivers on one empty store of it."""
    if request.param == "postgres":
        server = request.getfixturevalue("private_postgres")
        schema = f"still_{time.monotonic_ns()}"
        return server, lambda: PostgresDriver(server.url(), schema=schema, timeout=TIMEOUT)
    server = request.getfixturevalue("private_redis")
    namespace = f"still-{time.monotonic_ns()}"
    return server, lambda: RedisDriver(server.url(), namespace=namespace, timeout=TIMEOUT)


@pytest.fixture
def flows() -> FlowRegistry:
    registry = FlowRegistry()
    registry.declare("work")
    return registry


async def ended(doing: Awaitable[object], bound: float = BOUND) -> object:
    """Return how something ended, which must be within the bound."""
    task = asyncio.ensure_future(doing)
    started = time.monotonic()
    done, _ = await asyncio.wait([task], timeout=bound)
    if not done:
        task.cancel()
        pytest.fail(f"it has not ended after {bound} s")
    seconds = time.monotonic() - started
    assert seconds <= bound, f"{seconds} s"
    return "cancelled" if task.cancelled() else task.exception() or task.result()


def engine_on(driver: Driver, flows: FlowRegistry) -> Engine:
    return Engine(driver, flows, shutdown_timeout=SHUTDOWN)


async def test_every_verb_ends_with_an_error(opened: Opened, flows: FlowRegistry) -> None:
    server, make = opened
    driver = make()
    async with engine_on(driver, flows) as engine:
        await engine.do(Commit(End(StateContext(State("a")))))
        with standing_still(server):
            outcomes = await asyncio.gather(*(ended(verb(driver)) for verb in VERBS.values()))
        ends = zip(VERBS, outcomes, strict=True)
        assert [end for end in ends if not isinstance(end[1], DriverError)] == []
        for verb in VERBS.values():
            await works(verb, driver)


async def works(verb: Verb, driver: Driver) -> object:
    """Return what an operation returns, once the server goes on: soon, if not at once."""
    give_up = time.monotonic() + 2 * BOUND
    while True:
        outcome = await ended(verb(driver))
        if not isinstance(outcome, DriverError) or time.monotonic() > give_up:
            assert not isinstance(outcome, Exception), repr(outcome)
            return outcome


@pytest.mark.parametrize("name", VERBS)
async def test_every_verb_can_be_cancelled(name: str, opened: Opened, flows: FlowRegistry) -> None:
    server, make = opened
    driver = make()
    async with engine_on(driver, flows) as engine:
        await engine.do(Commit(End(StateContext(State("a")))))
        with standing_still(server):
            task = asyncio.ensure_future(VERBS[name](driver))
            await asyncio.sleep(0.1)  # reason: nothing says that a request was sent
            task.cancel()
            await ended(task)
        await works(VERBS[name], driver)
        assert (await engine.get_state("a")).rev == 1


async def test_a_wait_for_changes_goes_on(opened: Opened, flows: FlowRegistry) -> None:
    server, make = opened
    driver = make()
    async with engine_on(driver, flows) as engine:
        watch = engine.watch(since_rev=0)
        async with watch as states:
            waiting = asyncio.ensure_future(anext(states))
            await driver.changed(Seen())
            with standing_still(server):
                await asyncio.sleep(2 * TIMEOUT)  # reason: time is what it is to stand still for
            await committed(engine, "a")
            outcome = await ended(waiting, 2 * BOUND)
            if isinstance(outcome, DriverError):  # It was told, and watches on.
                outcome = await ended(anext(states), 2 * BOUND)
            assert isinstance(outcome, State)
            assert outcome.id == "a"


async def committed(engine: Engine, id: str) -> None:
    """Commit a state, once the server goes on."""
    give_up = time.monotonic() + 2 * BOUND
    while True:
        outcome = await ended(engine.do(Commit(Pause(StateContext(State(id))))))
        if outcome is None or isinstance(outcome, RevisionMismatchError):
            return
        assert time.monotonic() < give_up, f"no commit gets through: {outcome!r}"


async def test_commits_end_and_say_what_is_unknown(opened: Opened, flows: FlowRegistry) -> None:
    server, make = opened
    async with engine_on(make(), flows) as engine:
        await engine.do(Commit(Transit(StateContext(State("first")), "work")))
        contexts = [StateContext(State(f"state-{number}")) for number in range(10)]
        delayed = StateContext(await engine.get_state("first"))
        commands: list[Any] = [Commit(Pause(ctx)) for ctx in contexts]
        commands.append(Delay(delayed, "work", after=timedelta(days=1)))
        with standing_still(server):
            doing = [ended(engine.do(command), 2 * BOUND) for command in commands]
            outcomes = await asyncio.gather(*doing)
        for outcome in outcomes:
            assert isinstance(outcome, DriverError | CommitUnknownError), repr(outcome)
        await committed(engine, "last")
        for ctx, outcome in zip(contexts, outcomes, strict=False):
            await check_outcome(engine, ctx, outcome)


async def check_outcome(engine: Engine, ctx: StateContext, outcome: object) -> None:
    """Look whether a commit that is said not to have happened has not, and try it again."""
    again = await ended(engine.do(Commit(Pause(ctx))))
    if isinstance(outcome, DriverError):
        assert again is None, f"{outcome!r}, and then {again!r}"
    state = await engine.get_state(ctx.current.id)
    found = await engine.get_states(since_rev=0, limit=1_000)
    assert [each.rev for each in found.states if each.id == state.id] == [state.rev]


async def test_a_timeout_around_a_commit_fires(opened: Opened, flows: FlowRegistry) -> None:
    server, make = opened
    async with engine_on(make(), flows) as engine:
        await committed(engine, "a")

        async def commit() -> None:
            async with asyncio.timeout(0.3):
                await engine.do(Commit(Pause(StateContext(State("b")))))

        with standing_still(server):
            outcome = await ended(commit())
        assert isinstance(outcome, TimeoutError | DriverError | CommitUnknownError), repr(outcome)
        await committed(engine, "b")


async def test_an_engine_is_closed(opened: Opened, flows: FlowRegistry) -> None:
    server, make = opened
    engine = engine_on(make(), flows)
    await engine.__aenter__()
    await committed(engine, "a")
    with standing_still(server):
        doing = asyncio.ensure_future(engine.do(Commit(Pause(StateContext(State("b"))))))
        await asyncio.sleep(0.05)  # reason: nothing says that a request was sent
        await ended(engine.__aexit__(None, None, None), SHUTDOWN + 2 * BOUND)
        await ended(doing)
    async with engine_on(make(), flows) as other:
        await committed(other, "c")


async def test_an_engine_does_not_open(opened: Opened, flows: FlowRegistry) -> None:
    server, make = opened
    async with engine_on(make(), flows):
        pass
    with standing_still(server):
        outcome = await ended(engine_on(make(), flows).__aenter__(), 2 * BOUND)
    assert isinstance(outcome, DriverError), repr(outcome)
