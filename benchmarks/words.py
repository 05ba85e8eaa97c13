"""How figures are written."""

from collections.abc import Callable

from benchmarks.intervals import Estimate

__all__ = ["amount", "count", "duration", "interval", "percent", "rate", "times"]

MILLI = 1e-3


def duration(seconds: float) -> str:
    """Write seconds with three digits that count."""
    if seconds >= 1:
        return f"{_digits(seconds)} s"
    if seconds >= MILLI:
        return f"{_digits(1e3 * seconds)} ms"
    return f"{_digits(1e6 * seconds)} µs"


def amount(value: float, quantity: str) -> str:
    """Write what a workload measures."""
    return f"{value:,.0f} B" if quantity == "bytes" else duration(value)


def rate(seconds: float) -> str:
    """Write how many there are in a second."""
    return f"{_digits(1 / seconds)}/s"


def count(number: float) -> str:
    """Write how many statements there are, exactly where it is a whole number."""
    return f"{number:,.0f}" if abs(number - round(number)) < MILLI else f"{number:,.2f}"


def times(ratio: float) -> str:
    """Write how many times as much."""
    return f"{_digits(ratio)} x"


def percent(change: float) -> str:
    """Write a change of so many times as one of so many percent, with its sign."""
    return f"{100 * (change - 1):+.1f} %"


def interval(estimate: Estimate, write: Callable[[float], str] = times) -> str:
    """Write an interval, or that one sample has none."""
    if estimate.count == 1:
        return "[one round]"
    return f"[{write(estimate.low)} to {write(estimate.high)}]"


def _digits(figure: float) -> str:
    """Write three digits that count, and never fewer than those before the point."""
    if figure >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"
