"""Random programs on every driver, compared with a model; see flowstate/testing/programs.

A program that fails is made short and printed, with the command that runs it again.
"""

import itertools
import os
import secrets
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from psycopg.sql import SQL, Identifier
from redis import Redis

from flowstate import FlowstateError, State
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testcases import Capabilities, MakeDriver
from flowstate.testing.programs.machine import model_machine
from flowstate.testing.programs.programs import (
    Failure,
    NewStore,
    parse,
    random_program,
    replay_program,
    run_model,
    written,
)
from tests.broken import BROKEN, Base
from tests.redis_servers import RedisLike
from tests.servers import Postgres

ONE_CLOCK = Capabilities(shared=True, durable=True, fake_clock=True, any_loop=True)
OWN_CLOCK = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)
CAPABILITIES = {
    "memory": Capabilities(shared=False, durable=False, fake_clock=True, any_loop=True),
    "sqlite": ONE_CLOCK,
    "postgres": OWN_CLOCK,
    "redis": OWN_CLOCK,
}
STEPS = {"memory": 50_000, "sqlite": 5_000, "postgres": 5_000, "redis": 5_000}
SEED = 20_260_101
LENGTH = 500
SETTINGS = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),  # An operation draws much; it is short all the same.
)
GIVEN = os.environ.get("FLOWSTATE_TEST_PROGRAM")


@pytest.fixture
def new_store(driver: str, request: pytest.FixtureRequest) -> Iterator[NewStore]:
    """Make stores, as many as are wanted, and remove them in the end."""
    make = {"sqlite": in_files, "postgres": in_schemas, "redis": in_namespaces}.get(driver)
    if make is None:
        yield lambda: MemoryDriver
    else:
        yield from make(request)


def in_files(request: pytest.FixtureRequest) -> Iterator[NewStore]:
    folder, number = request.getfixturevalue("tmp_path"), itertools.count()

    def new() -> MakeDriver:
        path = folder / f"{next(number)}.db"
        return lambda clock: SQLiteDriver(path, clock=clock, synchronous="NORMAL")

    yield new


def in_schemas(request: pytest.FixtureRequest) -> Iterator[NewStore]:
    server: Postgres = request.getfixturevalue("postgres")
    made: list[str] = []

    def new() -> MakeDriver:
        made.append(schema := f"model_{secrets.token_hex(8)}")
        return lambda _: PostgresDriver(server.url(), schema=schema, pool_size=4)

    yield new
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        for schema in made:
            connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))


def in_namespaces(request: pytest.FixtureRequest) -> Iterator[NewStore]:
    server: RedisLike = request.getfixturevalue("redis_server")
    place, number = f"model-{secrets.token_hex(8)}", itertools.count()

    def new() -> MakeDriver:
        namespace = f"{place}-{next(number)}"
        return lambda _: RedisDriver(server.url(), namespace=namespace)

    yield new
    with Redis.from_url(server.url()) as client:
        for key in client.scan_iter(f"{{{place}-*", count=1_000):
            client.delete(key)


@pytest.mark.timeout(900)  # Busy machines take several times what idle ones do.
@pytest.mark.parametrize("driver", STEPS)
@pytest.mark.parametrize(
    ("part", "tenths"),
    [
        pytest.param(0, 1, id="some"),
        *(pytest.param(part, 3, id=f"more{part}", marks=pytest.mark.nightly) for part in (1, 2, 3)),
    ],
)
async def test_random_programs(driver: str, part: int, tenths: int, new_store: NewStore) -> None:
    if GIVEN:
        await replay_program(new_store(), CAPABILITIES[driver], parse(GIVEN))
        return
    steps, seed = STEPS[driver] * tenths // 10, SEED + part
    try:
        await run_model(new_store, CAPABILITIES[driver], steps=steps, seed=seed, length=LENGTH)
    except Failure as failure:
        program = f"FLOWSTATE_TEST_PROGRAM='{written(failure.program)}'"
        failure.add_note(f"{program} python -m pytest tests/test_model.py -k some-{driver}")
        raise


@pytest.mark.parametrize("driver", ["memory", "sqlite"])
def test_programs_drawn_by_hypothesis(driver: str, new_store: NewStore) -> None:
    machine = model_machine(new_store, CAPABILITIES[driver])
    run_state_machine_as_test(machine, settings=SETTINGS)


# The model watches nothing, cancels nothing, keeps what it gave unchanged and takes no time.
BEYOND = {"NoWakeup", "SilentTimers", "Aliasing", "StuckLock", "LostReply", "LinearScan"}
PLANTED = [driver for driver in BROKEN if driver.__name__ not in BEYOND]


@pytest.mark.nightly
@pytest.mark.parametrize("broken", PLANTED, ids=lambda broken: broken.__name__)
async def test_planted_bug_is_found(broken: type[Base]) -> None:
    with pytest.raises((AssertionError, FlowstateError, LookupError, ValueError)):
        await run_some(broken)


async def run_some(broken: type[Base]) -> None:
    for number in range(32):
        program = random_program(f"planted {number}", 250)
        await replay_program(broken, CAPABILITIES["memory"], program)


class ForgetfulDriver(MemoryDriver):
    """Loses a state now and then, as no driver may."""

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        found = await super().get_state(id, rev)
        return None if found is not None and found.rev % 10 == 7 else found


async def test_a_program_that_fails_is_made_short_and_can_be_replayed() -> None:
    capabilities = CAPABILITIES["memory"]
    with pytest.raises(Failure, match="StateNotFoundError") as caught:
        await run_model(lambda: ForgetfulDriver, capabilities, steps=2_000, seed=1)

    program = parse(written(caught.value.program))
    assert written(program) in str(caught.value)
    assert len(program) < 20
    with pytest.raises(AssertionError, match="StateNotFoundError"):
        await replay_program(ForgetfulDriver, capabilities, program)
    await replay_program(MemoryDriver, capabilities, program)
