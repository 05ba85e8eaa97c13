"""Servers for the tests; no tests of examples where only the tests are, as for a wheel."""

import os
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

# Its pytest plugin imports it at the very end otherwise, where CPython 3.11 was seen to fail while
# it parses ("AST constructor recursion depth mismatch"): a syntax tree that is built while the
# garbage collector runs finalizers confuses it.
import hypothesis  # noqa: F401
import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from redis import Redis

from tests.redis_servers import DURABLE, GivenRedis, RedisLike, RedisServer
from tests.servers import FAST, GivenServer, Postgres, PostgresServer
from tests.turns import Turns

collect_ignore = (
    [] if (Path(__file__).parent.parent / "examples").is_dir() else ["test_cookbook.py"]
)

GIVEN = "FLOWSTATE_TEST_POSTGRES_URL"
GIVEN_REDIS = "FLOWSTATE_TEST_REDIS_URL"


def pytest_configure(config: pytest.Config) -> None:
    """Let tests that are to run alone do so, where several workers run tests."""
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Turns())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what a worker cannot send: a lone surrogate in a log would end the worker."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


# Folders and files that test what tests.
TEST_EQUIPMENT = {
    "benchmarks",
    "proof",
    "soak",
    "test_broken_drivers.py",
    "test_certification.py",
    "test_checker.py",
    "test_checker_engines.py",
    "test_checker_lives.py",
    "test_history_files.py",
    "test_proxy.py",
    "test_redis_servers.py",
    "test_servers.py",
}
# What takes seconds each, and little of it depends on the interpreter.
SLOW = (
    "calls/test_asyncapi.py",
    "calls/test_containers.py",
    "calls/test_grpc.py",
    "calls/test_processes.py",
    "compiler/test_programs.py",
    "compiler/test_tracebacks.py",
    "documents/test_machine_crashes.py",
    "documents/test_machines.py",
    "engines/generated/",
    "engines/sections/",
    "events/test_crashes.py",
    "events/test_stores.py",
    "examples/test_crashes.py",
    "expressions/test_hostile.py",
    "kernel/test_crashes.py",
    "kernel/test_deploy_races.py",
    "kernel/test_outside_crashes.py",
    "kernel/test_races.py",
    "kernel/test_stores.py",
    "logic/test_crashes.py",
    "logic/test_stores.py",
    "many_increments_of_shared_counters",
    "memory-explanations_of_all_combinations",
    "service/test_feed.py",
    "service/test_serving.py",
    "service/test_tutorial.py",
    "sqlite/test_faults.py",
    "sqlite/test_wal.py",
    "tasks/test_hostile.py",
    "tasks/test_scenarios.py",
    "test_5000_schedules",
    "test_cancelling_many_takes_time_linear",
    "test_code_runs[",
    "test_consumer_crashes.py",
    "test_delayers.py",
    "test_double_charge.py",
    "test_drivers_are_chosen",
    "test_ends_alike_wherever_its_processes_die",
    "test_flipped_bytes",
    "test_fuzz.py",
    "test_hundreds_of_children_start_in_stages",
    "test_idle_consumers_do_not_keep_each_other_awake",
    "test_lmdb_driver.py",
    "test_mailbox_bounds.py",
    "test_mailbox_races.py",
    "test_many_executions_are_cancelled_in_linear_time",
    "test_many_waiters_cost_a_read_each",
    "test_model.py",
    "test_no_turn_is_kept_of_states",
    "test_plugin_workflows.py",
    "test_policy_crashes.py",
    "test_programs_drawn_by_hypothesis",
    "test_retention.py",
    "test_servers_are_used_when",
    "test_simulation.py",
    "test_sizes.py",
    "test_stalling.py",
    "test_the_command_line_",
    "test_the_page_of_errors",
    "test_thousands_of_instances_wait",
    "test_two_crashes_in_a_row_pass",
    "test_typing.py",
    "test_values.py",
    "test_what_only_two_crashes_break",
    "test_what_watches_hold_is_bounded",
    "workflow/test_crashes.py",
    "workflow/test_edits.py",
    "workflow/test_hostile.py",
    "workflow/test_manager_crashes.py",
    "workflow/test_manager_stores.py",
    "workflow/test_order_example.py",
    "workflow/test_races.py",
    "workflow/test_stores.py",
    "workflow/test_versions.py",
    "world/test_files.py",
    "world/test_memory.py",
    "world/test_nesting.py",
)
SERVER_FOLDERS = {"postgres", "redis"}
SERVER_FIXTURES = {
    "_private_postgres",
    "_private_redis",
    "old_redis_server",
    "postgres",
    "private_postgres",
    "private_redis",
    "redis_server",
    "valkey_server",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server, and what tests the test equipment."""
    for item in items:
        if _needs_server(item):
            item.add_marker("server")
        if {item.path.parent.name, item.path.name} & TEST_EQUIPMENT:
            item.add_marker("nightly")
        if any(part in item.nodeid for part in SLOW):
            item.add_marker("slow")


def _needs_server(item: pytest.Item) -> bool:
    """Return whether a test asks for a server, or has a parameter that names one."""
    if item.path.parent.name in SERVER_FOLDERS:
        return True
    if not SERVER_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
        return True
    callspec = getattr(item, "callspec", None)
    return callspec is not None and any(name in callspec.id for name in (*SERVER_FOLDERS, "valkey"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server for all tests: the one that the environment names, or one of our own.

    Our own has ``fsync=off``, and no test may stop it; see ``private_postgres``.
    """
    if url := os.environ.get(GIVEN):
        yield GivenServer(url)
    else:
        with PostgresServer(FAST) as server:
            yield server


@pytest.fixture
def postgres_schema(postgres: Postgres) -> Iterator[str]:
    """A schema name that is not in use; what the test makes of it is dropped."""
    name = f"test_{secrets.token_hex(8)}"
    yield name
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        # A connection that still holds a lock on it is a leak that the test should hear of.
        connection.execute("SET lock_timeout = '5s'")
        connection.execute("SET client_min_messages = warning")
        connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(name)))


