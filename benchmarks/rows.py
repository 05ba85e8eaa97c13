"""What the table and the report say of a workload, in words: one row for each comparison."""

from collections.abc import Sequence

from msgspec import Struct

from benchmarks import words
from benchmarks.figures import Check, checks, ratio, spread
from benchmarks.records import RecordedSide, RecordedWorkload

__all__ = ["Measured", "Row", "measured", "rows"]


class Measured(Struct, frozen=True):
    """One side in words; what is not known is empty.

    Attributes:
        name: of the side.
        middle: the median of the rounds.
        ends: what they went from and to.
        rate: units in a second.
        worst: the median of the rounds' 99th percentiles.
        cpu: for one unit.
        statements: for one unit.
        problem: why it was not measured, or no further.
    """

    name: str
    middle: str = ""
    ends: str = ""
    rate: str = ""
    worst: str = ""
    cpu: str = ""
    statements: str = ""
    problem: str = ""


class Row(Struct, frozen=True):
    """One comparison of a workload, or one mark of its own.

    Attributes:
        beside: what ours is compared with; of an own mark, what it is of.
        other: that side; ``None`` of an own mark.
        ratio: how many times the other's value ours is; beside peers, how many times as fast.
        interval: where the true ratio is.
        asked: the mark.
        verdict: whether it is met.
    """

    beside: str
    other: Measured | None
    ratio: str = ""
    interval: str = ""
    asked: str = ""
    verdict: str = ""


def measured(workload: RecordedWorkload, side: RecordedSide) -> Measured:
    """Put into words what a side took."""
    problem = f"{side.problem.kind}: {side.problem.text}" if side.problem else ""
    values = spread(sample.value for sample in side.samples)
    if values is None:
        return Measured(side.name, problem=problem or "not measured")
    worst = spread(sample.worst for sample in side.samples)
    cpu = spread(sample.cpu for sample in side.samples)
    statements = spread(sample.statements for sample in side.samples)
    low, high = (words.amount(end, workload.quantity) for end in (values.low, values.high))
    has_rate = workload.quantity == "seconds" and worst is None
    return Measured(
        side.name,
        words.amount(values.median, workload.quantity),
        f"{low} to {high}",
        words.rate(values.median) if has_rate else "",
        words.duration(worst.median) if worst else "",
        words.duration(cpu.median) if cpu else "",
        words.count(statements.median) if statements else "",
        problem,
    )


def rows(workload: RecordedWorkload) -> list[Row]:
    """Return first the marks of its own, then the sides."""
    found = checks(workload)
    names = {side.name for side in workload.others}
    own = [_own_row(check) for check in found if check.what not in names]
    return [*own, *(_side_row(workload, side, found) for side in workload.others)]


def _own_row(check: Check) -> Row:
    return Row(check.what, None, "", check.told, check.asked, check.verdict)


def _side_row(workload: RecordedWorkload, side: RecordedSide, found: Sequence[Check]) -> Row:
    check = next((check for check in found if check.what == side.name), None)
    other = measured(workload, side)
    estimate = ratio(workload, side)
    asked, verdict = (check.asked, check.verdict) if check else ("", "")
    if estimate is None:
        return Row(side.name, other, "", "", asked, verdict)
    if side.role == "peer":
        estimate = estimate.inverse()
    return Row(
        side.name, other, words.times(estimate.value), words.interval(estimate), asked, verdict
    )
