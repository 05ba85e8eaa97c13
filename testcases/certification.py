"""Certify a driver from the command line: each layer, theme by theme, as a table."""

import asyncio
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from flowstate.testcases.layers import Check, NotNeededError, Theme
from flowstate.testcases.target import Target

__all__ = ["Failure", "Result", "certify", "table"]


class Failure(Struct, frozen=True):
    """A check that failed.

    Attributes:
        check: its name.
        shows: what it shows, beginning with the guarantee.
        error: a traceback, or the message if that says it all.
    """

    check: str
    shows: str
    error: str


class Result(Struct, frozen=True):
    """What came of one theme.

    Attributes:
        layer: that it belongs to.
        name: of the theme.
        passed: how many checks.
        failures: the others.
        left_out: how many need what the store cannot do.
        seconds: how long they took.
    """

    layer: str
    name: str
    passed: int
    failures: tuple[Failure, ...]
    left_out: int
    seconds: float


Observer = Callable[[Check, Failure | str | None], None]
"""Called after each check: with its failure, with why it was left out, or with ``None``."""


def certify(target: Target, themes: Sequence[Theme], on_check: Observer) -> list[Result]:
    """Make every check that a store must pass, each on an empty one.

    Args:
        target: makes the stores.
        themes: the checks.
        on_check: see :data:`Observer`.
    """
    return [_certified(target, theme, on_check) for theme in themes]


def table(results: Sequence[Result]) -> str:
    """Return the results as text."""
    layers = max(len("layer"), *(len(result.layer) for result in results))
    names = max(len("theme"), *(len(result.name) for result in results))
    lines = [f"{'layer':{layers}}  {'theme':{names}}  passed  failed  not needed  seconds"]
    lines += [
        f"{each.layer:{layers}}  {each.name:{names}}  {each.passed:6}  {len(each.failures):6}"
        f"  {each.left_out:10}  {each.seconds:7.1f}"
        for each in results
    ]
    passed, failed = sum(each.passed for each in results), sum(len(r.failures) for r in results)
    left_out, seconds = sum(r.left_out for r in results), sum(r.seconds for r in results)
    total = f"{'all':{layers}}  {'':{names}}  {passed:6}  {failed:6}  {left_out:10}  {seconds:7.1f}"
    return "\n".join([*lines, total])


def _certified(target: Target, theme: Theme, on_check: Observer) -> Result:
    started = time.monotonic()
    passed, left_out, failures = 0, 0, list[Failure]()
    for check in theme.checks:
        outcome = _outcome(check, target)
        on_check(check, outcome)
        if isinstance(outcome, Failure):
            failures.append(outcome)
            if theme.ends_at_failure:
                break
        elif outcome is None:
            passed += 1
        else:
            left_out += 1
    seconds = time.monotonic() - started
    return Result(theme.layer, theme.name, passed, tuple(failures), left_out, seconds)


def _outcome(check: Check, target: Target) -> Failure | str | None:
    """Make a check; return its failure, or why it was left out."""
    lacking = [need for need in check.needs if not getattr(target.capabilities, need)]
    if lacking:
        return f"needs {' and '.join(lacking)}"
    try:
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(_ignore)
            runner.run(check.run(target))  # type: ignore[arg-type]
    except NotNeededError as reason:
        return str(reason)
    except Exception as error:  # noqa: BLE001 - whatever it is, the check has failed
        text = traceback.format_exc() if check.has_trace else f"{type(error).__name__}: {error}\n"
        return Failure(check.name, check.shows, text)
    return None


def _ignore(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
    """Say nothing of tasks that a failed check has left behind."""
