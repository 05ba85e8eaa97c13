"""What the tests of the first system of sections check, on each of the four stores."""

import asyncio
import threading
from collections.abc import AsyncIterator

import msgspec
import pytest

from flowstate import SystemClock
from flowstate.engines.kernel.errors import InstanceFailedError, StepFailed
from flowstate.engines.kernel.steps import effect_key
from flowstate.engines.kernel.threads import Threads
from flowstate.engines.workflow.sections import (
    Go,
    Return,
    Sections,
    Step,
    WaitFor,
)
from flowstate.engines.workflow.workflows import Workflows
from tests.engines.sections.definitions import (
    Data,
    Note,
    add,
    branches,
    broken,
    handled,
    looped,
    sub,
    threads,
)
from tests.engines.sections.running import SECONDS, ended, opened, stands
from tests.engines.stores import STORES, driver_of

empty = Sections("empty", Data)


def fail(data: Data) -> None:
    data.log += "lost"
    raise ValueError("no tea left")


async def fail_later(data: Data) -> None:
    await asyncio.sleep(0)
    fail(data)


failing = Sections("failing", Data, Step("one", add("1")), Step("two", fail_later))
failing_thread = Sections("failing_thread", Data, Step("two", fail))
gate = threading.Barrier(2)


def meet(data: Data) -> None:
    gate.wait(SECONDS)
    data.log += "m"


def meet_too(data: Data) -> None:
    gate.wait(SECONDS)
    data.n += 1


together = Sections(
    "together",
    Data,
    Go("other", Step("meet", meet)),
    Step("meet too", meet_too),
    WaitFor("both", lambda s: s.log == "m"),
)


async def listed(data: Data) -> str:
    return effect_key()


keyed = Sections(
    "keyed",
    Data,
    Step("list", listed, then=lambda s, key: setattr(s, "log", key)),
    Return(lambda s: s.log),
)

CODES = [empty, handled, looped, broken, branches, threads, sub, failing, failing_thread]
CODES += [together, keyed]


@pytest.fixture(params=STORES)
async def workflows(request: pytest.FixtureRequest) -> AsyncIterator[Workflows]:
    async with opened(driver_of(request.param, request), SystemClock(), *CODES) as workflows:
        yield workflows


async def test_nothing_to_do_ends_at_once(workflows: Workflows) -> None:
    assert await workflows.start(empty, "i", Data(log="kept"))

    assert await workflows.result("i", timeout=SECONDS) is None
    state = await workflows.engine.get_state("i")
    assert (state.id, state.labels["workflow"]) == ("i", "empty")
    assert "threads" not in state.values
    assert (await workflows.query("i")).log == "kept"


async def test_a_step_changes_the_data(workflows: Workflows) -> None:
    await workflows.start(handled, "i", Data())
    state = await stands(workflows, "i", "wait")

    assert state.get(Data, "data").log == "s"


@pytest.mark.parametrize("code", [failing, failing_thread])
async def test_a_step_that_fails_says_why_and_changes_nothing(
    workflows: Workflows, code: Sections
) -> None:
    await workflows.start(code, "i", Data())
    with pytest.raises(InstanceFailedError, match="no tea left") as caught:
        await workflows.result("i", timeout=SECONDS)

    assert isinstance(caught.value.__cause__, StepFailed)
    assert "lost" not in (await workflows.query("i")).log
    state = await workflows.engine.get_state("i")
    assert state.get(Threads, "threads")["main"].stop == "two"


async def test_a_wait_is_ended_by_a_message_that_it_knows(workflows: Workflows) -> None:
    await workflows.start(handled, "i", Data())
    state = await stands(workflows, "i", "wait")
    assert list(state.get(Threads, "threads")) == ["main"]
    with pytest.raises(LookupError, match="'unknown'"):
        await workflows.update("i", "unknown", Note("x"), timeout=SECONDS)
    with pytest.raises(msgspec.ValidationError):
        await workflows.update("i", "note", {"text": 5}, timeout=SECONDS)
    assert (await workflows.query("i")).log == "s"

    assert await workflows.update("i", "note", Note("h", 3)) == {"text": "h", "n": 3}
    assert (await ended(workflows, "i")).log == "sha"


async def test_a_message_that_is_sent_is_handled_too(workflows: Workflows) -> None:
    await workflows.send("i", Note("h"), name="note", early=True, key="1")
    await workflows.send("i", Note("h"), name="note", early=True, key="1")
    await workflows.start(handled, "i", Data())

    assert (await ended(workflows, "i")).log == "sha"


@pytest.mark.parametrize("code", [looped, broken])
async def test_a_wait_in_a_loop(workflows: Workflows, code: Sections) -> None:
    await workflows.start(code, "i", Data())
    logs = []
    for _ in range(2):
        state = await stands(workflows, "i", "wait")
        assert state.get(Threads, "threads")["main"].frames[-1].names == {}
        await workflows.update("i", "note", Note("h"), timeout=SECONDS)
        logs.append((await workflows.query("i")).log)

    assert (await ended(workflows, "i")).log == "haha"
    assert logs[0][0] == "h"


async def test_branches_are_chosen_by_the_data_as_it_is(workflows: Workflows) -> None:
    await workflows.start(branches, "i", Data())
    await stands(workflows, "i", "in case")
    assert (await workflows.query("i")).log == "bb"
    await workflows.update("i", "note", Note("h"), timeout=SECONDS)

    assert await workflows.result("i", timeout=SECONDS) == "bbh"


async def test_threads_from_a_loop_are_joined_by_a_condition(workflows: Workflows) -> None:
    await workflows.start(threads, "i", Data())
    state = await stands(workflows, "i", "main")

    assert state.get(Data, "data") == Data("all", 0, {f"t{n}": 1 for n in range(5)})
    assert list(state.get(Threads, "threads")) == ["main"]
    await workflows.update("i", "note", Note("!"), timeout=SECONDS)
    assert (await ended(workflows, "i")).log == "all!"


async def test_statements_from_functions(workflows: Workflows) -> None:
    await workflows.start(sub, "i", Data())

    assert await workflows.result("i", timeout=SECONDS) == "1233233"


async def test_steps_of_threads_run_at_the_same_time(workflows: Workflows) -> None:
    await workflows.start(together, "i", Data())
    data = await ended(workflows, "i")

    assert (data.log, data.n) == ("m", 1)


async def test_what_a_step_returns_is_put_into_the_data(workflows: Workflows) -> None:
    await workflows.start(keyed, "i", Data())

    assert await workflows.result("i", timeout=SECONDS) == "i/main/list/0"
