"""A log of revisions for people to read."""

from collections.abc import Iterable
from datetime import datetime

from flowstate.recovery.dead import is_dead
from flowstate.recovery.policy import attempt
from flowstate.state import State

__all__ = ["format_log"]

HEADINGS = ("rev", "time", "state", "status", "flow", "")


def format_log(states: Iterable[State]) -> list[str]:
    """Return a table of revisions, a line each, with the time since the first of them."""
    states = list(states)
    start = next((state.committed_at for state in states if state.committed_at), None)
    rows = [HEADINGS, *(_row(state, start) for state in states)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].rjust(widths[0])
        lines.append("  ".join(cells).rstrip())
    return lines


def _row(state: State, start: datetime | None) -> tuple[str, ...]:
    return (
        str(state.rev),
        _since(start, state.committed_at),
        state.id,
        state.status.value,
        state.transition.to,
        ", ".join(_remarks(state)),
    )


def _remarks(state: State) -> list[str]:
    remarks = []
    if state.transition.cause in {"resume", "delay"}:
        remarks.append({"resume": "resumed", "delay": "delay fired"}[state.transition.cause])
    if number := attempt(state):
        remarks.append(f"attempt {number}")
    if is_dead(state):
        remarks.append("ended by force")
    if state.delayed_until and state.committed_at:
        remarks.append(f"delayed {_since(state.committed_at, state.delayed_until)}")
    return remarks


def _since(start: datetime | None, time: datetime | None) -> str:
    if start is None or time is None:
        return ""
    seconds = round((time - start).total_seconds(), 3)
    days, rest = divmod(seconds, 86_400)
    return f"+{days:.0f}d {rest:.0f}s" if days else f"+{rest:g}s"
