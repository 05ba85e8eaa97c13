"""The figures as lines of text."""

from collections.abc import Iterable

from benchmarks.figures import Check, checks
from benchmarks.records import Record, RecordedWorkload
from benchmarks.rows import Measured, Row, measured, rows

__all__ = ["lines", "summary", "workload_lines"]

INDENT = "    "


def lines(record: Record) -> Iterable[str]:
    """Return the whole table, with what came of the marks at its end."""
    for workload in record.workloads:
        yield from workload_lines(workload)
    yield ""
    yield summary(record)


def workload_lines(workload: RecordedWorkload) -> Iterable[str]:
    """Return a line for flowstate, and one for each comparison and mark."""
    ours = measured(workload, workload.ours)
    number = len(workload.rounds)
    rounds = "1 round" if number == 1 else f"{number} rounds"
    yield f"{workload.key:46} {_figures(ours)}, {rounds}"
    for row in rows(workload):
        yield f"{INDENT}{row.beside:42} {_comparison(row)}".rstrip()


def summary(record: Record) -> str:
    """Say how many marks are met, and how many are not."""
    found = [check for workload in record.workloads for check in checks(workload)]
    outcome = {
        "met": sum(check.met for check in found),
        "not met": sum(_missed(check) for check in found),
        "not measured": sum(check.figure is None for check in found),
    }
    told = ", ".join(f"{number} {what}" for what, number in outcome.items() if number)
    return f"marks: {told or 'none'}; failures: {len(record.failures)}"


def _missed(check: Check) -> bool:
    return check.figure is not None and not check.met


def _figures(side: Measured) -> str:
    if not side.middle:
        return side.problem
    figures = [f"{side.middle} ({side.ends})", side.rate]
    figures += [f"99 %: {side.worst}"] if side.worst else []
    figures += [f"CPU {side.cpu}"] if side.cpu else []
    figures += [f"{side.statements} statements"] if side.statements else []
    figures += [side.problem]
    return ", ".join(figure for figure in figures if figure)


def _comparison(row: Row) -> str:
    if row.other is not None and not row.other.middle:
        return row.other.problem
    ratio = " ".join(part for part in (row.ratio, row.interval) if part)
    return ", ".join(part for part in (_told(row.other), ratio, row.asked, row.verdict) if part)


def _told(side: Measured | None) -> str:
    if side is None:
        return ""
    figures = [side.middle]
    figures += [f"CPU {side.cpu}"] if side.cpu else []
    figures += [f"{side.statements} statements"] if side.statements else []
    figures += [side.problem] if side.problem else []
    return ", ".join(figures)
