"""The plugin for pytest: its fixtures, the drivers it chooses, and what it says of failures."""

import importlib.metadata
import json
import subprocess
import sys
from datetime import timedelta

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    Execute,
    FakeClock,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.drivers import postgres, redis, sqlite
from flowstate.drivers.memory import MemoryDriver
from flowstate.testing import reached
from flowstate.testing.plugin import async_fixtures, journal, stores
from flowstate.testing.plugin.state_diff import state_diff

pytest_plugins = ["pytester"]

# pytester forgets what is imported in its runs; what is imported here stays the same.
KEPT = (async_fixtures, journal, postgres, redis, sqlite, stores)
MODULE = "flowstate.testing.plugin.hooks"
# Not entry_points(): that leaves out the second of two descriptions of one distribution, and one
# without the plugin may lie in the folder of the repository.
INSTALLED = any(
    entry.value == MODULE
    for distribution in importlib.metadata.distributions()
    for entry in distribution.entry_points
)
ASYNCIO = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
CONFTEST = """
import pytest
from flowstate import Commit, End, FlowRegistry

@pytest.fixture
def flowstate_flows():
    flows = FlowRegistry()
    flows.set("work", lambda ctx, engine: Commit(End(ctx)))
    return flows
"""
START = """
from flowstate import Commit, Engine, Execute, State, StateContext, Status, Transit

async def start(engine, id="a"):
    ctx = StateContext(State(id))
    await engine.do(Commit(Transit(ctx, "work")), Execute(ctx))
    await engine.idle()
    return await engine.get_state(id)
"""


def run(pytester: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    """Run a test module with the plugin, whether or not the environment has it installed."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(START + test)
    plugin = () if INSTALLED else ("-p", MODULE)
    asyncio = () if "no:asyncio" in options else ASYNCIO
    return pytester.runpytest_inprocess("-v", *plugin, *asyncio, *options)


def test_an_engine_is_open_and_in_memory(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test(flowstate_engine, flowstate_memory_driver, flowstate_clock):
    assert flowstate_engine.driver is flowstate_memory_driver
    assert flowstate_engine.clock is flowstate_clock
    assert (await start(flowstate_engine)).status is Status.ENDED
""",
    )

    result.assert_outcomes(passed=1)


def test_a_driver_is_one_after_the_other(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test(flowstate_engine, flowstate_driver):
    assert flowstate_engine.driver is flowstate_driver
    assert (await start(flowstate_engine)).status is Status.ENDED
    print(type(flowstate_driver).__name__)

async def test_two(flowstate_make_engine, flowstate_driver):
    async with flowstate_make_engine() as one, flowstate_make_engine(name="two") as two:
        await start(one)
        assert (await two.get_state("a")).status is Status.ENDED
""",
        "-s",
    )

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*test[[]memory[]]*MemoryDriver*", "*test[[]sqlite[]]*SQLite*"])


def test_drivers_are_chosen(pytester: pytest.Pytester) -> None:
    test = "def test(flowstate_driver): pass"
    run(pytester, test, "--flowstate-drivers", "memory").assert_outcomes(passed=1)
    pytester.makeini("[pytest]\nflowstate_drivers = sqlite")
    result = run(pytester, test)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*test[[]sqlite[]]*"])
    run(pytester, test, "--flowstate-drivers=memory,sqlite").assert_outcomes(passed=2)
    chosen = run(pytester, test, "--flowstate-drivers=paper")
    chosen.stdout.fnmatch_lines(["*flowstate has no driver 'paper' for tests*"])
    chosen = run(pytester, test, "--flowstate-drivers=redis")
    chosen.stdout.fnmatch_lines(["*the driver 'redis' needs --flowstate-redis-url*"])


def test_servers_are_used_when_their_urls_are_given(
    pytester: pytest.Pytester, request: pytest.FixtureRequest
) -> None:
    postgres_url = request.getfixturevalue("postgres").url()
    redis_url = request.getfixturevalue("redis_server").url()

    result = run(
        pytester,
        """
async def test(flowstate_engine, flowstate_driver):
    assert (await start(flowstate_engine)).status is Status.ENDED
""",
        f"--flowstate-postgres-url={postgres_url}",
        "-o",
        f"flowstate_redis_url={redis_url}",
    )

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["*test[[]postgres[]]*", "*test[[]redis[]]*"])


def test_a_failure_shows_revisions_and_the_difference(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test(flowstate_engine):
    assert await start(flowstate_engine) == State("a", labels={"kind": "order"})
""",
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert State('a' at revision 2) == State('a' at revision 0)",
            "*rev: 2 != 0",
            "*labels[[]'kind'[]]: 'order' on the right only",
            "*transition.to: 'work' != ''",
            "*status: ended != active",
            "*- flowstate revisions -*",
            "*1 *+0s*a*active*work",
            "*2 *+0s*a*ended*work",
        ]
    )


