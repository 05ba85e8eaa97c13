"""Stops: a compiled function is asked what it wants at one, and goes on; nothing is stored."""

from collections.abc import Iterable
from functools import partial

from msgspec import Raw

from benchmarks.definitions import Nothing, counter
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import Sample, Workload
from flowstate.engines.kernel.code import At, Frame, Returned
from flowstate.engines.kernel.operations import Gave

__all__ = ["pass_stops", "workloads"]

STOPS = 1_000
MARK = 30e-6


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the only workload: no store takes part."""
    stops = min(STOPS, setting.sizes.memory_commits)
    yield Workload("stop without a store", "", "stop", partial(pass_stops, stops), cpu_mark=MARK)


async def pass_stops(stops: int) -> Sample:
    """Go through a loop with so many stops, of which each is entered again.

    Raises:
        RuntimeError: the result is wrong.
    """
    data, frame = Nothing(), Frame(counter.name, names={"stops": Raw(str(stops).encode())})
    watch = Stopwatch()
    reached = counter.begin(frame, data)
    number = 0
    while isinstance(reached, At):
        counter.ask(reached.frame, data)
        reached = counter.go_on(reached.frame, data, Gave(number))
        number += 1
    sample = watch.sample(stops)
    if not isinstance(reached, Returned) or number != stops:
        raise RuntimeError(f"{number} stops, then {reached}")
    return sample
