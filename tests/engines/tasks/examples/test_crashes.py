"""Wherever processes die, an example comes out alike, and asks each service for each thing once."""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import pytest

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call
from tests.engines.tasks.examples.driving import EXAMPLES, event
from tests.engines.tasks.exploring import Process, explore_documents


@attrs.define
class World:
    """Services that know a repeated request by its key, as those that are called should."""

    answers: dict[str, Any] = attrs.field(factory=dict)

    async def http(self, arguments: Mapping[str, Any], call: Call) -> Any:
        endpoint = arguments["endpoint"]
        uri = endpoint if isinstance(endpoint, str) else endpoint["uri"]
        asked = f"{arguments['method']} {uri}"
        if call.key not in self.answers:
            self.answers[call.key] = {"asked": asked, **self.answer(asked, arguments.get("body"))}
        answer: dict[str, Any] = self.answers[call.key]
        if "refused" in answer:
            raise TaskError.of("communication", status=answer["refused"])
        return answer

    def answer(self, asked: str, body: Any) -> dict[str, Any]:
        if asked == "post https://travel.example/car":
            return {"refused": 409}
        if asked.startswith("get https://jobs"):
            looks = [each for each in self.answers.values() if each["asked"] == asked]
            return {"status": "done", "result": 5} if len(looks) == 2 else {"status": "running"}
        return {"id": asked.rpartition("/")[2], "url": f"/{body and body.get('name')}"}


Case = tuple[Any, Sequence[CloudEvent]]
CASES: dict[str, Case] = {
    "order-with-payment": (
        {"id": "o-7", "cents": 500},
        [event("bank.payment.settled", "another"), event("bank.payment.settled", "o-7")],
    ),
    "document-approval": ({"document": "d", "approvers": ["a", "b"]}, []),
    "poll-slow-api": ({"text": "x"}, []),
    "provisioning": (
        [{"data": {"account": "a-1"}}],
        [
            event("licence.waived", "a-1"),
            event("network.ready", "a-1", network="n"),
            event("disk.ready", "a-1", disk="d"),
        ],
    ),
    "trip-saga": ({"traveller": "anna"}, []),
    "fan-out": ({"names": ["a", "b", "c", "d"]}, []),
}


@pytest.mark.slow
@pytest.mark.parametrize("most", [8, pytest.param(300, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", CASES)
def test_an_example_comes_out_alike_wherever_processes_die(name: str, most: int) -> None:
    given, events = CASES[name]

    async def client(kernel: Kernel, _: Process) -> None:
        for each in events:
            await publish(kernel.engine, each)

    explore_documents(
        (EXAMPLES / f"{name}.yaml").read_text(),
        given,
        client,
        functions=lambda world: {"http": world.http},
        make_world=World,
        outside=lambda world: sorted(str(each) for each in world.answers.items()),
        most=most,
    )
