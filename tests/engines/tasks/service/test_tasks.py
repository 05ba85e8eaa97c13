"""The client: instances are started once, listed by pages, shown and repaired."""

import asyncio
from datetime import timedelta

import pytest

from flowstate import FakeClock, InvalidCommandError, StateNotFoundError, Status
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.service.instances import Wanted
from flowstate.engines.tasks.service.tasks import Tasks
from tests.engines.tasks.service.running import SET, document, tasks_on

SLEEP = "- sleep: {wait: {hours: 1}}"
PAID = "- pay: {listen: {to: {one: {with: {type: paid}}}}}"
FAIL = "- fail: {raise: {error: {type: https://a.example/empty, status: 422, title: Empty}}}"


async def waits(tasks: Tasks, id: str) -> None:
    await tasks.engine.wait_for(id, status=Status.PAUSED)


async def test_an_instance_runs_to_its_output() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document("- set: {set: '${ {twice: (.n * 2)} }'}"))
        id = await tasks.start("demo/order", {"n": 4}, labels={"team": "a"})

        assert await tasks.result(id) == {"twice": 8}
        details = await tasks.get(id)
        assert (details.phase, details.output, details.error) == ("completed", {"twice": 8}, None)
        assert (details.input, details.labels) == ({"n": 4}, {"team": "a"})


async def test_one_key_starts_one_instance_whoever_asks() -> None:
    driver = MemoryDriver()
    async with tasks_on(driver) as one, tasks_on(driver) as other:
        await one.add(document())
        starts = (each.start("demo/order", {"n": 1}, key="k") for each in (one, other) * 10)
        ids = set(await asyncio.gather(*starts))

        assert len(ids) == 1
        await one.result(*ids)
        await one.add(document(version="1.1.0"))  # A new version does not start it again.
        assert {await one.start("demo/order", {"n": 1}, key="k")} == ids
        with pytest.raises(InvalidCommandError, match="with another input"):
            await one.start("demo/order", {"n": 2}, key="k")
        await one.add(document(name="other"))
        assert await one.start("demo/other", {"n": 1}, key="k") not in ids


async def test_an_error_of_a_task_is_the_error_of_the_result() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document(FAIL))
        id = await tasks.start("demo/order")

        with pytest.raises(TaskError, match="Empty") as caught:
            await tasks.result(id)
        assert caught.value.status == 422
        details = await tasks.get(id)
        assert details.phase == "faulted"
        assert details.error is not None
        assert details.error["instance"] == "/do/0/fail"


async def test_what_waits_says_why_and_until_when() -> None:
    clock = FakeClock()
    async with tasks_on(clock=clock) as tasks:
        await tasks.add(document(SLEEP))
        id = await tasks.start("demo/order")
        await waits(tasks, id)
        details = await tasks.get(id)

        assert (details.phase, details.task) == ("waiting", "/do/0/sleep")
        assert details.next_at is not None
        assert details.next_at - clock.now() == timedelta(hours=1)
        assert details.stands[0].waits_for == "a time"


async def test_an_event_is_given_to_those_that_listen() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document(f"{PAID}\n{SET}"))
        id = await tasks.start("demo/order")
        await waits(tasks, id)
        event = CloudEvent("1", "bank", "paid", data={"cents": 5})

        assert await tasks.publish(event)
        assert not await tasks.publish(event)
        assert await tasks.result(id, timeout=5.0) == {"done": True}


async def test_what_is_paused_goes_on_when_it_is_resumed() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document(f"{PAID}\n{SET}"))
        id = await tasks.start("demo/order")
        await waits(tasks, id)
        await tasks.pause(id)
        await tasks.engine.wait_for(id, until=lambda state: b'"paused":true' in notes(state))
        assert (await tasks.summary(id)).phase == "suspended"
        await tasks.publish(CloudEvent("1", "bank", "paid"))
        await tasks.resume(id)

        assert await tasks.result(id, timeout=5.0) == {"done": True}


