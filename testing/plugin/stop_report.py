"""The report of the stops that a test run has covered."""

import contextlib
import importlib
from typing import Any

import msgspec
import pytest

from flowstate.engines.workflow.marking import Defined
from flowstate.testing.workflows.stops import StopCoverage, cover_stops

__all__ = ["StopReport"]

SENT = "flowstate_stops"


class StopReport:
    """Covers the stops of a test run, and shows them at its end.

    Args:
        modules: whose definitions are in the report although no test runs them.

    Raises:
        UsageError: a module cannot be imported.
    """

    def __init__(self, modules: list[str]) -> None:
        self._modules = modules
        self._covering = contextlib.ExitStack()
        self._coverage = StopCoverage()

    def pytest_sessionstart(self) -> None:
        """Begin."""
        codes = [code for module in self._modules for code in _definitions(module)]
        self._coverage = self._covering.enter_context(cover_stops(*codes))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """End, and in a worker of pytest-xdist send what was counted."""
        self._covering.close()
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            output[SENT] = msgspec.json.encode(self._coverage).decode()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker has sent; one that has crashed sends nothing."""
        if text := getattr(node, "workeroutput", {}).get(SENT):
            self._coverage.merge(msgspec.json.decode(text, type=StopCoverage))

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        """Show it."""
        terminalreporter.section("flowstate stops")
        terminalreporter.write_line(str(self._coverage) or "no workflow has run")


def _definitions(module: str) -> list[Defined]:
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise pytest.UsageError(f"flowstate_stops: {error}") from error
    return [each for each in vars(found).values() if isinstance(each, Defined)]
