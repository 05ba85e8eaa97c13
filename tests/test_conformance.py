"""The conformance suite on every driver."""

from pathlib import Path

import pytest

from flowstate import Clock
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testcases import (
    ALL,
    Capabilities,
    Case,
    MakeDriver,
    explaining,
    leasing,
    recovering,
    run,
    select,
)
from tests.redis_servers import VERSIONS, RedisLike

CAPABILITIES = {
    "memory": Capabilities(shared=False, durable=False, fake_clock=True, any_loop=True),
    "sqlite": Capabilities(shared=True, durable=True, fake_clock=True, any_loop=True),
    "postgres": Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False),
    "redis": Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False),
}
if "6.2" in VERSIONS:
    CAPABILITIES["redis62"] = CAPABILITIES["redis"]
SERVERS = {"redis": "redis_server", "redis62": "old_redis_server"}


def sqlite_in(folder: Path) -> MakeDriver:
    def make(clock: Clock) -> SQLiteDriver:
        return SQLiteDriver(folder / "store.db", clock=clock)

    return make


def postgres_on(url: str, schema: str) -> MakeDriver:
    def make(clock: Clock) -> PostgresDriver:
        return PostgresDriver(url, schema=schema)

    return make


def redis_on(url: str, namespace: str) -> MakeDriver:
    def make(clock: Clock) -> RedisDriver:
        return RedisDriver(url, namespace=namespace)

    return make


TAKES_TIME = {case.name for case in (*explaining.CASES, *leasing.CASES, *recovering.CASES)} | {
    "compaction_under_a_watch",
    "every_combination_in_pages",
    "every_combination_of_filters",
    "many_increments_of_shared_counters",
    "revisions_are_dense",
    "slow_consumer",
}


def marks(driver: str, case: Case) -> list[pytest.MarkDecorator]:
    """Return what keeps a case from running on every interpreter."""
    is_real = case.real_time or not CAPABILITIES[driver].fake_clock
    is_slow = driver == "redis62" or (case.name in TAKES_TIME and is_real)
    return [pytest.mark.slow] if is_slow else []


def maker(driver: str, request: pytest.FixtureRequest) -> MakeDriver:
    """Return what makes a driver on a new place; some need a server."""
    if driver == "sqlite":
        return sqlite_in(request.getfixturevalue("tmp_path"))
    if driver == "postgres":
        schema = request.getfixturevalue("postgres_schema")
        return postgres_on(request.getfixturevalue("postgres").url(), schema)
    if driver in SERVERS:
        server: RedisLike = request.getfixturevalue(SERVERS[driver])
        return redis_on(server.url(), request.getfixturevalue("redis_namespace"))
    return MemoryDriver


@pytest.mark.parametrize(
    ("driver", "case"),
    [
        pytest.param(driver, case, id=f"{driver}-{case.name}", marks=marks(driver, case))
        for driver, capabilities in CAPABILITIES.items()
        for case in select(ALL, capabilities)
        # What takes its time there is the same on the newer server.
        if driver != "redis62" or case.name not in TAKES_TIME
    ],
)
async def test_conformance(driver: str, case: Case, request: pytest.FixtureRequest) -> None:
    await run(case, maker(driver, request), CAPABILITIES[driver])


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in ALL]

    assert sorted(names) == sorted(set(names))


def test_every_case_names_its_guarantee() -> None:
    assert [case.name for case in ALL if not case.guarantees.startswith("G")] == []
