"""Every recipe does what it says, on each driver, and when its process dies at any commit."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from psycopg_pool import AsyncConnectionPool

from examples.cookbook import (
    approval,
    call,
    escalation,
    idempotent,
    mutex,
    projection,
    rate_limit,
    rename,
    saga,
    schedule,
    webhook,
)
from examples.cookbook.__main__ import NAMES, Recipe, load, main, run
from examples.cookbook.helpers import begin, reached
from flowstate import (
    Clock,
    Commit,
    Delayer,
    Driver,
    DriverError,
    End,
    Engine,
    FakeClock,
    InvalidCommandError,
    Report,
    State,
    StateContext,
    Status,
    SystemClock,
    Transit,
)
from flowstate import check as find_problems
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testing import Outcome, explore_crashes
from tests.servers import Postgres

pytestmark = pytest.mark.repository

CAME_OUT = {
    "actor": ["total 15"],
    "approval": ["car: expired", "holiday: approved"],
    "batch_import": [
        "progress: [0, 100, 200, 250]",
        "248 rows; refused: line 100: ?, line 200: ?",
    ],
    "call": ["sum: 42"],
    "cron": [f"report 2030-01-01T00:{minute}:00+00:00: ended" for minute in (15, 30, 45)],
    "escalation": [
        "car: expired",
        "holiday: approved",
        "to anna's boss: car?",
        "to anna: car?",
        "to anna: holiday?",
    ],
    "fork_join": ["build: ended, 0 parts left"],
    "idempotent": ["payment: 995 cents, receipt payment:1:charge"],
    "mutex": ["anna: ended", "ben: ended", "cleo: ended"],
    "rate_limit": [f"call {number}: ended" for number in range(10)],
    "rename": ["bill 1: ended"],
    "saga": ["poor: 0 steps done", "rich: 3 steps done"],
    "schedule": [
        "job of 2030-03-30T02:30:00+01:00",
        "job of 2030-03-31T03:00:00+02:00",
        "job of 2030-04-01T02:30:00+02:00",
        "job of 2030-10-26T02:30:00+02:00",
        "job of 2030-10-27T02:30:00+02:00",
        "job of 2030-10-28T02:30:00+01:00",
    ],
    "webhook": ["order 0 ended", "order 1 ended", "order 2 ended"],
    "work_queue": [f"mail {number}: ended" for number in range(5)],
}
SOONER = {"schedule": [f"job of 2030-01-0{day}T02:30:00+01:00" for day in (2, 3, 4)]}
# They wait for minutes or days, which only a fake clock skips.
TAKE_LONG = {"approval", "cron", "escalation", "rename", "schedule"}
# Those that go on for ever are over when their demo is.
UNTIL: dict[str, Callable[[Mapping[str, State]], bool]] = {"cron": lambda _: True}
# Values that follow from when something comes: the last call of those that wait at the same time,
# and the slot for which a plan waits when it is stopped.
IGNORED = {"rate_limit": ["call"], "schedule": ["value"]}
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
    totals = [state.get(int) for state in log if state.id == "adder"]
    assert [b - a for a, b in pairwise(totals) if a != b] == [1, 2, 3, 4, 5]


def check_idempotent(log: list[State]) -> None:
    assert list(idempotent.bank.receipts) == ["payment:1:charge"]


def check_mutex(log: list[State]) -> None:
    inside = set[str]()
    for state in log:
        is_inside = state.status is Status.ACTIVE and state.transition.to == "protected"
        (inside.add if is_inside else inside.discard)(state.id)
        assert len(inside) <= 1
    assert [state for state in log if state.id == mutex.LOCK][-1].get(list) == []


def check_rate_limit(log: list[State]) -> None:
    steps = [state for state in log if state.id == "limiter" and state.transition.cause == "signal"]
    begun = [state for state in steps if not state.transition.origin]
    times = [state.committed_at for state in begun if state.committed_at is not None]
    assert sorted(state.get(str, "call") for state in begun) == [f"call {n}" for n in range(10)]
    assert all(b - a >= rate_limit.INTERVAL for a, b in pairwise(times))


def check_saga(log: list[State]) -> None:
    assert saga.services.booked == [("rich", step) for step in saga.STEPS]


def check_escalation(log: list[State]) -> None:
    assert len(escalation.sent) == 3


def check_webhook(log: list[State]) -> None:
    orders = [state for state in log if state.id.startswith("order")]
    ended = [f"{state.id}:{state.rev}" for state in orders if state.status is Status.ENDED]
    assert list(webhook.endpoint.received) == ended


CHECKS: dict[str, Callable[[list[State]], None]] = {
    "actor": check_actor,
    "escalation": check_escalation,
    "idempotent": check_idempotent,
    "mutex": check_mutex,
    "rate_limit": check_rate_limit,
    "saga": check_saga,
    "webhook": check_webhook,
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
    escalation.sent.clear()
    webhook.endpoint.received.clear()


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


@pytest.mark.parametrize(
    ("crashes", "max_runs"), [(1, 40), (2, 20), pytest.param(2, 300, marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize("name", NAMES)
def test_ends_alike_wherever_its_processes_die(
    name: str, crashes: int, max_runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(name)
    monkeypatch.setattr(schedule, "CHANGES", {"winter": (1, 2)})  # Not months of virtual time.

    async def run_demo(engine: Engine, _: None) -> None:
        assert await recipe.demo(engine) == SOONER.get(name, CAME_OUT[name])

    def is_right(outcome: Outcome[None]) -> None:
        check(name, outcome.log)

    explored = explore_crashes(
        forget,
        lambda _: recipe.flows,
        run_demo,
        invariants=[is_right],
        ignore=IGNORED.get(name, []),
        until=UNTIL.get(name),
        crashes=crashes,
        max_runs=max_runs,
    )

    assert len(explored.points) > 2


def test_a_rename_without_an_alias_is_told() -> None:
    async def deploy() -> tuple[Report, Report]:
        clock = FakeClock()
        async with Engine(MemoryDriver(clock), rename.flows, clock=clock) as engine:
            await rename.leave_behind(engine)
            return await find_problems(engine, rename.without_alias), await find_problems(engine)

    without, with_alias = asyncio.run(deploy())

    assert [finding.flow for finding in without.findings] == ["bill"]
    assert with_alias.ok


@durable_world
async def test_goes_on_in_a_new_process_after_a_death(world: World) -> None:
    assert await run_and_die(load("saga"), Dying(world.driver(), 5), world.clock)

    assert await run(load("saga"), world.driver(), world.clock) == CAME_OUT["saga"]


async def test_approval_counts_the_first_answer(world: World) -> None:
    async with Engine(world.driver(), approval.flows, clock=world.clock) as engine, Delayer(engine):
        await engine.start(StateContext(State("car")), "ask")
        for verdict in ("approved", "rejected"):
            with contextlib.suppress(InvalidCommandError):  # The first one has ended it.
                await engine.signal("car", "answer", approval.Answer(verdict, "anna"))
        state = await engine.wait_for("car", status=Status.ENDED)

    assert state.get(approval.Answer, "answer").verdict == "approved"


async def test_callee_ends_when_its_caller_has_moved_on(world: World) -> None:
    async with Engine(world.driver(), call.flows, clock=world.clock) as engine:
        caller = StateContext(State("sum"))
        await engine.do(Commit(Transit(caller, "call")))
        await engine.execute(caller)
        await engine.do(Commit(End(caller)))
        async with Delayer(engine):
            await engine.wait_for("sum/double", status=Status.ENDED)

        assert (await engine.get_state("sum")).transition.cause == "end"


@durable_world
async def test_mutex_keeps_workers_of_two_engines_apart(world: World) -> None:
    async with (
        Engine(world.driver(), mutex.flows) as one,
        Engine(world.driver(), mutex.flows) as two,
        Delayer(one),
        Delayer(two),
    ):
        await mutex.open_lock(one)
        for number in range(20):
            worker = State(f"worker {number}", labels={"kind": "worker"})
            await begin((one, two)[number % 2], worker, "acquire")
        await reached(one, {"kind": "worker"}, 20)
    check_mutex(await world.log())


def test_runs_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    main(["call", "saga"])

    assert capsys.readouterr().out == (
        "call:\n  sum: 42\nsaga:\n  poor: 0 steps done\n  rich: 3 steps done\n"
    )


def test_every_recipe_is_run() -> None:
    other = {"__main__", "helpers", "projection"}  # That one needs Postgres.

    assert {path.stem for path in FOLDER.glob("*.py")} - other == set(NAMES)


async def test_projection_counts_each_order_once(
    postgres: Postgres, postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = PostgresDriver(postgres.url(), schema=postgres_schema)
    options = {"options": f"-c search_path={postgres_schema}"}
    ends = iter(["error", "", "lost connection"])
    count = projection.count

    async def count_and_fail(state: State, tx: Any) -> None:
        await count(state, tx)
        match next(ends, ""):
            case "error":
                raise ConnectionError("after the row was written")
            case "lost connection":
                await tx.connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    monkeypatch.setattr(projection, "count", count_and_fail)
    async with (
        Engine(driver, projection.flows) as engine,
        AsyncConnectionPool(postgres.url(), kwargs=options, open=False) as pool,
    ):
        assert await projection.demo(engine, driver, pool) == ["cups: 1", "tea: 2"]
        assert await projection.demo(engine, driver, pool) == ["cups: 1", "tea: 2"]
    assert next(ends, None) is None
