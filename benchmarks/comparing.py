"""What changed between two runs beyond their noise."""

from collections.abc import Callable, Iterable
from statistics import median
from typing import Literal

from msgspec import Struct

from benchmarks.figures import paired
from benchmarks.intervals import Estimate, of_median, of_quotient
from benchmarks.records import Record, RecordedSide, RecordedWorkload, Taken

__all__ = ["CLAIM", "FLOOR", "Change", "changes"]

CONFIDENCE = 0.99
"""Of the intervals. There are dozens of workloads, and with 95 % one in twenty would be wrong."""

CLAIM = 0.95
"""The least confidence that a claim needs; fewer rounds than this takes claim nothing."""

FLOOR = 0.03
"""What two starts of the same program may differ by, whatever the rounds of each say."""

Basis = Literal["time in the same rounds", "time by the limit's", "CPU by the yardstick's", ""]


class Change(Struct, frozen=True):
    """What became of one workload; a factor above 1 is slower, or more.

    Attributes:
        key: of the workload.
        basis: what the verdict is of; "" if there is nothing that another run can be held against.
        factor: the new by the old.
        time: the same of what was measured, without a limit beside it.
        cpu: the same of the client's CPU.
        statements: the medians, before and after.
    """

    key: str
    basis: Basis
    factor: Estimate | None
    time: Estimate | None
    cpu: Estimate | None
    statements: tuple[float, float] | None

    @property
    def judged(self) -> bool:
        """Whether there are rounds enough to claim something."""
        return self.factor is not None and self.factor.confidence >= CLAIM

    @property
    def verdict(self) -> str:
        """Faster, slower, or why neither."""
        if self.factor is None:
            return "nothing to go by"
        if not self.judged:
            return "too few rounds"
        if self.factor.holds(1.0) or abs(self.factor.value - 1) < FLOOR:
            return "unchanged within noise"
        return "slower" if self.factor.value > 1 else "faster"


def changes(old: Record, new: Record) -> list[Change]:
    """Compare the workloads that are in both.

    Runs that took turns are compared round by round. Others were at other times on a machine that
    may have been slower or faster then; what both have been measured beside cancels that.
    """
    olds = {workload.key: workload for workload in old.workloads}
    in_turns = bool(old.settings.pair) and old.settings.pair == new.settings.pair
    compare = _in_turns if in_turns else _apart
    return [
        compare(olds[workload.key], workload) for workload in new.workloads if workload.key in olds
    ]


def _in_turns(old: RecordedWorkload, new: RecordedWorkload) -> Change:
    def estimate(take: Callable[[Taken], float | None]) -> Estimate | None:
        factors = paired(new.ours, old.ours, take)
        return of_median(factors, CONFIDENCE) if factors else None

    time, cpu = estimate(_value), estimate(_cpu)
    return Change(new.key, "time in the same rounds", time, time, cpu, _statements(old, new))


def _apart(old: RecordedWorkload, new: RecordedWorkload) -> Change:
    time = _quotient(_known(old.ours, _value), _known(new.ours, _value))
    cpu = _quotient(_known(old.ours, _cpu), _known(new.ours, _cpu))
    by_limit = _quotient(*(_by_limit(old, new)))
    by_yardstick = _quotient(_by_yardstick(old), _by_yardstick(new))
    basis: Basis = ""
    if by_limit is not None:
        basis = "time by the limit's"
    elif by_yardstick is not None:
        basis = "CPU by the yardstick's"
    return Change(new.key, basis, by_limit or by_yardstick, time, cpu, _statements(old, new))


def _by_limit(old: RecordedWorkload, new: RecordedWorkload) -> tuple[list[float], list[float]]:
    """Return ours by the first limit that both have, for each round."""
    for side in new.others:
        for other in old.others:
            if side.role == other.role == "limit" and side.name == other.name:
                return paired(old.ours, other, _value), paired(new.ours, side, _value)
    return [], []


def _by_yardstick(workload: RecordedWorkload) -> list[float]:
    return [
        sample.cpu / workload.rounds[sample.round].yardstick
        for sample in workload.ours.samples
        if sample.cpu
    ]


def _statements(old: RecordedWorkload, new: RecordedWorkload) -> tuple[float, float] | None:
    before, after = (_known(workload.ours, _sent) for workload in (old, new))
    return (median(before), median(after)) if before and after else None


def _quotient(olds: list[float], news: list[float]) -> Estimate | None:
    return of_quotient(olds, news, CONFIDENCE) if olds and news and all(olds) else None


def _known(side: RecordedSide, take: Callable[[Taken], float | None]) -> list[float]:
    return _present(map(take, side.samples))


def _present(figures: Iterable[float | None]) -> list[float]:
    return [figure for figure in figures if figure is not None]


def _value(sample: Taken) -> float:
    return sample.value


def _cpu(sample: Taken) -> float | None:
    return sample.cpu


def _sent(sample: Taken) -> float | None:
    return sample.statements
