"""Sources are set up before a wait, and torn down after it whatever comes, on each store."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from flowstate import FakeClock, RetryPolicy, SystemClock
from flowstate.engines.kernel.errors import (
    InstanceCancelledError,
    InstanceFailedError,
    StepFailed,
)
from flowstate.engines.workflow.sections import After, Go, On, Sections, Step, Wait
from flowstate.engines.workflow.sources import Source, Subscription
from flowstate.engines.workflow.workflows import Workflows
from tests.engines.sections.bells import Bell, Ringing, rung
from tests.engines.sections.definitions import Data, Note, add, noted
from tests.engines.sections.running import SECONDS, ended, in_memory, opened, stands
from tests.engines.stores import STORES, driver_of

bell = Bell()
code = rung(bell)


@pytest.fixture(params=STORES)
async def workflows(request: pytest.FixtureRequest) -> AsyncIterator[Workflows]:
    bell.__init__()  # type: ignore[misc]
    async with opened(driver_of(request.param, request), SystemClock(), code, both) as workflows:
        yield workflows


async def test_one_message_ends_the_wait_and_all_sources_are_torn_down(
    workflows: Workflows,
) -> None:
    await workflows.start(code, "i", Data())
    await stands(workflows, "i", "wait")
    assert sorted(bell.listening.values()) == ["i dull", "i ring"]

    assert await workflows.update("i", "ring", Note("h"), timeout=SECONDS) == "h"
    assert (await ended(workflows, "i")).log == "shrz"
    assert bell.listening == {}
    assert sorted(bell.did) == ["teardown False", "teardown True"]


async def test_both_are_tried_again(workflows: Workflows) -> None:
    bell.fails = {"setup": 3, "teardown": 3}
    await workflows.send("i", Note("h"), name="ring", early=True)
    await workflows.start(code, "i", Data())

    assert (await ended(workflows, "i")).log == "shrz"
    assert (bell.listening, len(bell.did)) == ({}, 2)


class Late(Ringing):
    """Is set up when it is told to."""

    begun, told = asyncio.Event(), asyncio.Event()

    async def setup(self, data: Data, subscription: Subscription) -> Any:
        self.begun.set()
        await self.told.wait()
        return await super().setup(data, subscription)


both = Sections(
    "both",
    Data,
    Wait("wait", On("ring", Ringing(bell)), On("late", Late(bell))),
    Step("z", add("z")),
)


async def test_a_message_that_comes_while_another_source_is_set_up_leaves_none_behind(
    workflows: Workflows,
) -> None:
    Late.begun, Late.told = asyncio.Event(), asyncio.Event()
    await workflows.start(both, "i", Data())
    await Late.begun.wait()
    await workflows.send("i", Note("h"), name="ring")
    Late.told.set()

    assert (await ended(workflows, "i")).log == "hz"
    assert bell.listening == {}
    assert sorted(bell.did) == ["teardown False", "teardown True"]


async def test_what_was_begun_to_be_set_up_is_torn_down(workflows: Workflows) -> None:
    bell.fails = {"setup": 99}
    await workflows.start(code, "i", Data())
    with pytest.raises(InstanceFailedError) as caught:
        await workflows.result("i", timeout=SECONDS)

    assert isinstance(caught.value.__cause__, StepFailed)
    assert (bell.listening, bell.did) == ({}, ["teardown False"] * 2)


async def test_a_cancel_tears_down(workflows: Workflows) -> None:
    await workflows.start(code, "i", Data())
    await stands(workflows, "i", "wait")
    await workflows.cancel("i")
    with pytest.raises(InstanceCancelledError):
        await workflows.result("i", timeout=SECONDS)

    assert (bell.listening, bell.did) == ({}, ["teardown False"] * 2)


async def test_the_end_of_the_main_thread_tears_down_for_the_others(workflows: Workflows) -> None:
    await workflows.start(code, "i", Data(n=1))
    await stands(workflows, "i", "wait")
    await workflows.send("i", Note("h"), name="ring")

    assert (await ended(workflows, "i")).log == "shrz"
    assert (bell.listening, len(bell.did)) == ({}, 3)


async def test_a_teardown_that_is_given_up_is_where_the_instance_fails(
    workflows: Workflows,
) -> None:
    bell.fails = {"teardown": 99}
    await workflows.send("i", Note("h"), name="ring", early=True)
    await workflows.start(code, "i", Data())
    with pytest.raises(InstanceFailedError, match=r"wait\.teardown"):
        await workflows.result("i", timeout=SECONDS)
    bell.fails.clear()
    await workflows.retry("i", by="anna", why="the bell is mended")

    assert (await ended(workflows, "i")).log == "shrz"
    assert bell.listening == {}


@pytest.mark.parametrize("log", ["s!z", "s"])
async def test_the_time_of_a_wait_and_of_the_whole(log: str) -> None:
    here, clock = Bell(), FakeClock()
    time = timedelta(minutes=5 if log == "s!z" else 90)
    late = Sections(
        "late",
        Data,
        Step("s", add("s")),
        Wait("wait", On("ring", Ringing(here)), After(time, Step("late", add("!")))),
        Step("z", add("z")),
        timeout=timedelta(hours=1),
    )
    async with in_memory(late, clock=clock) as workflows:
        began = clock.now()
        await workflows.start(late, "i", Data())
        if log == "s":
            with pytest.raises(InstanceFailedError, match="longer than it may"):
                await workflows.result("i")
        else:
            await workflows.result("i")

        assert (await workflows.query("i")).log == log
        assert timedelta(seconds=-1) < clock.now() - began - min(time, timedelta(hours=1))
    assert (here.listening, here.did) == ({}, ["teardown False"])


async def test_a_cancel_while_it_is_torn_down_waits_for_that() -> None:
    here, clock = Bell(fails={"teardown": 2}), FakeClock()
    slow = Ringing(here)
    slow.retry = type(slow.retry)(attempts=5, first=60.0, jitter=False)
    some = Sections("some", Data, Wait("wait", On("ring", slow)), Step("z", add("z")))
    async with in_memory(some, clock=clock) as workflows:
        await workflows.send("i", Note("h"), name="ring", early=True)
        await workflows.start(some, "i", Data())
        await stands(workflows, "i", "wait.teardown")
        await workflows.cancel("i")
        with pytest.raises(InstanceCancelledError):
            await workflows.result("i")

        assert (await workflows.query("i")).log == "h"
    assert here.listening == {}


async def test_one_that_is_given_up_does_not_end_the_teardown_of_others() -> None:
    lost, slow = Bell(fails={"teardown": 99}), Bell(fails={"teardown": 2})
    patient = RetryPolicy(attempts=5, first=60.0, jitter=False)
    some = Sections(
        "some",
        Data,
        Wait(
            "wait",
            On("ring", Ringing(lost, RetryPolicy(attempts=1))),
            On("slow", Ringing(slow, patient)),
        ),
    )
    async with in_memory(some) as workflows:
        await workflows.send("i", Note("h"), name="ring", early=True)
        await workflows.start(some, "i", Data())
        with pytest.raises(InstanceFailedError, match=r"wait\.teardown\.ring"):
            await workflows.result("i")

    assert (len(lost.listening), slow.listening) == (1, {})


class Threaded(Source):
    """Is set up in a worker thread."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def setup(self, _data: Data, subscription: Subscription) -> None:  # type: ignore[override]
        self.names.append(f"{subscription.name}#{subscription.token}")

    def handle(self, data: Data, note: Note) -> None:
        data.log += note.text


