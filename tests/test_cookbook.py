"""Every recipe does what it says, on each driver, and when its process dies at any commit."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from examples.cookbook import approval, call, idempotent, mutex, rate_limit, saga
from examples.cookbook.__main__ import NAMES, Recipe, load, main, run
from examples.cookbook.helpers import reached
from flowstate import (
    Clock,
    Commit,
    Delayer,
    Driver,
    DriverError,
    End,
    Engine,
    Execute,
    FakeClock,
    Pause,
    State,
    StateContext,
    Status,
    SystemClock,
    Transit,
)
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver

pytestmark = pytest.mark.repository

CAME_OUT = {
    "actor": ["total 15 after message 5"],
    "approval": ["car: expired", "holiday: approved"],
    "call": ["sum: 42"],
    "cron": [f"report 2030-01-01T00:{minute}:00+00:00: ended" for minute in (15, 30, 45)],
    "fork_join": ["build: ended, 0 parts left"],
    "idempotent": ["payment: 995 cents, receipt payment:1:charge"],
    "mutex": ["anna: ended", "ben: ended", "cleo: ended"],
    "rate_limit": [f"call {number}: ended" for number in range(10)],
    "saga": ["poor: 0 steps done", "rich: 3 steps done"],
    "work_queue": [f"mail {number}: ended" for number in range(5)],
}
TAKE_LONG = {"approval", "cron"}  # They wait for minutes or days, which only a fake clock skips.
SYSTEM_CLOCK = {"postgres", "redis"}
FOLDER = Path(mutex.__file__).parent


class World:
    """A store, whose processes come and go, and its clock."""

    def __init__(self, clock: Clock, driver: Callable[[], Driver]) -> None:
        self.clock = clock
        self.driver = driver

    async def log(self) -> list[State]:
        async with Engine(self.driver(), mutex.flows) as engine:
            return [state async for state in engine.states()]


def check_actor(log: list[State]) -> None:
    steps = [state.transition for state in log if state.id == "adder"]
    # What was interrupted goes on in the same step, at a revision that names where that began.
    handled = [step.annotations.get("handled") for step in steps if not step.origin]
    assert handled == [None, *(f"message {number}" for number in range(1, 6))]


def check_idempotent(log: list[State]) -> None:
    assert list(idempotent.bank.receipts) == ["payment:1:charge"]


def check_mutex(log: list[State]) -> None:
    inside = set[str]()
    for state in log:
        is_inside = state.status is Status.ACTIVE and state.transition.to in {
            "protected",
            "release",
        }
        (inside.add if is_inside else inside.discard)(state.id)
        assert len(inside) <= 1
    assert "holder" not in [state for state in log if state.id == mutex.LOCK][-1].annotations


def check_rate_limit(log: list[State]) -> None:
    resumed = [state for state in log if state.transition.cause == "resume"]
    times = [state.committed_at for state in resumed if state.committed_at is not None]
    assert [state.id for state in resumed] == [f"call {number}" for number in range(10)]
    assert all(b - a >= rate_limit.INTERVAL for a, b in pairwise(times))


def check_saga(log: list[State]) -> None:
    assert saga.services.booked == [("rich", step) for step in saga.STEPS]


def check_work_queue(log: list[State]) -> None:
    taken = [state.id for state in log if state.transition.cause == "resume"]
    assert taken == [f"mail {number}" for number in range(5)]


CHECKS: dict[str, Callable[[list[State]], None]] = {
    "actor": check_actor,
    "idempotent": check_idempotent,
    "mutex": check_mutex,
    "rate_limit": check_rate_limit,
    "saga": check_saga,
    "work_queue": check_work_queue,
}


def check(name: str, log: list[State]) -> None:
    """Look at what a recipe has left behind."""
    if name in CHECKS:
        CHECKS[name](log)


class Dying:
    """A driver whose process dies before one of its commits: nothing is written any more."""

    def __init__(self, driver: Driver, lives: int) -> None:
        self._driver = driver
        self._lives = lives
        self.died = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def __aenter__(self) -> Self:
        await self._driver.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._driver.__aexit__(exc_type, exc, traceback)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        alive, dead = batch[: self._lives], batch[self._lives :]
        self._lives -= len(alive)
        verdicts = await self._driver.commit(alive) if alive else []
        if dead:
            self.died.set()
        return [*verdicts, *(DriverError("the process is dead") for _ in dead)]


def in_memory() -> World:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    return World(clock, lambda: driver)


def on_sqlite(folder: Path) -> World:
    clock = FakeClock()
    return World(clock, lambda: SQLiteDriver(folder / "store.db", clock=clock))


def on_postgres(url: str, schema: str) -> World:
    return World(SystemClock(), lambda: PostgresDriver(url, schema=schema))


def on_redis(url: str, namespace: str) -> World:
    return World(SystemClock(), lambda: RedisDriver(url, namespace=namespace))


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "sqlite":
        return on_sqlite(request.getfixturevalue("tmp_path"))
    if request.param == "postgres":
        schema = request.getfixturevalue("postgres_schema")
        return on_postgres(request.getfixturevalue("postgres").url(), schema)
    if request.param == "redis":
        namespace = request.getfixturevalue("redis_namespace")
        return on_redis(request.getfixturevalue("redis_server").url(), namespace)
    return in_memory()


durable_world = pytest.mark.parametrize("world", ["sqlite", "postgres", "redis"], indirect=True)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    forget()


def forget() -> None:
    """Make the outside world of the recipes new."""
    saga.services.seen.clear()
    saga.services.booked.clear()
    idempotent.bank.receipts.clear()


async def run_and_die(recipe: Recipe, driver: Dying, clock: Clock) -> bool:
    """Run a recipe until its process dies; return whether it did before the recipe was done."""
    engine = Engine(driver, recipe.flows, clock=clock, shutdown_timeout=0)
    async with engine, Delayer(engine):
        demo = asyncio.create_task(recipe.demo(engine))
        death = asyncio.create_task(driver.died.wait())
        await asyncio.wait([demo, death], return_when=asyncio.FIRST_COMPLETED)
        for task in (demo, death):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, DriverError):
                await task
    return driver.died.is_set()


@pytest.mark.parametrize(
    ("world", "name"),
    [
        (driver, name)
        for driver in ("memory", "sqlite", "postgres", "redis")
        for name in NAMES
        if not (driver in SYSTEM_CLOCK and name in TAKE_LONG)
    ],
    indirect=["world"],
)
async def test_does_what_it_says(name: str, world: World) -> None:
    assert await run(load(name), world.driver(), world.clock) == CAME_OUT[name]
    check(name, await world.log())


@pytest.mark.parametrize("name", NAMES)
async def test_goes_on_after_a_death_at_any_commit(name: str) -> None:
    died, lives = True, 0
    while died:
        forget()
        world = in_memory()
        died = await run_and_die(load(name), Dying(world.driver(), lives), world.clock)
        assert await run(load(name), world.driver(), world.clock) == CAME_OUT[name], lives
        check(name, await world.log())
        lives += 1
    assert lives > 2


@durable_world
async def test_goes_on_in_a_new_process_after_a_death(world: World) -> None:
    assert await run_and_die(load("saga"), Dying(world.driver(), 5), world.clock)

    assert await run(load("saga"), world.driver(), world.clock) == CAME_OUT["saga"]


async def test_approval_counts_one_answer(world: World) -> None:
    async with Engine(world.driver(), approval.flows, clock=world.clock) as engine:
        ctx = StateContext(State("car"))
        await engine.do(Commit(Transit(ctx, "ask")))
        assert not await approval.decide(engine, "car", "approved", "too early")
        await engine.execute(ctx)
        answers = [approval.decide(engine, "car", "approved", who) for who in ("anna", "ben")]

        assert sorted(await asyncio.gather(*answers)) == [False, True]
        assert not await approval.decide(engine, "car", "rejected", "too late")


async def test_callee_ends_when_its_caller_has_moved_on(world: World) -> None:
    async with Engine(world.driver(), call.flows, clock=world.clock) as engine:
        caller = StateContext(State("sum"))
        await engine.do(Commit(Transit(caller, "call")))
        await engine.execute(caller)
        await engine.do(Commit(End(caller)))
        async with Delayer(engine):
            callee = await until_ended(engine, "sum/double")

        assert callee.transition.cause == "end"
        assert (await engine.get_state("sum")).transition.cause == "end"


@durable_world
async def test_mutex_keeps_workers_of_two_engines_apart(world: World) -> None:
    async with (
        Engine(world.driver(), mutex.flows) as one,
        Engine(world.driver(), mutex.flows) as two,
    ):
        await one.do(Commit(Pause(StateContext(State(mutex.LOCK)))))
        for number in range(20):
            engine = (one, two)[number % 2]
            ctx = mutex.worker(f"worker {number}")
            await engine.do(Commit(Transit(ctx, "acquire")), Execute(ctx))
        await reached(one, {"kind": "worker"}, 20)
    check_mutex(await world.log())


async def until_ended(engine: Engine, id: str) -> State:
    async with engine.watch(status=Status.ENDED) as states:
        async for state in states:
            if state.id == id:
                return state
    raise AssertionError(id)


def test_runs_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["call", "saga"])

    assert capsys.readouterr().out == (
        "call:\n  sum: 42\nsaga:\n  poor: 0 steps done\n  rich: 3 steps done\n"
    )


def test_every_recipe_is_run() -> None:
    other = {"__main__", "helpers"}

    assert {path.stem for path in FOLDER.glob("*.py")} - other == set(NAMES)
