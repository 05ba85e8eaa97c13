"""Scenarios: a document, what it is given, and what comes out; in ``scenarios/*.yaml``.

A scenario has the parts of a document, and: ``given`` (the input), ``gives`` (the output) or
``raises`` (fields of the error, and its ``kind``), ``acts`` (what ``act`` was called with),
``events`` (that are published), ``others`` (documents that it runs), ``unchecked`` (it is not
checked when it is loaded), ``long`` (it takes longer than a test can by a real clock),
``explored`` (its processes die everywhere in each run of the tests, not only at night), ``counts``
(it counts calls, and a crash makes more of them: it is not explored), ``trail``
(what happens to which task, in order), ``secrets`` (by name; no state has one of them).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import yaml

from flowstate import Engine
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call, Function

__all__ = ["Scenario", "Service", "publish_all", "scenarios"]

OWN = (
    "name",
    "given",
    "gives",
    "raises",
    "acts",
    "events",
    "others",
    "unchecked",
    "long",
    "explored",
    "counts",
    "trail",
    "secrets",
)
HEAD = {"dsl": "1.0.3", "namespace": "test", "version": "1.0.0"}


@attrs.frozen
class Scenario:
    """One of them; see above."""

    name: str
    content: Mapping[str, Any]
    given: Any = None
    gives: Any = None
    raises: Mapping[str, Any] | None = None
    acts: Sequence[Any] | None = None
    events: Sequence[Mapping[str, Any]] = ()
    others: Sequence[Mapping[str, Any]] = ()
    unchecked: bool = False
    long: bool = False
    explored: bool = False
    counts: bool = False
    trail: Sequence[str] | None = None
    secrets: Mapping[str, str] | None = None
    number: int = 0

    @property
    def texts(self) -> list[str]:
        """The document and the others, as texts."""
        head = {**HEAD, "name": f"s{self.number}"}
        contents = [{"document": head, **self.content}, *self.others]
        return [yaml.safe_dump(each, sort_keys=False) for each in contents]

    def check(self, outcome: Any) -> None:
        """Refuse an outcome that is another one than it should be."""
        if self.raises is None:
            assert outcome == self.gives
        else:
            assert isinstance(outcome, TaskError), outcome
            problem = {**outcome.to_json(), "kind": outcome.type.rpartition("/")[2]}
            problem.setdefault("instance", "")
            assert {key: problem.get(key) for key in self.raises} == self.raises


def scenarios() -> list[Scenario]:
    """Return all scenarios."""
    found = list[Scenario]()
    for path in sorted((Path(__file__).parent / "scenarios").glob("*.yaml")):
        for each in yaml.safe_load(path.read_text()):
            content = {key: value for key, value in each.items() if key not in OWN}
            own = {key: value for key, value in each.items() if key in OWN}
            own["name"] = f"{path.stem}: {each['name']}"
            found.append(Scenario(content=content, number=len(found), **own))
    return found


@attrs.define
class Service:
    """Acts once for each key; outlives the processes."""

    acts: dict[str, Any] = attrs.Factory(dict)
    failures: dict[str, int] = attrs.Factory(dict)

    async def act(self, arguments: Mapping[str, Any], call: Call) -> Any:
        self.acts.setdefault(call.key, dict(arguments))
        return {"did": arguments}

    async def fail(self, arguments: Mapping[str, Any], call: Call) -> Any:
        failed = self.failures.get(call.key, 0)
        if failed < arguments.get("times", 1_000):
            self.failures[call.key] = failed + 1
            raise TaskError.of("communication", f"failure {failed + 1}", status=503)
        return await self.act(arguments, call)

    async def sleep(self, arguments: Mapping[str, Any], call: Call) -> Any:
        await call.runtime.engine.clock.sleep(arguments["seconds"])
        return arguments["seconds"]

    async def echo(self, arguments: Mapping[str, Any], _: Call) -> Any:
        return dict(arguments)

    @property
    def functions(self) -> dict[str, Function]:
        """What documents can call."""
        return {"act": self.act, "fail": self.fail, "sleep": self.sleep, "echo": self.echo}


async def publish_all(engine: Engine, scenario: Scenario, id: str = "i") -> None:
    """Publish the events of a scenario."""
    for number, each in enumerate(scenario.events):
        event = {"id": f"{id} {number}", "source": "s", "specversion": "1.0", **each}
        await publish(engine, CloudEvent.from_json(event))
