"""What happens to instances, as lifecycle events."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Raw

from flowstate import InvalidInputError, State
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.http import STRUCTURED, received
from flowstate.engines.events.publishing import publish
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.running.forwarding import forwarder, posting
from flowstate.engines.tasks.running.lifecycle import Trails, lifecycle_event, phase_of
from tests.engines.kernel.running import stands
from tests.engines.tasks.calls.serving import served
from tests.engines.tasks.running.driving import Running, running

LISTEN = """
do:
  - hear:
      listen:
        to: {one: {with: {type: a}, correlate: {order: {from: .data.order}}}}
  - end: {set: {done: true}}
"""
BROKEN = "do: [{fail: {raise: {error: {type: 'https://x/y', status: 418, title: tea}}}}]"
WAITING = "do: [{pause: {wait: {hours: 1}}}]"


@pytest.fixture
async def tasks() -> AsyncIterator[Running]:
    async with running() as made:
        yield made


async def events_of(tasks: Running, id: str = "i") -> list[CloudEvent]:
    trails, found = Trails(), []
    async for state in tasks.kernel.engine.history(id):
        for number, happened in trails.read(state):
            event = lifecycle_event(state, number, happened)
            found += [] if event is None else [event]
    return found


def kinds(events: list[CloudEvent]) -> list[str]:
    """Return the types without what they have in common, and the tasks."""
    names = [
        each.type.removeprefix("io.serverlessworkflow.").removesuffix(".v1") for each in events
    ]
    tasks = [str((each.data or {}).get("task", "")).rpartition("/")[2] for each in events]
    return [f"{name} {task}".strip() for name, task in zip(names, tasks, strict=True)]


async def test_one_that_listens_and_completes(tasks: Running) -> None:
    await tasks.start(LISTEN)
    await stands(tasks.kernel, "i", "/do/0/hear")
    await publish(tasks.kernel.engine, CloudEvent("1", "/x", "a", data={"order": 7}))
    await tasks.kernel.result("i")
    events = await events_of(tasks)

    assert kinds(events) == [
        "workflow.started",
        "task.created hear",
        "task.started hear",
        "workflow.correlation-started",
        "workflow.correlation-completed",
        "task.completed hear",
        "task.created end",
        "task.started end",
        "task.completed end",
        "workflow.completed",
    ]
    times = {each.time.isoformat().replace("+00:00", "Z") for each in events if each.time}
    [at] = times
    assert [each.id for each in events] == [
        f"i/{number}/{each.type.split('.')[3]}" for number, each in enumerate(events)
    ]
    assert {each.source for each in events} == {"/test/test/i"}
    assert {each.subject for each in events} == {"i"}
    assert events[0].data == {
        "name": "test-i.test",
        "definition": {"namespace": "test", "name": "test", "version": "1.0.0"},
        "startedAt": at,
    }
    assert events[2].data == {"workflow": "test-i.test", "task": "/do/0/hear", "startedAt": at}
    assert events[3].data == {"name": "test-i.test", "startedAt": at}
    assert events[4].data["completedAt"] == at
    assert events[4].data["correlationKeys"] == {"order": 7}
    assert events[-1].data == {"name": "test-i.test", "completedAt": at, "output": {"done": True}}


async def test_one_that_fails(tasks: Running) -> None:
    await tasks.fails(BROKEN)
    events = await events_of(tasks)

    assert kinds(events)[-2:] == ["task.faulted fail", "workflow.faulted"]
    for each in events[-2:]:
        error = each.data["error"]
        assert (error["status"], error["title"], error["instance"]) == (418, "tea", "/do/0/fail")


async def test_one_that_is_paused_resumed_and_cancelled(tasks: Running) -> None:
    kernel = tasks.kernel
    await tasks.start(WAITING)
    await stands(kernel, "i", "/do/0/pause")
    for word in (kernel.pause, kernel.pause, kernel.resume, kernel.cancel):
        await word("i")
        await kernel.engine.idle()
    await kernel.engine.wait_for("i", until=lambda state: "outcome" in state.labels)

    assert kinds(await events_of(tasks))[3:] == [
        "workflow.suspended",
        "task.suspended pause",
        "workflow.resumed",
        "task.resumed pause",
        "task.cancelled pause",
        "workflow.cancelled",
    ]


async def test_one_that_is_ended_at_once(tasks: Running) -> None:
    await tasks.start(WAITING)
    await stands(tasks.kernel, "i", "/do/0/pause")
    await tasks.kernel.cancel("i", hard=True)
    await tasks.kernel.engine.idle()

    assert kinds(await events_of(tasks))[3:] == ["workflow.cancelled"]


async def test_phases(tasks: Running) -> None:
    kernel, seen = tasks.kernel, dict[str, list[str]]()
    await tasks.start(WAITING, id="waiting")
    await stands(kernel, "waiting", "/do/0/pause")
    await kernel.pause("waiting")
    await kernel.engine.idle()
    await kernel.resume("waiting")
    await kernel.engine.idle()
    await kernel.cancel("waiting")
    await tasks.run("do: [{a: {set: {a: 1}}}, {b: {wait: {seconds: 1}}}]", id="done")
    await tasks.fails(BROKEN, id="failed")
    await kernel.engine.idle()
    for id in ("waiting", "done", "failed"):
        async for state in kernel.engine.history(id):
            phases, phase = seen.setdefault(id, []), phase_of(state)
            phases += [] if phases[-1:] == [phase] else [phase]

    assert seen["done"] == ["pending", "waiting", "running", "completed"]
    assert seen["failed"][-1] == "faulted"
    assert [each for each in seen["waiting"] if each != "running"] == [
        "pending",
        "waiting",
        "suspended",
        "waiting",
        "cancelled",
    ]


async def test_a_forwarder_goes_on_where_it_was_and_tries_again(tasks: Running) -> None:
    got: list[CloudEvent] = []
    failures = iter([True, False, False, True])

    async def deliver(event: CloudEvent) -> None:
        if next(failures, False):
            raise ConnectionError
        got.append(event)

    @contextlib.asynccontextmanager
    async def forwarding() -> AsyncIterator[None]:
        consumer: Any = forwarder(tasks.kernel.engine, deliver, since="start", emitted=True)
        async with consumer:
            yield

    text = "do: [{tell: {emit: {event: {with: {type: told}}}}}]"
    async with forwarding():
        await tasks.run(text)
        await until(tasks, got, 6)
    async with forwarding():
        await tasks.run(text, id="j")
        await until(tasks, got, 12)

    whole = [each.type for each in got if ".workflow." in each.type or each.type == "told"]
    one = ["io.serverlessworkflow.workflow.started.v1", "told"]
    one += ["io.serverlessworkflow.workflow.completed.v1"]
    assert whole == [*one, *one]
    assert len({(each.source, each.id) for each in got}) == len(got) == 12


async def test_events_are_posted_to_a_server(tasks: Running) -> None:
    answers = iter([503, 400, 204, 408, 302])
    posted: list[CloudEvent] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        [event] = received({"content-type": STRUCTURED}, (await receive())["body"])
        posted.append(event)
        status = next(answers, 202)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with served(app) as url, Outgoing(private=["127.0.0.1"]) as outgoing:
        deliver = posting(outgoing, f"{url}/in")
        async with forwarder(tasks.kernel.engine, deliver, since="start"):
            await tasks.run("do: []")
            await tasks.run("do: []", id="j")
            await until(tasks, posted, 7)

    assert kinds(posted) == [
        "workflow.started",  # Not taken: tried again.
        "workflow.started",  # Refused: left out.
        "workflow.completed",
        *["workflow.started"] * 3,
        "workflow.completed",
    ]


async def until(tasks: Running, got: list[CloudEvent], count: int) -> None:
    for _ in range(10_000):
        if len(got) >= count:
            return
        await tasks.kernel.engine.clock.sleep(0.1)
    raise AssertionError(kinds(got))


async def test_labels_of_an_instance_do_not_make_it_an_event(tasks: Running) -> None:
    got: list[CloudEvent] = []

    async def deliver(event: CloudEvent) -> None:
        got.append(event)

    consumer: Any = forwarder(tasks.kernel.engine, deliver, since="start", emitted=True)
    async with consumer:
        await tasks.start("do: [{a: {set: {a: 1}}}]", id="first")
        data = TaskData("test/test:1.0.0", None, tasks.kernel.engine.clock.now())
        labels = {"event": "CloudEvent", "emitted": "x"}
        await tasks.kernel.start(tasks.code, "labelled", data, labels=labels)
        await until(tasks, got, 10)

    assert {each.subject for each in got} == {"first", "labelled"}


@pytest.mark.parametrize("label", ["event.x", "awaits.x", "outcome"])
async def test_labels_of_the_engine_are_refused(tasks: Running, label: str) -> None:
    data = TaskData("test/test:1.0.0", None, tasks.kernel.engine.clock.now())
    with pytest.raises(InvalidInputError, match="which the engine sets"):
        await tasks.kernel.start(tasks.code, "i", data, labels={label: "done"})


async def test_what_newer_code_has_stored_stops_no_reader() -> None:
    values = {"data": Raw(b'{"definition": 7}'), "notes": Raw(b'{"paused": 7}')}
    trails, labels = Trails(), {"workflow": "tasks"}
    for more in ({}, {"outcome": "done"}):
        state = State("i", values=values, labels={**labels, **more})
        assert trails.read(state) == []
        assert phase_of(state) in ("pending", "completed")
