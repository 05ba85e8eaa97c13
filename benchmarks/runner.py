"""Measures workload after workload, each for its share of the time."""

from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Protocol

from msgspec import Struct

from benchmarks.records import RecordedWorkload
from benchmarks.rounds import Rounds
from benchmarks.sizes import Sizes
from benchmarks.workload import Workload

__all__ = ["Budget", "Pace", "Watcher", "measure_all", "most_rounds"]


class Watcher(Protocol):
    """What is told how the run goes on."""

    def begin(self, workload: Workload, number: int, total: int) -> None:
        """Hear that the rounds of a workload begin; it is the n-th of so many, from 1."""

    def say(self, side: str, number: int) -> None:
        """Hear what is measured now, in which round, from 1."""

    def end(self, record: RecordedWorkload) -> None:
        """Hear what came out."""


class Budget(Struct):
    """Shares out the time of a run.

    Attributes:
        end: when the run should end, by ``perf_counter``.
        left: how many workloads have not begun.
    """

    end: float
    left: int

    def share(self, now: float) -> float:
        """Return until when the next workload may go on: what others left belongs to it too."""
        until = now + max(0.0, self.end - now) / self.left
        self.left -= 1
        return until


def most_rounds(workload: Workload) -> int | None:
    """Return what a workload allows; bytes do not depend on how busy the machine is."""
    return 1 if workload.quantity == "bytes" else workload.rounds


class Pace:
    """Decides whether a workload gets one more round."""

    def __init__(self, sizes: Sizes, most: int | None, until: float) -> None:
        """Begin.

        Args:
            sizes: how many rounds there are at least and at most.
            most: what the workload allows.
            until: when its share of the time is used.
        """
        self._most = min(sizes.most_rounds, most or sizes.most_rounds)
        self._least = min(sizes.least_rounds, self._most)
        self._until = until
        self._starts: list[float] = []

    def goes_on(self, now: float) -> bool:
        """Return whether a round may begin now, and take it that one does.

        The shortest round so far tells how long the next one will take.
        """
        took = [end - start for start, end in pairwise([*self._starts, now])]
        self._starts.append(now)
        if len(took) < self._least:
            return True
        return len(took) < self._most and now + min(took) <= self._until


async def measure_all(
    workloads: Sequence[Workload], sizes: Sizes, seed: int, began: float, watcher: Watcher
) -> AsyncIterator[RecordedWorkload]:
    """Measure each workload in rounds, one workload after the other; yield what came out of each.

    A workload gets rounds until its share of the time is used, within the limits of the sizes and
    its own. What it prepares in its first round counts as its time.
    """
    budget = Budget(began + sizes.seconds, len(workloads))
    for number, workload in enumerate(workloads, 1):
        watcher.begin(workload, number, len(workloads))
        until = budget.share(perf_counter())
        record = await _measure(workload, sizes, seed, began, until, watcher)
        watcher.end(record)
        yield record


async def _measure(
    workload: Workload, sizes: Sizes, seed: int, began: float, until: float, watcher: Watcher
) -> RecordedWorkload:
    def say(side: str) -> None:
        watcher.say(side, len(rounds.record.rounds))

    rounds = Rounds(workload, seed, began=began, say=say)
    pace = Pace(sizes, most_rounds(workload), until)
    while not rounds.stopped and pace.goes_on(perf_counter()):
        await rounds.measure()
    return rounds.record
