"""Documents: start-up, lists and steps while very many instances of many documents wait."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.workload import Sample, Workload
from flowstate import Engine, Status
from flowstate.engines.tasks.service.app import app
from flowstate.engines.tasks.service.tasks import Tasks

__all__ = ["workloads"]

DOCUMENTS = 100
MOST = 10_000  # Instances that wait; they are started one by one.
TASKS = 8  # Instances at once.
STEPS = 3  # Of each.
PAGES = 20  # Of a list, in a round.
START_UP, PAGE, STEP = 5.0, 0.050, 1 / 200  # What each may take at most.
HEAD = "document: {{dsl: 1.0.3, namespace: bench, name: {}, version: 1.0.0}}\ndo:\n"
WAIT = "- wait: {listen: {to: {one: {with: {type: never}}}}}\n"
STEPPED = "".join(f"- step{number}: {{call: number}}\n" for number in range(STEPS))
QUERIES = (
    "limit=100",
    "limit=100&definition=bench/waits-7",
    "limit=100&phase=waiting",
    "limit=100&task=/do/0/wait",
    "limit=100&definition=bench/waits-7&phase=waiting&label=group:7",
)


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on Postgres."""
    count = min(setting.sizes.sleeping, MOST)
    for engines in engines_of(setting):
        if engines.store.name != "postgres":
            continue
        waiting, among = Waiting(engines, count), f"among {count:,} that wait"
        yield Workload(
            f"start-up of {DOCUMENTS} documents and their instances, {among}",
            "postgres",
            "start-up",
            partial(_started, waiting),
            mark=START_UP,
        )
        yield Workload(
            f"list of instances over HTTP, {among}",
            "postgres",
            "page",
            partial(_listed, waiting),
            mark=PAGE,
        )
        yield Workload(
            f"tasks with a call, {among}",
            "postgres",
            "task",
            partial(_stepped, waiting, max(TASKS, engines.store.operations)),
            mark=STEP,
        )


class Waiting:
    """A place in which instances of many documents wait; it is filled once.

    Args:
        engines: on the store.
        count: of the instances.
    """

    def __init__(self, engines: Engines, count: int) -> None:
        self._engines, self._count = engines, count
        self._content = Content(f"documents{count}")
        self._is_filled = False

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        """Lend an engine on the place."""
        async with self._engines.on(self._content) as engine:
            if not self._is_filled:
                await self._fill(engine)
                self._is_filled = True
            yield engine

    async def _fill(self, engine: Engine) -> None:
        async with opened(engine) as tasks:
            await tasks.add(HEAD.format("steps") + STEPPED)
            for number in range(DOCUMENTS):
                await tasks.add(HEAD.format(f"waits-{number}") + WAIT)
            numbers = iter(range(self._count))

            async def start() -> None:
                for number in numbers:
                    labels = {"group": str(number % 10)}
                    id = await tasks.start(f"bench/waits-{number % DOCUMENTS}", labels=labels)
                    await engine.wait_for(id, status=Status.PAUSED)

            await asyncio.gather(*(start() for _ in range(32)))


def opened(engine: Engine) -> Tasks:
    """Return tasks on an engine, with a function that they can call."""
    return Tasks(engine, functions={"number": _number})


async def _number(_: Mapping[str, Any], __: object) -> int:
    return 1


async def _started(waiting: Waiting) -> Sample:
    """Open tasks, and read a first page."""
    async with waiting.engine() as engine:
        watch = Stopwatch()
        async with opened(engine) as tasks:
            page = await tasks.list()
            sample = watch.sample(1)
        if not page.instances:
            raise RuntimeError("there are no instances")
        return sample


async def _listed(waiting: Waiting) -> Sample:
    """Ask for pages, by one filter after the other."""
    async with waiting.engine() as engine, opened(engine) as tasks:
        transport = httpx.ASGITransport(app(tasks, tokens=["token"]))
        headers = {"Authorization": "Bearer token"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://tasks", headers=headers
        ) as client:
            watch = Stopwatch()
            for number in range(PAGES):
                reply = await client.get(f"/instances?{QUERIES[number % len(QUERIES)]}")
                if not reply.json()["instances"]:
                    raise RuntimeError("a page is empty")
            return watch.sample(PAGES)


async def _stepped(waiting: Waiting, count: int) -> Sample:
    """Run so many instances, some at once, to their results."""
    async with waiting.engine() as engine, opened(engine) as tasks:
        numbers = iter(range(count))

        async def work() -> None:
            for _ in numbers:
                if await tasks.result(await tasks.start("bench/steps")) != 1:
                    raise RuntimeError("the result is wrong")

        await tasks.result(await tasks.start("bench/steps"))
        watch = Stopwatch()
        await asyncio.gather(*(work() for _ in range(TASKS)))
        return watch.sample(count * STEPS)
