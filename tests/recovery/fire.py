"""A cluster under fire: jobs run, workers die and come again, and everything stays exact."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from flowstate import Engine, State, Status, StoreBusyError
from flowstate.recovery import attempt, explain, is_dead
from flowstate.recovery.lease import HOLDER
from tests.recovery.cluster import Cluster
from tests.recovery.jobs import (
    MAX_ATTEMPTS,
    SUM,
    create_job,
    create_ledgers,
    expected_sums,
    is_job,
    job_ids,
    registry,
)
from tests.recovery.journal import read_journal
from tests.recovery.stores import driver_on
from tests.recovery.verdict import LEASE_ID, Verdict, monotonic_zero

__all__ = ["check_under_fire"]

WORKERS = 4
MOST_SHOWN = 10

Say = Callable[[str], None]


class Observer:
    """Watches the store from its first revision on.

    Attributes:
        log: every revision, in order.
        latest: of each job.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self.log: list[State] = []
        self.latest: dict[str, State] = {}
        self._leader = ""
        self._ended = 0

    def leader(self) -> str:
        """Return the name of the worker that recovers, as the store says."""
        return self._leader

    def is_done(self) -> bool:
        """Return whether all jobs have ended."""
        return self._ended == self._jobs

    async def watch(self, engine: Engine) -> None:
        """Watch until all jobs have ended."""
        async with engine.watch(since_rev=0) as states:
            async for state in states:
                self._see(state)
                if self.is_done():
                    return

    def _see(self, state: State) -> None:
        self.log.append(state)
        if state.id == LEASE_ID:
            self._leader = state.annotations.get(HOLDER, "")
        elif is_job(state):
            self.latest[state.id] = state
            self._ended += state.status is Status.ENDED

    def __str__(self) -> str:
        attempts = [attempt(state) for state in self.log if attempt(state)]
        terms = sum(state.id == LEASE_ID for state in self.log)
        return (
            f"{self._ended:,} of {self._jobs:,} jobs have ended, {len(self.log):,} revisions, "
            f"{len(attempts):,} attempts (at most the {max(attempts, default=0)}th), {terms} terms"
        )


async def check_under_fire(
    url: str,
    schema: str,
    folder: Path,
    *,
    jobs: int,
    seconds: float,
    grace: float,
    say: Say = lambda _: None,
) -> str:
    """Run jobs for so many seconds while workers are killed and stopped; return what happened.

    Args:
        url: of the store.
        schema: in it.
        folder: empty; for what the workers write.
        jobs: how many; they begin evenly in the first nine tenths of the time.
        seconds: how long workers are hit.
        grace: seconds that the rest of the jobs may take then.
        say: tells the progress.
    """
    observer = Observer(jobs)
    command = ["-m", "tests.recovery.worker", url, schema]
    async with Engine(driver_on(url, schema), registry()) as engine:
        await create_ledgers(engine)
        async with Cluster(command, folder, WORKERS, random.Random()) as cluster:
            async with _watching(observer, engine, say) as watching:
                burning = asyncio.create_task(cluster.burn(observer.leader))
                await _send(engine, cluster, jobs, 0.9 * seconds)
                await asyncio.wait([burning, watching], timeout=0.1 * seconds)
                await _cancelled(burning)
                await asyncio.wait([watching], timeout=grace)
            cluster.check()
            await _check_ends(observer, engine)
        # Workers that end in order give their lease back; no other worker needs to have seen that.
    return _judge(observer, cluster, jobs)


@contextlib.asynccontextmanager
async def _watching(
    observer: Observer, engine: Engine, say: Say
) -> AsyncIterator["asyncio.Task[None]"]:
    async def tell() -> None:
        while True:
            await asyncio.sleep(10.0)
            say(str(observer))

    tasks = [asyncio.create_task(observer.watch(engine)), asyncio.create_task(tell())]
    try:
        yield tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _send(engine: Engine, cluster: Cluster, jobs: int, seconds: float) -> None:
    """Send jobs to the workers, evenly for so many seconds. What is lost is recovered."""
    started = time.monotonic()
    for number, id in enumerate(job_ids(jobs)):
        await asyncio.sleep(started + number / jobs * seconds - time.monotonic())
        rev = await _create(engine, id)
        cluster.tell(f"{id} {rev}")


async def _create(engine: Engine, id: str) -> int:
    while True:
        with contextlib.suppress(StoreBusyError):
            return await create_job(engine, id)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    """Cancel a task, and raise what it has raised by itself."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _check_ends(observer: Observer, engine: Engine) -> None:
    left = [id for id, state in observer.latest.items() if state.status is not Status.ENDED]
    if left:
        reasons = [await explain(engine, id) for id in left[:MOST_SHOWN]]
        texts = [f"{each.state.id}: {each.text}; {each}" for each in reasons]
        raise AssertionError("\n".join([f"{observer}; among the {len(left)} others:", *texts]))


def _judge(observer: Observer, cluster: Cluster, jobs: int) -> str:
    log = observer.log
    executions = [each for path in cluster.journals() for each in read_journal(path)]
    zero = monotonic_zero(time.monotonic_ns())
    verdict = Verdict(log, executions, cluster.suspensions, zero)
    assert [state.rev for state in log] == list(range(1, len(log) + 1))
    assert sorted(observer.latest) == sorted(job_ids(jobs))
    assert max(map(attempt, log)) <= MAX_ATTEMPTS
    dead = [f"dead: {state}" for state in observer.latest.values() if is_dead(state)]
    faults = [*dead, *verdict.wrong_sums(expected_sums(jobs), SUM), *verdict.faults()]
    shown = "\n".join([*faults[:MOST_SHOWN], *map(str, cluster.suspensions)])
    assert not faults, f"{observer}\n{len(faults)} faults:\n{shown}"
    kills = sum(each.ended is None for each in cluster.suspensions)
    longest = max(verdict.taken_over, default=0) / 1e9
    return (
        f"{observer}, {len(executions):,} executions, {kills} kills, "
        f"{len(cluster.suspensions) - kills} stops; {verdict.not_run} attempts were cut off before "
        f"they ran, {len(verdict.taken_over)} executions were taken over from stopped workers, "
        f"which ended theirs at most {longest:.3f} s after they went on; {verdict.late} began so "
        f"late that they met with an attempt; {verdict.starved} attempts were starved"
    )
