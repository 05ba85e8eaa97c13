"""Tasks that emit and hear events, on each of the four stores, in real time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from flowstate import Delayer, Engine, FlowRegistry, SystemClock
from flowstate.driver import Driver
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.tasks.running.code import TaskCode
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.runtime import Runtime
from tests.engines.stores import STORES, driver_of
from tests.engines.tasks.in_memory import InMemoryDocuments
from tests.engines.tasks.running.driving import InProcess, document

SECONDS = 30.0
ASKS = """
do:
  - ask: {emit: {event: {with: {type: ask, subject: "${ $workflow.id }"}}}, output: {as: .subject}}
  - hear:
      listen:
        to:
          all:
            - with: {type: told, subject: "${ . }"}
            - with: {type: paid}
              correlate: {id: {from: .data.id, expect: "${ . }"}}
"""
ANSWERS = """
do:
  - hear:
      listen: {to: {any: [{with: {type: ask}}], until: "${ false }"}, read: envelope}
      foreach:
        do:
          - tell:
              emit:
                event:
                  with: {type: told, subject: "${ $item.subject }", data: "${ $item.id }"}
"""


@pytest.fixture(params=STORES)
def driver(request: pytest.FixtureRequest) -> Driver:
    return driver_of(request.param, request)


@contextlib.asynccontextmanager
async def process_on(driver: Driver) -> AsyncIterator[tuple[Kernel, Any]]:
    engine = Engine(driver, FlowRegistry(), clock=SystemClock(), shutdown_timeout=1.0)
    expressions: Any = InProcess()
    documents = InMemoryDocuments([document(ASKS, name="asks"), document(ANSWERS, name="answers")])
    code: Any = TaskCode(Runtime(engine, documents, expressions, rng=Random(0)))
    async with engine, Delayer(engine), Kernel(engine, [code]) as kernel:
        yield kernel, code


@pytest.mark.parametrize(
    "count", [25, pytest.param(1_000, marks=[pytest.mark.nightly, pytest.mark.timeout(1_200)])]
)
async def test_no_answer_is_missed_or_heard_by_another(driver: Driver, count: int) -> None:
    """Answers may come before a task listens; one process asks, and two answer."""

    async def start(kernel: Kernel, code: Any, name: str, id: str) -> None:
        now = kernel.engine.clock.now()
        await kernel.start(code, id, TaskData(f"test/{name}:1.0.0", {}, now), {})

    async def ask(n: int) -> None:
        rng, id = Random(n), f"asks {n}"
        async with room:
            kernel, code = rng.choice(processes)
            pay = publish(kernel.engine, CloudEvent(id, "/x", "paid", data={"id": id, "n": n}))
            await start(kernel, code, "asks", id)
            await asyncio.sleep(rng.choice([0, 0.001, 0.01]))
            await pay
            found = await rng.choice(processes)[0].result(id, timeout=SECONDS)
            assert {"id": id, "n": n} in found
            [told] = [each for each in found if isinstance(each, str)]
            assert told.startswith(f"{id}/")

    room = asyncio.Semaphore(5)
    async with process_on(driver) as one, process_on(driver) as other:
        processes = [one, other]
        for n in (1, 2):
            await start(*one, "answers", f"answers {n}")
        await asyncio.gather(*(ask(n) for n in range(count)))