@pytest.fixture(scope="module")
def _private_postgres() -> Iterator[PostgresServer]:
    if GIVEN in os.environ:
        pytest.skip(f"needs a server that it may kill, and {GIVEN} names one that it must not")
    with PostgresServer() as server:
        yield server


@pytest.fixture
def private_postgres(_private_postgres: PostgresServer) -> PostgresServer:
    """A durable Postgres server that a test may stop, kill and restart; it runs at first.

    The tests of a module share it, one after the other.
    """
    _private_postgres.start()
    return _private_postgres


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisLike]:
    """A Redis server for all tests: the one that the environment names, or one of our own.

    Our own keeps nothing on disk, and no test may stop it; see ``private_redis``.
    """
    if url := os.environ.get(GIVEN_REDIS):
        yield GivenRedis(url)
    else:
        with RedisServer() as server:
            yield server


@pytest.fixture(scope="session")
def old_redis_server() -> Iterator[RedisServer]:
    """A server of the oldest version that the driver takes; no test may stop it."""
    with RedisServer(version="6.2") as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """A Valkey server; no test may stop it."""
    with RedisServer(version="valkey") as server:
        yield server


@pytest.fixture
def redis_namespace(redis_server: RedisLike) -> Iterator[str]:
    """A namespace that is not in use; what the test puts there is removed."""
    name = f"test-{secrets.token_hex(8)}"
    yield name
    with Redis.from_url(redis_server.url()) as client:
        for key in client.scan_iter(f"{{{name}}}:*", count=1_000):
            client.delete(key)


@pytest.fixture(scope="module")
def _private_redis() -> Iterator[RedisServer]:
    with RedisServer(DURABLE) as server:
        yield server


@pytest.fixture
def private_redis(_private_redis: RedisServer) -> RedisServer:
    """A durable Redis server that a test may stop, kill and restart; it runs at first.

    The tests of a module share it, one after the other.
    """
    _private_redis.start()
    return _private_redis
