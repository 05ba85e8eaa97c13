"""Echoes: from a message to an instance until its next step runs."""

from collections.abc import Iterable
from functools import partial
from time import perf_counter

from benchmarks.definitions import Nothing, Ping, echo
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Workload
from flowstate import Engine, Status
from flowstate.engines.workflow import Workflows

__all__ = ["send_pings", "workloads"]

CONTENT = Content("echoes")
LEAST = 5
MARKS = {"memory": 0.001, "postgres": 0.005}


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        name = engines.store.name
        count = max(LEAST, engines.store.operations)
        yield Workload(
            "message to the next step of a workflow",
            name,
            "message",
            Measured(engines, CONTENT, partial(send_pings, engines), count),
            mark=MARKS.get(name),
        )


async def send_pings(engines: Engines, engine: Engine, count: int) -> Sample:
    """Send messages to an instance, one after the other, each as soon as it waits again."""
    seconds: list[float] = []
    sent_at = 0.0
    echoing = echo(lambda _: seconds.append(perf_counter() - sent_at))
    id = engines.unique()
    async with Workflows(engine, [echoing]) as workflows:
        await workflows.start(echoing, id, Nothing())
        watch = Stopwatch()
        for number in range(count):
            await engine.wait_for(id, status=Status.PAUSED)
            sent_at = perf_counter()
            await workflows.send(id, Ping(number))
            while len(seconds) <= number:
                await engine.wait_for(id, until=lambda _: len(seconds) > number)  # noqa: B023
        sample = watch.latency(seconds)
        await workflows.cancel(id, hard=True)
        return sample
