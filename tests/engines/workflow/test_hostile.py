"""Code and callers that misbehave harm no instance but their own, and that one is not stuck."""

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Struct

from flowstate import InvalidInputError
from flowstate.engines.workflow import (
    Cancelled,
    Event,
    Result,
    StepFailed,
    Timeout,
    each,
    effect_key,
    go,
    helper,
    sleep,
    step,
    sub,
    until,
    wait,
    workflow,
)
from flowstate.testing import open_workflows, stands_at


class Data(Struct):
    kind: str = ""
    found: list[str] = []


class Item(Struct):
    text: str


class OddError(BaseException):
    pass


class UnreadableError(Exception):
    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError


class ArglessError(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError


ERRORS: dict[str, Callable[[], BaseException]] = {
    "odd": OddError,
    "cancelled": Cancelled,
    "unreadable": UnreadableError,
    "argless": ArglessError,
    "large": lambda: ValueError("x" * 2_000_000),
}
keys: list[str] = []


async def fail(kind: str) -> None:
    error = ERRORS[kind]()
    raise error


def leave() -> None:
    sys.exit(3)


async def note() -> None:
    keys.append(effect_key())


@workflow("failing")
async def failing(s: Data) -> str:
    try:
        await step(fail, s.kind)
    except StepFailed as error:
        return str(error)
    return ""


@workflow("leaving")
async def leaving(s: Data) -> None:
    await step(leave)


@workflow("impatient")
async def impatient(s: Data) -> str:
    try:
        await until(lambda _: raising())
    except Cancelled:
        return "cancelled by its condition"
    return ""


def raising() -> bool:
    raise Cancelled


@pytest.mark.parametrize("kind", ERRORS)
async def test_whatever_a_step_raises_is_a_failure_of_it(kind: str) -> None:
    async with open_workflows(failing) as workflows:
        await workflows.start(failing, "f", Data(kind))

        assert "step 'fail' failed once" in await workflows.result("f", timeout=30)


async def test_a_step_that_leaves_the_process_has_failed() -> None:
    async with open_workflows(leaving) as workflows:
        await workflows.start(leaving, "l", Data())

        with pytest.raises(Exception, match="the step has raised SystemExit: 3"):
            await workflows.result("l", timeout=30)


async def test_a_condition_may_raise_what_is_no_exception() -> None:
    async with open_workflows(impatient) as workflows:
        await workflows.start(impatient, "i", Data())

        assert await workflows.result("i", timeout=30) == "cancelled by its condition"


@workflow("updated")
async def updated(s: Data) -> str:
    await wait("end", Item)
    return f"{len(s.found)} found"


@updated.update
def refuse(s: Data, kind: str) -> None:
    error = ERRORS[kind]()
    raise error


@updated.update
def answer(s: Data, length: int) -> str:
    return "x" * length


@updated.update
def grow(s: Data, length: int) -> None:
    s.found.append("x" * length)


async def test_updates_that_misbehave_stop_no_other() -> None:
    async with open_workflows(updated) as workflows:
        await workflows.start(updated, "u", Data())
        await stands_at(workflows, "u", "end")
        for kind in ("odd", "cancelled", "large"):
            with pytest.raises((OddError, Cancelled, ValueError)):
                await workflows.update("u", "refuse", kind, timeout=30)
        for number in range(30):
            same = await workflows.update("u", "answer", 50_000, key=f"{number}", timeout=30)
            assert len(same) == 50_000
        with pytest.raises(InvalidInputError, match="answer: must be at most 131072 bytes"):
            await workflows.update("u", "answer", 500_000, timeout=30)
        await workflows.update("u", "grow", 700_000, timeout=30)
        with pytest.raises(InvalidInputError, match="an update can make it 786432 bytes"):
            await workflows.update("u", "grow", 700_000, timeout=30)
        await workflows.send("u", Item("end"))

        assert await workflows.result("u", timeout=30) == "1 found"


@workflow("item")
async def item(s: Item) -> str:
    return s.text


@helper
async def again(s: Data) -> None:
    await step(note)
    s.found += await each(item, [Item(s.kind)])


@workflow("twice")
async def twice(s: Data) -> str:
    go(again, thread="t")
    await sleep(1, name="first")
    s.kind += "!"
    go(again, thread="t", name="second")
    await sleep(1)
    return " ".join(s.found)


async def test_a_thread_that_begins_again_has_keys_and_children_of_its_own() -> None:
    keys.clear()
    async with open_workflows(twice) as workflows:
        await workflows.start(twice, "t", Data("b"))

        assert await workflows.result("t", timeout=30) == "b b!"
    assert len(set(keys)) == 2


@helper
async def noted(s: Data) -> None:
    await step(note)


@workflow("retried")
async def retried(s: Data) -> str:
    go(noted, thread="t")
    await sleep(1, name="first")
    await step(fail_once)
    go(noted, thread="t", name="second")
    await sleep(1)
    return "done"


async def fail_once() -> None:
    if len(keys) == 1:
        keys.append("failed")
        raise ConnectionError


async def test_a_thread_has_other_keys_after_a_retry_of_what_has_failed() -> None:
    keys.clear()
    async with open_workflows(retried) as workflows:
        await workflows.start(retried, "r", Data())
        with pytest.raises(Exception, match="failed once"):
            await workflows.result("r", timeout=30)
        await workflows.retry("r")

        assert await workflows.result("r", timeout=30) == "done"
    assert len(set(keys)) == 3


@workflow("eternal", timeout=timedelta.max)
async def eternal(s: Data) -> str:
    match await wait("w", Event(Item, text="a"), Timeout(days=999_999_999), lookback=timedelta.max):
        case Item(text=text):
            return text
    return "no time is that long"


async def test_times_that_no_calendar_has() -> None:
    async with open_workflows(eternal) as workflows:
        await workflows.start(eternal, "e", Data())
        await stands_at(workflows, "e", "w")
        await workflows.publish(Item("a"))

        assert await workflows.result("e", timeout=30) == "a"


class Price(Struct):
    cents: float


@workflow("priced")
async def priced(s: Data) -> str:
    await wait("p", Event(Price, cents=1.0), timeout=60.0, lookback=timedelta(hours=1))
    return "met"


async def test_a_number_is_the_same_with_and_without_a_point() -> None:
    async with open_workflows(priced) as workflows:
        await workflows.publish(Price(1))
        await workflows.start(priced, "p", Data())

        assert await workflows.result("p", timeout=30) == "met"


@helper
async def deeper(s: Data, depth: int) -> int:
    return await sub(deeper, depth + 1)


@workflow("endless")
async def endless(s: Data) -> str:
    try:
        return str(await sub(deeper, 0))
    except RecursionError as error:
        return str(error)


async def test_helpers_that_call_each_other_without_end() -> None:
    async with open_workflows(endless) as workflows:
        await workflows.start(endless, "e", Data())

        assert "1000 calls" in await workflows.result("e", timeout=30)


@workflow("parent")
async def parent(s: Data) -> str:
    try:
        return " ".join(await each(item, [Item("a")]))
    except InvalidInputError as error:
        return str(error)


@pytest.mark.parametrize(
    ("length", "result"), [(495, "a"), (512, "id: must be at most 512 bytes, not 521")]
)
async def test_an_id_of_any_length_has_children_or_an_error(length: int, result: str) -> None:
    async with open_workflows(parent) as workflows:
        await workflows.start(parent, "x" * length, Data())

        assert await workflows.result("x" * length, timeout=30) == result


@pytest.mark.parametrize("label", ["workflow", "outcome", "parent", "parked", "stop", "version"])
async def test_labels_of_the_engine_are_refused(label: str) -> None:
    async with open_workflows(item) as workflows:
        with pytest.raises(InvalidInputError, match=f"cannot have '{label}'"):
            await workflows.start(item, "i", Item(""), labels={label: "done"})


async def test_a_schedule_whose_instances_could_have_no_id_is_refused() -> None:
    async with open_workflows(item) as workflows:
        with pytest.raises(InvalidInputError, match="name: must be at most 512 bytes"):
            await workflows.schedule("x" * 490, item, "* * * * *", Item(""))


def test_a_result_needs_an_id_that_a_store_can_have() -> None:
    with pytest.raises(InvalidInputError, match="lone surrogates"):
        Result(item, "\ud800")


async def test_what_could_make_an_instance_too_large_is_refused() -> None:
    large = Data("x" * 131_072)
    async with open_workflows(parent) as workflows:
        await workflows.start(parent, "i", Data())
        for sent in (
            workflows.send("i", large, early=True),
            workflows.update("i", "change", large),
            workflows.publish(large),
        ):
            with pytest.raises(InvalidInputError, match="must be at most 131072 bytes as JSON"):
                await sent


async def test_the_key_of_an_event_is_one_that_a_store_can_have() -> None:
    async with open_workflows(parent) as workflows:
        with pytest.raises(InvalidInputError, match="key: must not contain lone surrogates"):
            await workflows.publish(Data(), key="\ud800")
