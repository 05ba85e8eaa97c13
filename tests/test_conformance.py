"""The conformance suite on every driver."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testcases import (
    ALL,
    Capabilities,
    Case,
    Damage,
    Hooks,
    MakeDriver,
    run,
    select,
    standing_still,
)
from tests.damage import in_postgres, in_redis, in_sqlite
from tests.generators.standstill import Running
from tests.generators.standstill import standing_still as standing_still_server
from tests.redis_servers import VERSIONS
from tests.slow_cases import LARGE_CASES, SLOW_CASES

CAPABILITIES = {
    "memory": Capabilities(shared=False, durable=False, fake_clock=True, any_loop=True, fork=True),
    "sqlite": Capabilities(
        shared=True, durable=True, fake_clock=True, any_loop=True, fork=True, damage=True
    ),
    "postgres": Capabilities(
        shared=True,
        durable=True,
        fake_clock=False,
        any_loop=False,
        fork=True,
        damage=True,
        standstill=True,
    ),
}
CAPABILITIES["redis"] = CAPABILITIES["postgres"]
LIKE_REDIS = {"valkey", *(["redis62"] if "6.2" in VERSIONS else [])}
"""Servers on which no case has a server of its own, or takes its time."""
for name in sorted(LIKE_REDIS):
    CAPABILITIES[name] = replace(CAPABILITIES["redis"], standstill=False)
STILL = {case.name for case in standing_still.CASES}
TIMEOUT = 2.0  # Seconds for a server that stands still.

Store = tuple[MakeDriver, Hooks]


def damaging(damage: Callable[[Damage, str], None]) -> Callable[..., Awaitable[None]]:
    """Return a hook, which runs in a thread, because it waits for the store."""

    async def hook(driver: Driver, what: Damage, id: str) -> None:
        await asyncio.to_thread(damage, what, id)

    return hook


def standing(server: Running) -> Callable[[Driver], AbstractAsyncContextManager[None]]:
    """Return a hook that stops all processes of a server."""

    @contextlib.asynccontextmanager
    async def hook(driver: Driver) -> AsyncIterator[None]:
        with standing_still_server(server):
            yield

    return hook


def memory(request: pytest.FixtureRequest, case: Case) -> Store:
    return MemoryDriver, Hooks()


def sqlite(request: pytest.FixtureRequest, case: Case) -> Store:
    path: Path = request.getfixturevalue("tmp_path") / "store.db"
    hooks = Hooks(damage=damaging(partial(in_sqlite, path)))
    return lambda clock: SQLiteDriver(path, clock=clock), hooks


def postgres(request: pytest.FixtureRequest, case: Case) -> Store:
    if case.name in STILL:
        server = request.getfixturevalue("private_postgres")
        still = f"still_{secrets.token_hex(8)}"
        hooks = Hooks(stand_still=standing(server))
        return lambda _: PostgresDriver(server.url(), schema=still, timeout=TIMEOUT), hooks
    url: str = request.getfixturevalue("postgres").url()
    schema: str = request.getfixturevalue("postgres_schema")
    hooks = Hooks(damage=damaging(partial(in_postgres, url, schema)))
    return lambda _: PostgresDriver(url, schema=schema), hooks


def redis(request: pytest.FixtureRequest, case: Case, server: str = "redis_server") -> Store:
    namespace: str = request.getfixturevalue("redis_namespace")
    if case.name in STILL:
        own = request.getfixturevalue("private_redis")
        hooks = Hooks(stand_still=standing(own))
        return lambda _: RedisDriver(own.url(), namespace=namespace, timeout=TIMEOUT), hooks
    url: str = request.getfixturevalue(server).url()
    hooks = Hooks(damage=damaging(partial(in_redis, url, namespace)))
    return lambda _: RedisDriver(url, namespace=namespace), hooks


STORES: dict[str, Callable[[pytest.FixtureRequest, Case], Store]] = {
    "memory": memory,
    "sqlite": sqlite,
    "postgres": postgres,
    "redis": redis,
    "redis62": partial(redis, server="old_redis_server"),
    "valkey": partial(redis, server="valkey_server"),
}


def marks(driver: str, case: Case) -> list[pytest.MarkDecorator]:
    """Return what keeps a case from running on every interpreter."""
    if driver in LIKE_REDIS:
        return [pytest.mark.nightly]
    is_real = case.real_time or not CAPABILITIES[driver].fake_clock
    is_slow = case.name in LARGE_CASES or (case.name in SLOW_CASES and is_real)
    return [pytest.mark.slow] if is_slow else []


@pytest.mark.parametrize(
    ("driver", "case"),
    [
        pytest.param(driver, case, id=f"{driver}-{case.name}", marks=marks(driver, case))
        for driver, capabilities in CAPABILITIES.items()
        for case in select(ALL, capabilities)
        # What takes its time there is the same on the newer server.
        if driver not in LIKE_REDIS or case.name not in SLOW_CASES
    ],
)
async def test_conformance(driver: str, case: Case, request: pytest.FixtureRequest) -> None:
    make_driver, hooks = STORES[driver](request, case)
    await run(case, make_driver, CAPABILITIES[driver], hooks)


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in ALL]

    assert sorted(names) == sorted(set(names))


def test_every_case_names_its_guarantee() -> None:
    assert [case.name for case in ALL if not case.guarantees.startswith("G")] == []
