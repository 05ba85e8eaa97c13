"""What starts by itself: the newest version of a document, as long as there is one."""

import asyncio

import msgspec
import pytest

from flowstate import FakeClock, InvalidInputError, Status
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.starting import Plan, starter_id
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.service.instances import Summary, Wanted
from flowstate.engines.tasks.service.tasks import Tasks
from tests.engines.tasks.service.running import SET, document, tasks_on

ON_ORDER = "schedule: {on: {one: {with: {type: ordered}}}}\n"
HOURLY = "schedule: {every: {hours: 1}}\n"


def scheduled(schedule: str, *, version: str = "1.0.0") -> str:
    head, do = document(SET, version=version).split("\n", 1)
    return f"{head}\n{schedule}{do}"


async def found(tasks: Tasks, count: int) -> list[Summary]:
    """Return the instances, as soon as there are so many."""
    async with asyncio.timeout(10):
        while True:
            page = await tasks.list(Wanted(definition="demo/order"))
            if len(page.instances) >= count:
                return [*page.instances]
            await asyncio.sleep(0)  # They start in the background.


async def ordered(tasks: Tasks, id: str) -> None:
    await tasks.publish(CloudEvent(id, "shop", "ordered"))


async def test_an_event_starts_the_newest_version_once() -> None:
    clock = FakeClock()
    async with tasks_on(clock=clock) as tasks:
        await tasks.add(scheduled(ON_ORDER))
        await ordered(tasks, "1")
        await ordered(tasks, "1")
        assert [each.version for each in await found(tasks, 1)] == ["1.0.0"]
        await tasks.add(scheduled(ON_ORDER, version="1.1.0"))
        await tasks.add(scheduled(ON_ORDER, version="1.0.5"))  # Not the newest.
        await ordered(tasks, "2")

        assert sorted(each.version for each in await found(tasks, 2)) == ["1.0.0", "1.1.0"]


async def test_times_start_the_newest_version_of_all_processes() -> None:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with tasks_on(driver, clock=clock) as one, tasks_on(driver, clock=clock) as other:
        await one.add(scheduled(HOURLY))
        await other.add(scheduled(HOURLY))  # As each process does that serves the same folder.
        clock.advance(3 * 3600.0 + 1.0)
        await found(one, 1)
        clock.advance(3600.0)
        started = await found(other, 2)

        assert len({each.id for each in started}) == len(started)


async def test_what_a_crash_has_left_half_done_is_done_when_it_is_added_again() -> None:
    async with tasks_on() as tasks:
        await tasks.definitions.add(scheduled(ON_ORDER))  # As far as a process came that has died.
        await tasks.add(scheduled(ON_ORDER))
        await ordered(tasks, "1")

        assert len(await found(tasks, 1)) == 1


async def test_without_a_schedule_or_a_document_nothing_starts_any_more() -> None:
    for_good = []
    async with tasks_on() as tasks:
        await tasks.add(scheduled(ON_ORDER))
        await ordered(tasks, "1")
        for each in await found(tasks, 1):
            await tasks.result(each.id)
        await tasks.add(document(version="1.1.0"))
        for_good.append(await over(tasks))
        await tasks.remove("demo/order", "1.1.0")  # So 1.0.0 is the newest again.
        await ordered(tasks, "2")
        for each in await found(tasks, 2):
            await tasks.result(each.id)
        await asyncio.gather(*(ended(tasks, each.id) for each in await found(tasks, 2)))
        await tasks.remove("demo/order", "1.0.0")
        for_good.append(await over(tasks))

        assert for_good == ["cancelled", "cancelled"]
        assert len(await found(tasks, 2)) == 2


async def ended(tasks: Tasks, id: str) -> str | None:
    state = await tasks.engine.wait_for(
        id, until=lambda state: state.status == "ended", timeout=10.0
    )
    return state.labels.get("outcome")


async def over(tasks: Tasks) -> str | None:
    return await ended(tasks, starter_id("demo.order"))


async def test_the_deepest_event_that_is_taken_harms_none_that_waits_for_it() -> None:
    async with tasks_on() as tasks:
        await tasks.add(scheduled(ON_ORDER))
        listen = "- hear: {listen: {to: {one: {with: {type: ordered}}}}}"
        await tasks.add(document(listen, name="listener"))
        await tasks.engine.idle()
        id = await tasks.start("demo/listener")
        await tasks.engine.wait_for(id, status=Status.PAUSED)
        data = msgspec.json.decode(b"[" * 500 + b"]" * 500)
        while True:
            try:
                await tasks.publish(CloudEvent("deep", "shop", "ordered", data=data))
            except InvalidInputError:
                data = data[0]
            else:
                break

        assert await tasks.result(id, timeout=10) == [data]
        await ordered(tasks, "next")
        started = await found(tasks, 2)
        for each in started:
            await tasks.result(each.id, timeout=10)


async def test_an_interval_may_be_shorter_than_any_clock_tells() -> None:
    assert Plan(every=1e-9).next(FakeClock().now()) is not None
    async with tasks_on() as tasks:
        with pytest.raises(TaskError, match="longer than nothing"):
            await tasks.add(scheduled("schedule: {every: PT0S}\n"))
