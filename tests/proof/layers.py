"""The layers of the suite, each as something that looks for one bug until it has found it."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import pytest

from flowstate.clock import SystemClock
from flowstate.driver import Driver
from flowstate.errors import FlowstateError
from flowstate.testcases import ALL, Case, MakeDriver, run, select
from flowstate.testing.histories.checker import check
from flowstate.testing.histories.history import History, Record
from flowstate.testing.histories.load import run_load
from flowstate.testing.histories.recorder import read_store
from flowstate.testing.programs.programs import random_program, replay_program
from flowstate.testing.simulation.schedules import run_schedule
from tests.proof.bug import CASE_LIMIT, Bug, Trial
from tests.proof.stores import CAPABILITIES, new_stores

__all__ = ["look"]

CASES = {case.name: case for case in ALL}
# What looks at how long something takes says little on a machine that does other things.
TIMED = {"defect_12_commits_do_not_slow_down_with_the_log", "commits_of_others_are_seen_soon"}
FOUND = (AssertionError, FlowstateError, LookupError, ValueError)
OPERATIONS = {"memory": 1_000, "sqlite": 600, "postgres": 300, "redis": 300}
LENGTHS = {"memory": 250, "sqlite": 250, "postgres": 120, "redis": 120}
PROGRAMS = 40
LOAD_SECONDS = 20.0
CHECK_SECONDS = 20.0
SHOWN = 100
OPTIONS = (
    *("-x", "-q", "--no-header", "--timeout=60", "-p", "no:cacheprovider", "-p", "no:xdist"),
    # What is planted has been imported before.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
)

Look = Callable[[Bug, Trial, Mapping[str, str]], str]


def look(bug: Bug, trial: Trial, urls: Mapping[str, str]) -> str:
    """Look for a bug that is planted; return what has found it, empty if nothing has.

    Args:
        bug: where to look.
        trial: how.
        urls: of the servers, by store.
    """
    return LOOKS[trial.layer](bug, trial, urls)


def _rounds(seconds: float) -> Iterator[int]:
    """Count from 0 until time is up, but to 1 at least."""
    end = time.monotonic() + seconds
    for number in itertools.count():
        yield number
        if time.monotonic() > end:
            return


def _run(work: Coroutine[Any, Any, str], seconds: float) -> str:
    """Run something in an event loop of its own, and clear away what it leaves behind."""

    async def limited() -> str:
        # What failed does not ask its tasks what has become of them.
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        async with asyncio.timeout(seconds):
            return await work

    with asyncio.Runner() as runner:
        return runner.run(limited())


def _shown(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".partition("\n")[0]
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


# Conformance


def _cases(bug: Bug, trial: Trial) -> list[Case]:
    """Return what is asked for, and then whatever else a store of this kind must pass."""
    first = [CASES[name] for name in trial.first]
    selected = select(ALL, CAPABILITIES[bug.store])
    others = [case for case in selected if case not in first and case.name not in TIMED]
    return [*first, *sorted(others, key=lambda case: case.real_time)]


def _conformance(bug: Bug, trial: Trial, urls: Mapping[str, str]) -> str:
    with new_stores(bug, urls) as new:
        for case, _ in zip(_cases(bug, trial), _rounds(trial.seconds), strict=False):
            limit = trial.limit if case.name in trial.first else CASE_LIMIT
            if error := _broken(case, new(), bug, limit):
                return f"{case.name}: {error}"
    return ""


def _broken(case: Case, make_driver: MakeDriver, bug: Bug, limit: float) -> str:
    async def attempt() -> str:
        await run(case, make_driver, CAPABILITIES[bug.store])
        return ""

    try:
        return _run(attempt(), limit)
    except TimeoutError:
        return f"did not end within {limit:.0f} seconds"
    except FOUND as error:
        return _shown(error)


# Programs


def _programs(bug: Bug, trial: Trial, urls: Mapping[str, str]) -> str:
    async def attempt(make_driver: MakeDriver, number: int) -> str:
        program = random_program(f"planted {number}", LENGTHS[bug.store])
        await replay_program(make_driver, CAPABILITIES[bug.store], program)
        return ""

    with new_stores(bug, urls) as new:
        for number in itertools.takewhile(PROGRAMS.__gt__, _rounds(trial.seconds)):
            try:
                _run(attempt(new(), number), CASE_LIMIT + CHECK_SECONDS)
            except FOUND as error:
                return f"program {number}: {_shown(error)}"
    return ""


# Histories


def _histories(bug: Bug, trial: Trial, urls: Mapping[str, str]) -> str:
    with new_stores(bug, urls) as new:
        for number in _rounds(trial.seconds):
            if found := _run(_history(bug, new(), number), LOAD_SECONDS + CHECK_SECONDS):
                return f"history {number}: {found}"
    return ""


async def _history(bug: Bug, make_driver: MakeDriver, number: int) -> str:
    """Load a store through two drivers, if it can be shared, and check what was recorded."""
    records: list[Record] = []
    async with contextlib.AsyncExitStack() as opened:
        sides = 2 if CAPABILITIES[bug.store].shared else 1
        made = [make_driver(SystemClock()) for _ in range(sides)]
        drivers = [await opened.enter_async_context(driver) for driver in made]
        trouble = await _load(drivers, records, OPERATIONS[bug.store], number)
        records += await read_store(drivers[0], records)
    violations = check(History(records))
    return f"{violations[0]}".partition("\n")[0] if violations else trouble


async def _load(drivers: list[Driver], records: list[Record], operations: int, seed: int) -> str:
    """Return what went wrong, since engines notice some of it themselves."""
    load = run_load(drivers, records.append, operations=operations, seed=seed, cancelling=0.1)
    try:
        async with asyncio.timeout(LOAD_SECONDS):
            await load
    except TimeoutError:
        return "the load did not end"
    except (*FOUND, ExceptionGroup) as error:
        return _shown(_first(error))
    return ""


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


# Simulation


def _simulation(_bug: Bug, trial: Trial, _urls: Mapping[str, str]) -> str:
    for seed in _rounds(trial.seconds):
        violations = run_schedule(seed).violations
        if violations:
            return f"seed {seed}: {violations[0]}"
    return ""


# Tests


class _FirstFailure:
    """Remembers which test failed first; a plugin of pytest."""

    def __init__(self) -> None:
        self.name = ""
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Look at what came of a test."""
        if report.failed and not self.name:
            self.name = report.nodeid
        self.passed += report.passed and report.when == "call"


def _tests(bug: Bug, trial: Trial, urls: Mapping[str, str]) -> str:
    first = _FirstFailure()
    status = pytest.main([*OPTIONS, *trial.first], plugins=[first])
    if status is pytest.ExitCode.TESTS_FAILED:
        return first.name
    if status is not pytest.ExitCode.OK or not first.passed:
        raise RuntimeError(f"pytest ended with {status!r}")
    return ""


LOOKS: dict[str, Look] = {
    "conformance": _conformance,
    "programs": _programs,
    "histories": _histories,
    "simulation": _simulation,
    "tests": _tests,
}
