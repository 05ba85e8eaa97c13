"""What follows from samples: medians, ratios round by round, and which marks are met."""

from collections.abc import Callable, Iterable
from statistics import median

from msgspec import Struct

from benchmarks import words
from benchmarks.intervals import Estimate, of_median
from benchmarks.records import RecordedSide, RecordedWorkload, Taken

__all__ = ["Check", "Spread", "checks", "paired", "ratio", "spread"]


class Spread(Struct, frozen=True):
    """The median of samples, and what they went from and to."""

    median: float
    low: float
    high: float


def spread(figures: Iterable[float | None]) -> Spread | None:
    """Return the spread of those figures that are known; ``None`` if none is."""
    known = [figure for figure in figures if figure is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def paired(a: RecordedSide, b: RecordedSide, take: Callable[[Taken], float | None]) -> list[float]:
    """Return a's figure divided by b's, for each round in which both have one."""
    others = {sample.round: take(sample) for sample in b.samples}
    pairs = ((take(sample), others.get(sample.round)) for sample in a.samples)
    return [mine / other for mine, other in pairs if mine is not None and other]


def ratio(workload: RecordedWorkload, side: RecordedSide) -> Estimate | None:
    """Return how many times the value of a side ours is; ``None`` if they share no round."""
    ratios = paired(workload.ours, side, lambda sample: sample.value)
    return of_median(ratios) if ratios else None


class Check(Struct, frozen=True):
    """A mark beside what was measured.

    Attributes:
        key: of the workload.
        what: is compared: the name of a side, or "time", "CPU", "99th percentile", "size".
        figure: what was measured; ``None`` if nothing was.
        mark: what it may be at most.
        write: how such a figure is written.
        inverse: whether it is told the other way round: so many times as fast, at least.
    """

    key: str
    what: str
    figure: Estimate | None
    mark: float
    write: Callable[[float], str]
    inverse: bool = False

    @property
    def met(self) -> bool:
        """Whether the mark is met; what was not measured does not meet it."""
        return self.figure is not None and self.figure.value <= self.mark

    @property
    def unsure(self) -> bool:
        """Whether the true figure may be on the other side of the mark."""
        return self.figure is not None and (self.figure.count == 1 or self.figure.holds(self.mark))

    @property
    def asked(self) -> str:
        """The mark in words."""
        if self.inverse:
            return f"at least {self.write(1 / self.mark)}"
        return f"at most {self.write(self.mark)}"

    @property
    def told(self) -> str:
        """What was measured, in words."""
        if self.figure is None:
            return ""
        figure = self.figure.inverse() if self.inverse else self.figure
        return f"{self.write(figure.value)} {words.interval(figure, self.write)}"

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        if self.figure is None:
            return "not measured"
        doubt = ", unsure" if self.unsure else ""
        if self.met:
            return f"met{doubt}"
        excess = self.figure.value / self.mark
        missed = 1 - 1 / excess if self.inverse else excess - 1
        return f"NOT MET, by {100 * missed:.0f} %{doubt}"


def checks(workload: RecordedWorkload) -> list[Check]:
    """Return the marks of a workload: its own first, then those beside its sides."""
    return [*_own_checks(workload), *_side_checks(workload)]


def _own_checks(workload: RecordedWorkload) -> Iterable[Check]:
    samples = workload.ours.samples
    kinds: list[tuple[str, float | None, list[float | None]]] = [
        (
            "size" if workload.quantity == "bytes" else "time",
            workload.ours.mark,
            [sample.value for sample in samples],
        ),
        ("CPU", workload.cpu_mark, [sample.cpu for sample in samples]),
        ("99th percentile", workload.worst_mark, [sample.worst for sample in samples]),
    ]
    for what, mark, figures in kinds:
        if mark is not None:
            known = [figure for figure in figures if figure is not None]
            estimate = of_median(known) if known else None
            quantity = workload.quantity if what == "size" else "seconds"
            yield Check(workload.key, what, estimate, mark, _writer(quantity))


def _side_checks(workload: RecordedWorkload) -> Iterable[Check]:
    for side in workload.others:
        if side.mark is not None:
            inverse = side.role == "peer"
            found = ratio(workload, side)
            yield Check(workload.key, side.name, found, side.mark, words.times, inverse)


def _writer(quantity: str) -> Callable[[float], str]:
    return lambda figure: words.amount(figure, quantity)
