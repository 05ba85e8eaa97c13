"""Certify a driver from the command line: every case of the suite, theme by theme, as a table."""

import asyncio
import importlib
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct

from flowstate.testcases.harness import Capabilities, Case, MakeDriver, run, select

__all__ = ["Failure", "Theme", "certify", "load_target", "table"]

MakeStore = Callable[[], MakeDriver]
"""Makes an empty store; returns what makes driver objects on it."""


class Failure(Struct, frozen=True):
    """A case that failed.

    Attributes:
        case: its name.
        guarantees: what it shows, beginning with the guarantee.
        error: a traceback.
    """

    case: str
    guarantees: str
    error: str


class Theme(Struct, frozen=True):
    """What came of the cases of one theme.

    Attributes:
        name: of the theme.
        passed: how many cases.
        failures: the others.
        left_out: how many need what the store cannot do.
        seconds: how long they took.
    """

    name: str
    passed: int
    failures: tuple[Failure, ...]
    left_out: int
    seconds: float


def load_target(target: str) -> tuple[MakeStore, Capabilities]:
    """Return what ``package.module:function`` names, and the ``CAPABILITIES`` beside it.

    Raises:
        ValueError: there is no such thing.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise ValueError(f"{target!r} is not of the form package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"cannot import {module_name!r}: {error}") from error
    make_store = getattr(module, name, None)
    if not callable(make_store):
        raise ValueError(f"{module_name!r} has no function {name!r}")  # noqa: TRY004
    capabilities = getattr(module, "CAPABILITIES", None)
    if not isinstance(capabilities, Capabilities):
        raise ValueError(  # noqa: TRY004 - one error for every bad target
            f"{module_name!r} needs CAPABILITIES = Capabilities(...)"
        )
    return make_store, capabilities


def certify(
    make_store: MakeStore,
    capabilities: Capabilities,
    themes: Sequence[tuple[str, Sequence[Case]]],
    on_case: Callable[[Case, Failure | None], None],
) -> list[Theme]:
    """Run every case that a store with these capabilities must pass, each on an empty store.

    Args:
        make_store: see :data:`MakeStore`.
        capabilities: of the store.
        themes: names and cases.
        on_case: called after each.
    """
    results = []
    for name, cases in themes:
        started = time.monotonic()
        selected = select(tuple(cases), capabilities)
        failures = []
        for case in selected:
            failure = _run_alone(case, make_store, capabilities)
            on_case(case, failure)
            failures.append(failure)
        found = tuple(failure for failure in failures if failure is not None)
        results.append(
            Theme(
                name=name,
                passed=len(selected) - len(found),
                failures=found,
                left_out=len(cases) - len(selected),
                seconds=time.monotonic() - started,
            )
        )
    return results


def table(themes: Sequence[Theme]) -> str:
    """Return the results as text."""
    width = max(len(theme.name) for theme in themes)
    lines = [f"{'theme':{width}}  passed  failed  not needed  seconds"]
    lines += [
        f"{theme.name:{width}}  {theme.passed:6}  {len(theme.failures):6}"
        f"  {theme.left_out:10}  {theme.seconds:7.1f}"
        for theme in themes
    ]
    passed = sum(theme.passed for theme in themes)
    failed = sum(len(theme.failures) for theme in themes)
    lines.append(f"{'all':{width}}  {passed:6}  {failed:6}")
    return "\n".join(lines)


def _run_alone(case: Case, make_store: MakeStore, capabilities: Capabilities) -> Failure | None:
    try:
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(_ignore)
            runner.run(_run(case, make_store, capabilities))
    except Exception:  # noqa: BLE001 - whatever it is, the case has failed
        return Failure(case.name, case.guarantees, traceback.format_exc())
    return None


async def _run(case: Case, make_store: MakeStore, capabilities: Capabilities) -> None:
    made: Any = make_store()
    make_driver: MakeDriver = await made if isinstance(made, Awaitable) else made
    await run(case, make_driver, capabilities)


def _ignore(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
    """Say nothing of tasks that a failed case has left behind."""
