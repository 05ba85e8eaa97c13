"""The plugin for pytest: fixtures, the drivers to run tests on, and failures that say more.

It is loaded wherever flowstate and pytest are installed, so it imports the rest when it is used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from flowstate import Clock, Driver, Engine, FakeClock, FlowRegistry, State, SystemClock

if TYPE_CHECKING:
    from flowstate.drivers.memory import MemoryDriver
    from flowstate.engines.kernel.code import Code
    from flowstate.engines.workflow import Workflows
    from flowstate.testing.plugin.journal import Journal

__all__ = ["MakeEngine", "OpenWorkflows"]

LOCAL = ("memory", "sqlite")
REMOTE = ("postgres", "redis")
JOURNAL: pytest.StashKey[Journal] = pytest.StashKey()


class MakeEngine(Protocol):
    """What ``flowstate_make_engine`` is."""

    def __call__(self, driver: Driver | None = None, **options: Any) -> Engine:
        """Return an engine, not open yet, with the flows and the clock of the test."""


class OpenWorkflows(Protocol):
    """What ``flowstate_workflows`` is."""

    def __call__(self, *codes: Code, **options: Any) -> AbstractAsyncContextManager[Workflows]:
        """Open workflows, with options of ``Workflows``, on an engine of the test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what can be set on the command line and in the settings of pytest."""
    group = parser.getgroup("flowstate")
    drivers = "what flowstate_driver is, one after the other: " + ", ".join((*LOCAL, *REMOTE))
    group.addoption("--flowstate-drivers", metavar="NAMES", help=drivers)
    parser.addini("flowstate_drivers", drivers, type="args", default=[])
    for name in REMOTE:
        text = f"URL of a {name.title()} that tests may write to"
        group.addoption(f"--flowstate-{name}-url", metavar="URL", help=text)
        parser.addini(f"flowstate_{name}_url", text, default="")
    stops = "show which stops of workflows the tests have covered"
    group.addoption("--flowstate-stops", action="store_true", help=stops)
    modules = "modules whose workflows are shown by --flowstate-stops also if no test runs them"
    parser.addini("flowstate_stops", modules, type="args", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Add what is asked for, and the fixture of an open engine if something can open it."""
    if config.getoption("--flowstate-stops"):
        from flowstate.testing.plugin.stop_report import StopReport  # noqa: PLC0415 - see above

        report = StopReport(config.getini("flowstate_stops"))
        config.pluginmanager.register(report, "flowstate-stops")
    if config.pluginmanager.hasplugin("asyncio"):
        from flowstate.testing.plugin import async_fixtures  # noqa: PLC0415 - needs pytest-asyncio

        config.pluginmanager.register(async_fixtures, "flowstate-asyncio")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what asks for ``flowstate_driver`` on each of the drivers."""
    marks = metafunc.definition.iter_markers("parametrize")
    own = any("flowstate_driver" in mark.args[0] for mark in marks if mark.args)
    if "flowstate_driver" in metafunc.fixturenames and not own:
        metafunc.parametrize("flowstate_driver", _chosen(metafunc.config), indirect=True)


def _chosen(config: pytest.Config) -> list[str]:
    given = config.getoption("--flowstate-drivers")
    names: list[str] = given.replace(",", " ").split() if given else []
    names = names or config.getini("flowstate_drivers")
    if not names:
        return [*LOCAL, *(name for name in REMOTE if _url(config, name))]
    for name in names:
        if name not in LOCAL + REMOTE:
            raise pytest.UsageError(f"flowstate has no driver {name!r} for tests")
        if name in REMOTE and not _url(config, name):
            raise pytest.UsageError(f"the driver {name!r} needs --flowstate-{name}-url")
    return names


def _url(config: pytest.Config, name: str) -> str:
    given = config.getoption(f"--flowstate-{name}-url")
    return str(given or config.getini(f"flowstate_{name}_url"))


@pytest.fixture
def flowstate_flows() -> FlowRegistry:
    """The flows of the engines of this test: empty, to be filled or to be overridden."""
    return FlowRegistry()


@pytest.fixture
def flowstate_clock(request: pytest.FixtureRequest) -> Clock:
    """A ``FakeClock``; that of the machine on Postgres and Redis, which have their own."""
    return SystemClock() if _driver_name(request.node) in REMOTE else FakeClock()


@pytest.fixture
def flowstate_memory_driver(request: pytest.FixtureRequest, flowstate_clock: Clock) -> MemoryDriver:
    """A memory driver, not open yet."""
    from flowstate.drivers.memory import MemoryDriver  # noqa: PLC0415 - see above

    driver = MemoryDriver(flowstate_clock)
    _journal(request.node).follow(driver)
    return driver


@pytest.fixture
def flowstate_driver(
    request: pytest.FixtureRequest, flowstate_clock: Clock, tmp_path: Path
) -> Iterator[Driver]:
    """A driver on an empty store, not open yet: one after the other, each that is chosen."""
    name: str = request.param
    from flowstate.testing.plugin.stores import empty_store  # noqa: PLC0415 - see above

    url = _url(request.config, name) if name in REMOTE else ""
    with empty_store(name, flowstate_clock, tmp_path, url) as driver:
        _journal(request.node).follow(driver)
        yield driver


@pytest.fixture
def flowstate_make_engine(
    request: pytest.FixtureRequest, flowstate_clock: Clock, flowstate_flows: FlowRegistry
) -> MakeEngine:
    """Makes engines, not open yet: on ``flowstate_driver`` if asked for, or in memory."""
    chosen = "flowstate_driver" in request.fixturenames
    name = "flowstate_driver" if chosen else "flowstate_memory_driver"

    def make(driver: Driver | None = None, **options: Any) -> Engine:
        options.setdefault("clock", flowstate_clock)
        options.setdefault("shutdown_timeout", 1.0)
        return Engine(driver or request.getfixturevalue(name), flowstate_flows, **options)

    return make


@pytest.fixture
def flowstate_workflows(flowstate_make_engine: MakeEngine) -> OpenWorkflows:
    """Open workflows on an engine of the test, until the block is left."""
    from flowstate.testing.workflows.opening import open_workflows  # noqa: PLC0415 - see above

    def make(*codes: Code, **options: Any) -> AbstractAsyncContextManager[Workflows]:
        return open_workflows(*codes, engine=flowstate_make_engine(), **options)

    return make


def _driver_name(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("flowstate_driver", "")) if callspec else ""


def _journal(item: pytest.Item) -> Journal:
    from flowstate.testing.plugin.journal import Journal  # noqa: PLC0415 - see above

    return item.stash.setdefault(JOURNAL, Journal())


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say in which fields two states differ."""
    if op != "==" or not isinstance(left, State) or not isinstance(right, State):
        return None
    from flowstate.testing.plugin.state_diff import state_diff  # noqa: PLC0415 - see above

    return state_diff(left, right)


@pytest.hookimpl(hookwrapper=True)  # An older pytest does not know the newer kind.
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the revisions that a test that failed has committed."""
    report: pytest.TestReport = (yield).get_result()
    journal = item.stash.get(JOURNAL, None)
    if report.failed and journal is not None and (text := journal.text()):
        report.sections.append(("flowstate revisions", text))
