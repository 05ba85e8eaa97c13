"""What changed, as lines of text."""

from collections.abc import Iterable, Sequence

from benchmarks import words
from benchmarks.comparing import CLAIM, CONFIDENCE, FLOOR, Change
from benchmarks.intervals import Estimate
from benchmarks.records import Record

__all__ = ["change_lines", "slower"]

VERDICTS = ("slower", "faster", "unchanged within noise", "too few rounds", "nothing to go by")


def change_lines(old: Record, new: Record, changes: Sequence[Change]) -> Iterable[str]:
    """Return what two runs were of, a few lines for each change, and how many there are of each."""
    yield f"old: {old.versions.get('flowstate')}, {old.started}, {old.seconds:,.0f} s"
    yield f"new: {new.versions.get('flowstate')}, {new.started}, {new.seconds:,.0f} s"
    yield ""
    for change in changes:
        yield from _lines(change)
    yield ""
    yield _summary(changes)
    yield _by_chance(changes)
    yield from _alone(old, new)
    yield (
        f"Intervals have {100 * CONFIDENCE:.0f} %, or what the rounds permit. A change is claimed "
        f"if its interval leaves out none, with at least {100 * CLAIM:.0f} %, and if it is "
        f"{100 * FLOOR:.0f} % or more."
    )


def slower(changes: Sequence[Change], percent: float) -> list[Change]:
    """Return what is claimed to be slower by more than so many percent."""
    return [
        change
        for change in changes
        if change.verdict == "slower"
        and change.factor is not None
        and 100 * (change.factor.value - 1) > percent
    ]


def _lines(change: Change) -> Iterable[str]:
    yield f"{change.key:46} {change.verdict}{_of(change)}"
    if details := ", ".join(_details(change)):
        yield f"    {details}"


def _of(change: Change) -> str:
    if change.factor is None:
        return ""
    return f": {change.basis} {_change(change.factor)}"


def _details(change: Change) -> Iterable[str]:
    if change.time is not None and change.time != change.factor:
        yield f"time {_change(change.time)}"
    if change.cpu is not None:
        yield f"CPU {_change(change.cpu)}"
    if change.statements is not None:
        before, after = map(words.count, change.statements)
        yield f"statements {before}" if before == after else f"statements {before} -> {after}"


def _change(estimate: Estimate) -> str:
    return f"{words.percent(estimate.value)} {words.interval(estimate, words.percent)}"


def _summary(changes: Sequence[Change]) -> str:
    verdicts = [change.verdict for change in changes]
    told = [f"{verdicts.count(name)} {name}" for name in VERDICTS if name in verdicts]
    return f"{len(changes)} workloads: {', '.join(told) or 'none in both'}"


def _by_chance(changes: Sequence[Change]) -> str:
    """Say how many intervals miss the truth even if nothing has changed."""
    judged = [change.factor for change in changes if change.factor and change.judged]
    wrong = sum(1 - factor.confidence for factor in judged)
    return f"of {len(judged)} that are judged, chance alone makes about {wrong:.1f} wrong"


def _alone(old: Record, new: Record) -> Iterable[str]:
    keys = [{workload.key for workload in record.workloads} for record in (old, new)]
    for name, alone in (("old", keys[0] - keys[1]), ("new", keys[1] - keys[0])):
        if alone:
            yield f"only in the {name} run: {', '.join(sorted(alone))}"