def notes(state: object) -> bytes:
    return bytes(state.values.get("notes", b""))  # type: ignore[attr-defined]


async def test_what_is_cancelled_has_no_result() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document(SLEEP))
        id = await tasks.start("demo/order")
        await waits(tasks, id)
        await tasks.cancel(id)

        with pytest.raises(InstanceCancelledError):
            await tasks.result(id, timeout=5.0)
        assert (await tasks.summary(id)).phase == "cancelled"


async def test_what_has_failed_is_tried_again() -> None:
    answers = iter([TaskError.of("communication", "down"), {"ok": True}])

    async def ask(_: object, __: object) -> object:
        answer = next(answers)
        if isinstance(answer, TaskError):
            raise answer
        return answer

    async with tasks_on(functions={"ask": ask}) as tasks:
        await tasks.add(document("- ask: {call: ask}"))
        id = await tasks.start("demo/order")
        with pytest.raises(TaskError, match="down"):
            await tasks.result(id)
        await tasks.engine.wait_for(id, status=Status.ENDED)
        await tasks.retry(id, by="anna")

        assert await tasks.result(id, timeout=5.0) == {"ok": True}


async def test_history_has_each_thing_once() -> None:
    clock = FakeClock()
    async with tasks_on(clock=clock) as tasks:
        await tasks.add(document(f"{SLEEP}\n{SET}"))
        id = await tasks.start("demo/order")
        await waits(tasks, id)
        clock.advance(3600.0)
        await tasks.result(id)
        moments = (await tasks.history(id)).moments
        numbers = [each.number + i for each in moments for i in range(len(each.happened))]

        assert numbers == [*range(len(numbers))]
        happened = [(each.task, each.what) for moment in moments for each in moment.happened]
        assert [each for each in happened if each[1] == "completed"] == [
            ("/do/0/sleep", "completed"),
            ("/do/1/set", "completed"),
            ("", "completed"),
        ]
        first = await tasks.history(id, limit=2)
        rest = await tasks.history(id, after=first.next)
        assert [each.rev for each in (*first.moments, *rest.moments)] == [
            each.rev for each in moments
        ]


async def test_a_list_has_pages_and_filters() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document(SLEEP))
        await tasks.add(document(name="fast"))
        ids = [await tasks.start("demo/order", labels={"n": str(i % 2)}) for i in range(7)]
        await asyncio.gather(*(waits(tasks, id) for id in ids))
        done = await tasks.start("demo/fast")
        await tasks.result(done)
        await tasks.engine.wait_for(done, status=Status.ENDED)

        pages, after = [], 0
        while True:
            page = await tasks.list(Wanted(definition="demo/order", limit=3, after=after))
            pages.append([each.id for each in page.instances])
            after = page.next
            if not after:
                break
        assert [len(each) for each in pages] == [3, 3, 1]
        assert {id for page in pages for id in page} == {*ids}

        async def found(**wanted: object) -> int:
            return len((await tasks.list(Wanted(**wanted))).instances)  # type: ignore[arg-type]

        assert await found() == 8
        assert await found(phase="waiting") == await found(task="/do/0/sleep") == 7
        assert await found(phase="completed") == await found(definition="demo/fast") == 1
        assert await found(phase="faulted") == await found(phase="suspended") == 0
        assert await found(labels={"n": "1"}, version="1.0.0") == 3
        assert await found(version="2.0.0") == 0
        now = tasks.engine.clock.now()
        assert await found(before=now - timedelta(hours=1)) == 0
        assert await found(since=now - timedelta(hours=1)) == 8


async def test_what_is_no_instance_is_not_found() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document())
        for call in (tasks.get, tasks.cancel, tasks.pause, tasks.resume, tasks.retry):
            for id in ("nothing", "tasks.document.demo/order:1.0.0"):
                with pytest.raises(StateNotFoundError):
                    await call(id)
