"""One round of a workload: every side once, in an order that favours none."""

import asyncio
import gc
from collections.abc import Callable, Sequence
from random import Random
from time import perf_counter, process_time

from benchmarks.records import Problem, RecordedSide, RecordedWorkload, Round, Taken, recorded
from benchmarks.workload import Measure, NotInstalledError, Workload

__all__ = ["Rounds", "yardstick"]

STEPS = 20_000
TIME_LIMIT = 600.0  # for one side in one round; what hangs has failed


class Rounds:
    """Measures a workload, round by round.

    Each second round has the order of the one before, reversed: what drifts over both disturbs
    all sides alike.

    Attributes:
        workload: what is measured.
        record: what came out so far.
    """

    def __init__(
        self,
        workload: Workload,
        seed: int,
        *,
        began: float,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare, without measuring.

        Args:
            workload: what to measure.
            seed: of the order of sides.
            began: when the run did, by ``perf_counter``.
            say: is told the name of each side before it is measured.
        """
        self.workload = workload
        self.record: RecordedWorkload = recorded(workload)
        self._random = Random(f"{seed} {workload.key}")
        self._order: list[int] = []
        self._began = began
        self._say = say

    @property
    def stopped(self) -> bool:
        """Whether flowstate's own side has failed, so that nothing can be compared any more."""
        return self.record.ours.problem is not None

    async def measure(self) -> None:
        """Measure one more round; what a side raises becomes its problem."""
        number = len(self.record.rounds)
        self.record.rounds.append(Round(perf_counter() - self._began, yardstick()))
        measures = [self.workload.ours, *(side.measure for side in self.workload.others)]
        for which in self._next_order(number):
            side = self.record.sides[which]
            if side.problem is None:
                self._say(side.name)
                await self._take(side, measures[which], number)

    async def _take(self, side: RecordedSide, measure: Measure, number: int) -> None:
        gc.collect()  # None pays for the garbage of the one before.
        start = perf_counter()
        try:
            async with asyncio.timeout(TIME_LIMIT):
                sample = await measure()
        except NotInstalledError as error:
            side.problem = Problem("not installed", str(error))
        except Exception as error:  # noqa: BLE001 - the run goes on, and says what it was
            side.problem = Problem("failed", _described(error))
        else:
            took = perf_counter() - start
            side.samples.append(Taken.of(number, start - self._began, took, sample))

    def _next_order(self, number: int) -> Sequence[int]:
        if number % 2:
            self._order.reverse()
        else:
            self._order = list(range(len(self.record.sides)))
            self._random.shuffle(self._order)
        return self._order


def yardstick() -> float:
    """Return the CPU seconds that a fixed loop takes now.

    It makes and drops small objects, looks into a dict and calls functions, as the library does.
    """
    start = process_time()
    found: dict[int, tuple[int, str]] = {}
    for number in range(STEPS):
        found[number % 100] = (number, str(number))
    return process_time() - start


def _described(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"
