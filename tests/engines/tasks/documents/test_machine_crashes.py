"""Machines come to the same end, whenever processes die."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call, Function
from tests.engines.tasks.documents.loads import loaded
from tests.engines.tasks.documents.test_machines import CAUGHT, COMPOSED, GUARDS, HEAD, POLL
from tests.engines.tasks.exploring import Process, explore_documents

ROUND = """
start: one
final: [end]
states:
  one:
    do:
      - count: {set: {n: "${ .n + 1 }"}}
      - ask: {function: {name: ask, with: {n: "${ .n }"}}, as: answer}
    transitions:
      - {to: end, if: .n >= 2}
      - {to: one, when: {event: {with: {type: a}}}}
      - {to: one, when: {wait: PT10S}}
  end: {}
"""
MACHINES = {
    "guards": (GUARDS, {"n": 7}),
    "poll": (POLL.replace("IGNORE", "ignore: {status: 404}"), {"id": 7, "want": "done"}),
    "composed": (COMPOSED, None),
    "caught": (CAUGHT, {"id": 7}),
    "round": (ROUND, {"n": 0}),
}


def functions(world: dict[str, Any]) -> Mapping[str, Function]:
    """Return ``ask``, which answers by how many different questions there were before."""

    async def ask(arguments: Mapping[str, Any], call: Call) -> Any:
        asked = world.setdefault("asked", [])
        if call.key not in asked:
            asked.append(call.key)
        nth = asked.index(call.key)
        if nth == 0:
            raise TaskError.of("communication", "gone", status=404)
        if nth == 1:
            raise TaskError.of("runtime", "poor", status=402)
        return {"status": "done"}

    return {"ask": ask}


async def tell(kernel: Kernel, _: Process) -> None:
    for kind in "acb":
        await publish(kernel.engine, CloudEvent(kind, "/test", kind, data=kind.upper()))


def explore(text: str, given: Any, most: int) -> None:
    whole = text if text.startswith("kind:") else HEAD + text
    content = asyncio.run(loaded(whole, functions=functions({}))).content
    explore_documents(yaml.safe_dump(content), given, tell, functions=functions, most=most)


@pytest.mark.slow
@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_survives_crashes(name: str) -> None:
    explore(*MACHINES[name], most=10)


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_survives_many_crashes(name: str) -> None:
    explore(*MACHINES[name], most=150)
