"""From seconds to samples."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from time import perf_counter, process_time

from benchmarks.workload import Sample

__all__ = ["Counter", "Stopwatch", "latency"]


class Counter:
    """Counts calls; several threads may call it at once."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.count = 0

    def __call__(self, *_: object) -> None:
        self.count = next(self._numbers)

    @property
    def is_current(self) -> bool:
        """Whether the task that asks counts by it, or was begun by one that did."""
        return _current.get() is self

    @contextmanager
    def counting(self) -> Iterator["Counter"]:
        """Let the samples of all stopwatches that are made within say what it counts."""
        before = _current.set(self)
        try:
            yield self
        finally:
            _current.reset(before)


_current: ContextVar[Counter | None] = ContextVar("current", default=None)


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self._counter = _current.get()
        self._count = self._counter.count if self._counter else 0
        self._start, self._cpu = perf_counter(), process_time()

    def sample(self, units: int, statements: float | None = None) -> Sample:
        """Return what each of so many units took.

        Args:
            units: that were done meanwhile.
            statements: for each of them, where that is known without counting.
        """
        seconds, cpu = perf_counter() - self._start, process_time() - self._cpu
        if self._counter is not None:
            statements = (self._counter.count - self._count) / units
        return Sample(seconds / units, cpu / units, statements)

    def latency(self, seconds: Sequence[float]) -> Sample:
        """Return median and 99th percentile of what was waited for meanwhile, in seconds."""
        each = self.sample(len(seconds))
        waited = latency(seconds, each.cpu)
        return Sample(waited.value, each.cpu, each.statements, waited.worst)


def latency(seconds: Sequence[float], cpu: float | None = None) -> Sample:
    """Return the median and the 99th percentile of what was waited for, in seconds."""
    rising = sorted(seconds)
    return Sample(
        rising[len(rising) // 2], cpu, worst=rising[min(len(rising) - 1, len(rising) * 99 // 100)]
    )
