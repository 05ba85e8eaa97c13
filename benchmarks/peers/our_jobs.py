"""flowstate as a queue of jobs: for one worker, or for workers that compete."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Any

from benchmarks.peers.work import Batch, Works, drained, latencies
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Execute,
    FlowRegistry,
    Pause,
    Resume,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.drivers.postgres import PostgresDriver

__all__ = ["jobs"]

FILLERS = 64  # Commits that share batches.
PER_SECOND = 2_000


class Queue:
    """Jobs are active states under a label; one worker executes all that it sees."""

    status = Status.ACTIVE

    def __init__(self) -> None:
        self.flows = FlowRegistry()
        self.flows.set("job", self._flow())
        self.started: asyncio.Queue[float] = asyncio.Queue()
        self.batch: Batch | None = None
        self.tasks = 1
        self.labels = {"queue": secrets.token_hex(4)}

    def _flow(self) -> Callable[[StateContext, Engine], Coroutine[Any, Any, Command]]:
        async def job(ctx: StateContext, engine: Engine) -> Command:
            if self.batch is None:
                self.started.put_nowait(perf_counter())
            else:
                self.batch.start()
            return Commit(End(ctx))

        return job

    async def hand_in(self, engine: Engine) -> None:
        """Commit a job."""
        await engine.do(Commit(Transit(self._new(), "job")))

    async def work(self, engine: Engine, since: int, count: int) -> None:
        """Do so many jobs, of those with revisions after ``since``."""
        watch = engine.watch(labels=self.labels, since_rev=since, status=self.status)
        async with watch as states:
            for _ in range(count):
                await engine.do(Execute(StateContext(await anext(states))))
        await engine.idle()

    def _new(self) -> StateContext:
        return StateContext(State(secrets.token_hex(16), labels=self.labels))


class ClaimedQueue(Queue):
    """Jobs are paused states; of several workers, the one whose commit resumes it has it."""

    status = Status.PAUSED

    async def hand_in(self, engine: Engine) -> None:
        """Commit a job that waits to be claimed."""
        job = self._new()
        await engine.do(Commit(Transit(job, "job"), Pause(job)))

    async def work(self, engine: Engine, since: int, count: int) -> None:
        """Claim so many jobs, and do them: two halves of what may be done at once, in turns."""
        jobs: Waiting = asyncio.Queue(maxsize=self.tasks)
        watch = engine.watch(labels=self.labels, since_rev=since, status=self.status)
        async with watch, asyncio.TaskGroup() as group:
            for _ in range(min(2, self.tasks)):
                group.create_task(self._do(engine, jobs))
            for _ in range(count):
                await jobs.put(StateContext(await anext(watch)))
            await jobs.put(None)

    async def _do(self, engine: Engine, jobs: "Waiting") -> None:
        while some := await _taken(jobs, max(1, self.tasks // 2)):
            await asyncio.gather(*map(engine.execute, await _claimed(engine, some)))


Waiting = asyncio.Queue[StateContext | None]
"""Jobs, and ``None`` when no more come."""


async def _taken(jobs: Waiting, most: int) -> list[StateContext]:
    """Wait for a job, and return it with those that are there too."""
    taken: list[StateContext] = []
    while len(taken) < most and not (taken and jobs.empty()):
        job = await jobs.get()
        if job is None:
            await jobs.put(None)  # For the other one.
            break
        taken.append(job)
    return taken


async def _claimed(engine: Engine, jobs: Sequence[StateContext]) -> list[StateContext]:
    """Claim them with one commit, or one by one if another worker has some of them."""
    try:
        await engine.do(Commit(*map(Resume, jobs)))
    except RevisionMismatchError:
        ours = []
        for job in jobs:
            with suppress(RevisionMismatchError):
                await engine.do(Commit(Resume(job)))
                ours.append(job)
        return ours
    return list(jobs)


@asynccontextmanager
async def jobs(place: str) -> AsyncIterator[Works]:
    """Both kinds of queue: a job costs three commits, or two if no other worker competes for it."""
    async with _works(place, ClaimedQueue()) as claimed, _works(place, Queue()) as unclaimed:
        yield {
            **claimed,
            "unclaimed rate": unclaimed["rate"],
            "unclaimed latency": unclaimed["latency"],
        }


@asynccontextmanager
async def _works(place: str, queue: Queue) -> AsyncIterator[Works]:
    # The process that hands in has connections of its own, as in another process.
    async with (
        PostgresDriver(place) as driver,
        Engine(PostgresDriver(place), queue.flows) as producer,
    ):
        since = 0

        async def fill(batch: Batch) -> None:
            nonlocal since
            since = await producer.head()
            left = iter(range(batch.count))

            async def some() -> None:
                for _ in left:
                    await queue.hand_in(producer)

            await asyncio.gather(*(some() for _ in range(FILLERS)))

        async def drain(batch: Batch, tasks: int) -> None:
            queue.batch, queue.tasks = batch, tasks
            async with Engine(driver, queue.flows, max_executions=tasks) as engine:
                await queue.work(engine, since, batch.count)
                batch.finish(batch.count)
                batch.sample()
            queue.batch = None

        @asynccontextmanager
        async def worker() -> AsyncIterator[None]:
            queue.tasks = 1
            async with Engine(driver, queue.flows) as engine:
                working = asyncio.create_task(queue.work(engine, await engine.head(), sys.maxsize))
                yield
                working.cancel()
                await asyncio.wait([working])

        yield {
            "rate": drained(fill, drain, PER_SECOND),
            "latency": latencies(lambda: queue.hand_in(producer), queue.started, worker),
        }
