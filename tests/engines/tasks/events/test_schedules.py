"""Documents whose instances start by themselves."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from random import Random
from typing import Any

import attrs
import pytest

from flowstate import Delayer, Engine, FakeClock, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.events.starting import Plan, Starters
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.tasks.running.code import TaskCode
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.running.scheduling import plan_of, starting
from flowstate.engines.tasks.runtime import Runtime
from tests.engines.tasks.in_memory import InMemoryDocuments
from tests.engines.tasks.running.driving import InProcess, document

DO = "\ndo: [{tell: {set: {got: '${ . }'}}}]"


@attrs.define
class Scheduled:
    """A store with documents and their starters."""

    kernel: Kernel
    runtime: Runtime
    starters: Starters
    clock: FakeClock

    async def add(self, text: str, version: str = "1.0.0") -> None:
        made = document(text, version=version)
        documents: Any = self.runtime.documents
        documents.add(made)
        plan = await plan_of(made, self.runtime)
        assert plan is not None
        order = int(version.partition(".")[0])
        await self.starters.set("test.test", made.key, plan, order=order)

    async def send(self, id: str, kind: str = "a", **data: Any) -> None:
        await publish(self.kernel.engine, CloudEvent(id, "/x", kind, data=data))

    async def all(self) -> list[tuple[str, TaskData]]:
        states = self.kernel.engine.states(labels={"workflow": "tasks"}, latest_only=True)
        return [(each.id, each.get(TaskData, "data")) async for each in states]


@contextlib.asynccontextmanager
async def scheduled() -> AsyncIterator[Scheduled]:
    clock = FakeClock()
    async with Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine:
        expressions: Any = InProcess()
        runtime = Runtime(engine, InMemoryDocuments(), expressions, rng=Random(0))
        code: Any = TaskCode(runtime)
        starter = starting(runtime, code)
        async with Delayer(engine), Kernel(engine, [code, starter]) as kernel:
            yield Scheduled(kernel, runtime, Starters(kernel, starter), clock)


@pytest.mark.parametrize(
    ("schedule", "seconds"),
    [
        ("every: PT1M", [60, 120, 180]),
        ("every: {seconds: 90}", [90, 180]),
        ("cron: '*/2 * * * *'", [120]),
        ("after: {minutes: 1}", [0, 60, 120, 180]),
    ],
)
async def test_by_time(schedule: str, seconds: list[int]) -> None:
    async with scheduled() as tasks:
        began = tasks.clock.now()
        await tasks.add(f"schedule: {{{schedule}}}{DO}")
        await tasks.clock.sleep(185)
        found = await tasks.all()

        assert [round((data.started_at - began).total_seconds()) for _, data in found] == seconds
        assert {str(data.input) for _, data in found} == {"{}"}
        for id, _ in found:
            assert await tasks.kernel.result(id) == {"got": {}}


async def test_by_events_which_are_the_input() -> None:
    on = "{all: [{with: {type: a, data: '${ .n > 0 }'}}, {with: {type: '[bc]'}}]}"
    async with scheduled() as tasks:
        await tasks.add(f"schedule: {{'on': {on}}}{DO}")
        await tasks.send("0", n=0)
        await tasks.send("1", n=1)
        await tasks.send("2", "c")
        await tasks.clock.sleep(1)
        [(id, data)] = await tasks.all()

        assert [each["id"] for each in data.input] == ["1", "2"]
        assert data.input[0]["data"] == {"n": 1}
        assert await tasks.kernel.result(id) == {"got": data.input}


async def test_what_follows_on_the_event_that_has_started_it_is_heard() -> None:
    """The second event may be there before the instance is."""
    text = """
    schedule: {"on": {one: {with: {type: order}}}}
    do:
      - hear:
          listen:
            to:
              one:
                with: {type: paid, data: {order: "${ .[0].data.order }"}}
    """
    async with scheduled() as tasks:
        await tasks.add(text)
        await tasks.send("early", "paid", order=1)
        for n in (1, 2):
            await tasks.send(f"o{n}", "order", order=n)
            await tasks.send(f"p{n}", "paid", order=n, late=n)
        await tasks.clock.sleep(1)

        results = [await tasks.kernel.result(id) for id, _ in await tasks.all()]
        assert sorted(each[0]["late"] for each in results) == [1, 2]


async def test_the_newest_version_takes_over() -> None:
    async with scheduled() as tasks:
        text = f"schedule: {{'on': {{one: {{with: {{type: a}}}}}}}}{DO}"
        await tasks.add(text)
        await tasks.send("1")
        await tasks.clock.sleep(1)
        await tasks.add(text, "2.0.0")
        await tasks.send("2")
        await tasks.clock.sleep(1)
        await tasks.starters.end("test.test")
        await tasks.clock.sleep(1)
        await tasks.send("3")
        await tasks.clock.sleep(1)

        found: Mapping[str, str] = {
            data.input[0]["id"]: data.definition for _, data in await tasks.all()
        }
        assert found == {"1": "test/test:1.0.0", "2": "test/test:2.0.0"}


async def test_a_document_without_a_schedule() -> None:
    async with scheduled() as tasks:
        assert await plan_of(document("do: []"), tasks.runtime) is None
        every = await plan_of(document("schedule: {every: PT1S}\ndo: []"), tasks.runtime)
        assert every == Plan(every=1.0)