async def test_a_message_for_one_wait_only() -> None:
    source = Threaded()
    some = Sections("some", Data, Wait("1", On("a", source)), Wait("2", On("a", source)))
    async with in_memory(some) as workflows:
        await workflows.start(some, "i", Data())
        await stands(workflows, "i", "1")
        await workflows.send("i", Note("1"), name=source.names[0])
        await stands(workflows, "i", "2")
        with pytest.raises(LookupError):
            await workflows.update("i", source.names[0], Note("!"))
        await workflows.update("i", source.names[1], Note("2"))

        assert (await ended(workflows, "i")).log == "12"


async def test_a_wait_of_a_time_is_a_sleep() -> None:
    clock = FakeClock()
    sleep = Sections("sleep", Data, Wait("night", After(timedelta(hours=8), Step("a", add("a")))))
    async with in_memory(sleep, clock=clock) as workflows:
        began = clock.now()
        await workflows.start(sleep, "i", Data())

        await workflows.result("i")
        assert (await workflows.query("i")).log == "a"
        assert clock.now() - began == timedelta(hours=8)


async def test_a_message_may_be_for_one_thread() -> None:
    both = Sections(
        "both",
        Data,
        Go("go", Wait("there", On("note", noted, Step("t", add("t")))), thread=lambda _: "other"),
        Wait("here", On("note", noted, Step("h", add("h")))),
        Wait("end", On("end", noted)),
    )
    async with in_memory(both) as workflows:
        await workflows.start(both, "i", Data())
        await stands(workflows, "i", "here")
        await workflows.update("i", "note/other", Note("1"))
        await workflows.update("i", "note", Note("2"))
        await stands(workflows, "i", "end")

        assert sorted((await workflows.query("i")).log) == ["1", "2", "h", "t"]