def test_a_test_that_passes_or_commits_nothing_shows_none(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
async def test_passes(flowstate_engine):
    await start(flowstate_engine)

async def test_commits_nothing(flowstate_engine):
    assert False
""",
    )

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.no_fnmatch_line("*flowstate revisions*")


def test_without_pytest_asyncio_engines_are_made(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
import asyncio

def test(flowstate_make_engine):
    async def main():
        async with flowstate_make_engine() as engine:
            return await start(engine)

    assert asyncio.run(main()).status is Status.ENDED

def test_open(flowstate_engine):
    pass
""",
        "-p",
        "no:asyncio",
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*fixture 'flowstate_engine' not found*"])


def test_loading_it_imports_little() -> None:
    program = f"import json, sys, {MODULE}; print(json.dumps(list(sys.modules)))"
    modules = json.loads(subprocess.check_output([sys.executable, "-c", program]))

    assert {name for name in modules if name.startswith("flowstate.testing")} == {
        "flowstate.testing",
        "flowstate.testing.plugin",
        MODULE,
    }
    prefixes = ("flowstate.drivers", "flowstate.recovery.", "flowstate.testcases", "pytest_asyncio")
    assert [name for name in modules if name.startswith(prefixes)] == []


# Differences


def test_states_differ_field_by_field() -> None:
    left = State("a", 3, annotations={"x": "1", "y": "2"}, status=Status.PAUSED)
    right = State("a", 3, annotations={"x": "2", "z": "2"})

    assert state_diff(left, right) == [
        "State('a' at revision 3) == State('a' at revision 3)",
        "",
        "annotations['x']: '1' != '2'",
        "annotations['y']: '2' on the left only",
        "annotations['z']: '2' on the right only",
        "status: paused != active",
    ]


# Waiting


def make_engine(clock: FakeClock) -> Engine:
    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(Pause(ctx), Delay(ctx, "late", after=timedelta(days=3)))

    @flows.flow("late")
    async def late(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    return Engine(MemoryDriver(clock), flows, clock=clock)


async def start(engine: Engine, id: str) -> None:
    ctx = StateContext(State(id))
    await engine.do(Commit(Transit(ctx, "work")), Execute(ctx))


async def test_reached_returns_the_revision() -> None:
    clock = FakeClock()
    async with make_engine(clock) as engine:
        await start(engine, "other")
        await start(engine, "a")
        paused = await reached(engine, "a", Status.PAUSED)
        assert (paused.id, paused.status) == ("a", Status.PAUSED)
        assert await reached(engine, "a", Status.PAUSED, flow="work") == paused
        async with Delayer(engine):
            ended = await reached(engine, "a")
        assert (ended.id, ended.status, ended.transition.to) == ("a", Status.ENDED, "late")


async def test_reached_waits_for_what_does_not_exist_yet() -> None:
    async with make_engine(FakeClock()) as engine:
        with pytest.raises(AssertionError, match=r"'a' is not ended after 0\.01 s: there is no"):
            await reached(engine, "a", timeout=0.01)


async def test_reached_says_why_not() -> None:
    async with make_engine(FakeClock()) as engine:
        await start(engine, "a")
        with pytest.raises(AssertionError) as caught:
            await reached(engine, "a", Status.ENDED, flow="late", timeout=0.05)

    lines = str(caught.value).splitlines()
    why = "'a' is not ended in 'late' after 0.05 s: paused, and delayed to flow 'late' until"
    assert lines[0].startswith(why)
    assert lines[2].split() == ["rev", "time", "state", "status", "flow"]
    assert lines[-1].split() == ["2", "+0s", "a", "paused", "work", "delayed", "+3d", "0s"]
