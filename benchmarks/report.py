"""Takes the measures in turns, and says what came out."""

import gc
import json
import platform
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct, to_builtins

from benchmarks.comparison import Comparison

__all__ = ["Result", "measure", "print_table", "write_json"]


class Result(Struct, frozen=True):
    """One comparison, measured.

    Attributes:
        name: what was done.
        unit: of what the seconds are.
        ours: seconds (bytes, where the name says so) of each round.
        limit: seconds of each round; empty for a plain figure.
        ratio: the median of ours divided by the limit, round by round; or of ours.
        mark: what the ratio may be at most.
        met: whether it is.
    """

    name: str
    unit: str
    ours: list[float]
    limit: list[float]
    ratio: float
    mark: float | None
    met: bool | None


async def measure(comparison: Comparison, rounds: int) -> Result:
    """Measure in turns, so that what disturbs the machine disturbs both alike."""
    ours: list[float] = []
    limit: list[float] = []
    for _ in range(rounds):
        gc.collect()  # Nobody pays for the garbage of the one before.
        if comparison.limit is not None:
            limit.append(await comparison.limit())
            gc.collect()
        ours.append(await comparison.ours())
    ratios = [a / b for a, b in zip(ours, limit, strict=True)] if limit else ours
    ratio = median(ratios)
    met = None if comparison.mark is None else ratio <= comparison.mark
    return Result(comparison.name, comparison.unit, ours, limit, ratio, comparison.mark, met)


def print_table(results: Sequence[Result], show: Callable[[str], None] = print) -> None:
    """Print one line for each result."""
    head = f"{'median':>12} {'from':>12} {'to':>12} {'limit':>12} {'ratio':>8} {'at most':>8}"
    show(f"{'':50} {head}")
    for result in results:
        limit = _duration(median(result.limit)) if result.limit else ""
        ratio = f"{result.ratio:.2f}" if result.limit else ""
        mark = ""
        if result.mark is not None:
            mark = f"{result.mark:.2f}" if result.limit else _duration(result.mark)
        figures = (median(result.ours), min(result.ours), max(result.ours))
        shown = " ".join(f"{_amount(figure, result.unit):>12}" for figure in figures)
        verdict = {None: "", True: "met", False: "NOT MET"}[result.met]
        show(f"{result.name:50} {shown} {limit:>12} {ratio:>8} {mark:>8} {verdict}")


def _amount(figure: float, unit: str) -> str:
    return f"{figure:,.0f} B" if unit == "B" else _duration(figure)


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:,.2f} us"


def write_json(path: Path, size: str, results: Sequence[Result]) -> None:
    """Write everything that was measured; README.md has the schema."""
    content: dict[str, Any] = {
        "schema": 1,
        "size": size,
        "python": sys.version,
        "platform": platform.platform(),
        "sqlite": sqlite3.sqlite_version,
        "results": to_builtins(list(results)),
    }
    path.write_text(json.dumps(content, indent=1))
