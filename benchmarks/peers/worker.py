"""A system in a process of its own, which works when it is told to.

``python -m benchmarks.peers.worker SYSTEM PLACE [COUNT]`` reads from its input an order in a line,
and answers with a line when it is ready; on the next line it starts, and answers with the sample.
With ``COUNT``, it counts the statements that the store is sent meanwhile.
"""

import asyncio
import sys

import msgspec
from msgspec.structs import replace

from benchmarks.peers.statements import Counter, counter
from benchmarks.peers.systems import SYSTEMS
from benchmarks.peers.work import Kind, Work, Works
from benchmarks.workload import Sample

__all__ = ["Order"]


class Order(msgspec.Struct, frozen=True):
    """What to do next.

    Attributes:
        kind: what to measure.
        tasks: how much to do at once.
        seconds: for how long, about.
    """

    kind: Kind
    tasks: int
    seconds: float


async def serve(works: Works, count: Counter | None) -> None:
    """Do what the input says, until it ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = msgspec.json.decode(line, type=Order)
        work = await works[order.kind](order.tasks, order.seconds)
        print("ready", flush=True)
        if not await asyncio.to_thread(sys.stdin.readline):
            return
        sample = await (_counted(work, count) if count else _timed(work))
        print(msgspec.json.encode(sample).decode(), flush=True)


async def _timed(work: Work) -> Sample:
    return (await work()).sample


async def _counted(work: Work, count: Counter) -> Sample:
    before = count()
    done = await work()
    return replace(done.sample, statements=(count() - before) / done.units)


async def main(name: str, place: str, counting: str = "") -> None:
    """Open the system, and serve."""
    count = counter(counting) if counting else None
    async with SYSTEMS[name].open(place) as works:
        await serve(works, count)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
