"""Tasks are cancelled, shielded and supervised without anything getting lost."""

import asyncio
import logging
import sys

import pytest

from flowstate.ground.tasks import (
    cancel_and_wait,
    preserve_cancellation,
    shielded,
    spawn,
    supervised,
)


async def test_what_swallows_its_cancellation_is_left_behind_in_time() -> None:
    go_on = asyncio.Event()

    async def stubborn() -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    async def willing() -> None:
        await go_on.wait()

    tasks = [asyncio.create_task(stubborn()), asyncio.create_task(willing())]
    await asyncio.sleep(0)  # reason: both have to begin
    left = await cancel_and_wait(*tasks, seconds=0.05)
    assert left == tasks[:1]
    assert tasks[1].cancelled()
    go_on.set()
    await tasks[0]


async def test_shielded_work_is_finished_before_the_cancellation_is_raised() -> None:
    events, begun = list[str](), asyncio.Event()

    async def work() -> None:
        events.append("begun")
        begun.set()
        await asyncio.sleep(0.01)  # reason: the cancellation comes meanwhile
        events.append("finished")

    task = asyncio.create_task(shielded(work()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == ["begun", "finished"]


async def test_work_that_something_else_cancels_is_a_failure_and_ends_no_caller() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    caller = asyncio.create_task(shielded(work()))
    await begun.wait()
    (inner,) = (each for each in asyncio.all_tasks() if each.get_name() == "flowstate shielded")
    inner.cancel()
    with pytest.raises(RuntimeError, match="not by its caller"):
        await caller


async def test_a_swallowed_cancellation_is_raised() -> None:
    async def swallow() -> None:
        with preserve_cancellation():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return

    task = asyncio.create_task(swallow())
    await asyncio.sleep(0)  # reason: it has to begin
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_supervised_work_is_tried_again_and_a_repeated_failure_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outcomes: list[Exception | None] = [OSError("a"), OSError("a"), OSError("b"), None]
    pauses: list[float] = []
    failures: list[str] = []

    async def work() -> None:
        if error := outcomes.pop(0):
            raise error

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    with caplog.at_level(logging.ERROR, "flowstate"):
        await supervised("working", work, sleep, on_failure=lambda e: failures.append(str(e)))
    assert outcomes == []
    assert pauses == sorted(pauses)
    assert len(set(pauses)) == 3
    assert failures == ["a", "a", "b"]
    assert len(caplog.records) == 2
    assert "working failed" in caplog.text


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks yet")
async def test_a_spawned_task_never_begins_in_the_middle_of_its_caller() -> None:
    begun: list[int] = []

    async def work() -> None:
        begun.append(1)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - 3.11 has none
    task = spawn(work(), "work")
    assert begun == []
    await task
    assert begun == [1]
