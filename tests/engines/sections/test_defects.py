"""What was wrong in the first system of sections is right here, on each of the four stores."""

from collections.abc import AsyncIterator

import pytest

from flowstate import InvalidInputError, RetryPolicy, SystemClock
from flowstate.engines.kernel.errors import InstanceFailedError, ThreadExistsError
from flowstate.engines.workflow.graphs import graph_of
from flowstate.engines.workflow.section_code import LoopError
from flowstate.engines.workflow.sections import (
    Break,
    Case,
    Continue,
    Default,
    For,
    Go,
    If,
    On,
    Return,
    Sections,
    Step,
    Switch,
    Wait,
    WaitFor,
)
from flowstate.engines.workflow.workflows import Workflows
from tests.engines.sections.definitions import Data, Note, add, noted
from tests.engines.sections.running import SECONDS, ended, opened, stands
from tests.engines.stores import STORES, driver_of


def more(data: Data) -> None:
    data.n += 1


continued = Sections(
    "continued",
    Data,
    For(
        lambda s: s.n < 3,
        Step("count", more),
        If(lambda s: s.n == 2, Continue(), Step("never", add("!"))),
        Step("log", add("x")),
    ),
)
left = Sections(
    "left",
    Data,
    For(lambda _: True, Break(), Step("never", add("!"))),
    For(
        lambda _: True, Step("a", add("a")), Break(), Step("nor", add("!")), Step("this", add("!"))
    ),
    Step("z", add("z")),
)
returned = Sections("returned", Data, For(lambda _: True, Return("early"), Step("x", add("!"))))
inner = Sections(
    "inner",
    Data,
    For(
        lambda s: s.n < 2,
        Step("count", more),
        For(lambda _: True, If(lambda s: s.n == 1, Step("one", add("1"))), Break()),
        Step("out", add("o")),
    ),
)
at_once = Sections("at_once", Data, WaitFor("true", lambda _: True), Step("a", add("a")))
nameless = Sections(
    "nameless",
    Data,
    For(lambda s: s.n < 3, Step("count", more), Go("go", Step("log", add("x")))),
    WaitFor("all", lambda s: s.log == "xxx"),
)
same = Sections(
    "same",
    Data,
    Go("one", Wait("w", On("note", noted)), thread=lambda _: "it"),
    Go("two", thread=lambda _: "it"),
    Wait("main", On("other", noted)),
)
endless = Sections("endless", Data, For(lambda _: True, If(lambda _: False, Step("x", add("!")))))
alone = Sections(
    "alone",
    Data,
    Go("go", Wait("never", On("other", noted)), Step("nor", add("!"))),
    Wait("main", On("note", noted)),
    Return("done"),
)
tries: list[int] = []


def try_again(data: Data) -> None:
    data.n += 1
    tries.append(data.n)
    if len(tries) < 3:
        raise ConnectionError


tried = Sections(
    "tried",
    Data,
    Step("try", try_again, retry=RetryPolicy(attempts=3, first=0.01)),
    Step("a", add("a")),
)
CODES = [continued, left, returned, inner, at_once, nameless, same, endless, alone, tried]


@pytest.fixture(params=STORES)
async def workflows(request: pytest.FixtureRequest) -> AsyncIterator[Workflows]:
    async with opened(driver_of(request.param, request), SystemClock(), *CODES) as workflows:
        yield workflows


@pytest.mark.parametrize(
    ("code", "log"),
    [(continued, "xx"), (left, "az"), (inner, "1oo"), (at_once, "a"), (nameless, "xxx")],
    ids=lambda each: getattr(each, "name", ""),
)
async def test_it_does_what_it_says(workflows: Workflows, code: Sections, log: str) -> None:
    await workflows.start(code, "i", Data())

    assert (await ended(workflows, "i")).log == log


def test_a_graph_tells_the_next_pass_of_a_loop_from_its_end() -> None:
    ways = {(way.begin, way.to) for way in graph_of(continued).ways}

    assert ways == {
        ("begin", "count"),
        ("begin", "end"),
        ("count", "count"),
        ("count", "end"),
        ("count", "log"),
        ("never", "log"),
        ("log", "count"),
        ("log", "end"),
    }


async def test_return_ends_it_before_any_stop(workflows: Workflows) -> None:
    await workflows.start(returned, "i", Data())

    assert await workflows.result("i", timeout=SECONDS) == "early"


@pytest.mark.parametrize(("code", "error"), [(same, ThreadExistsError), (endless, LoopError)])
async def test_it_fails_and_says_why(
    workflows: Workflows, code: Sections, error: type[Exception]
) -> None:
    await workflows.start(code, "i", Data())
    with pytest.raises(InstanceFailedError) as caught:
        await workflows.result("i", timeout=SECONDS)

    assert isinstance(caught.value.__cause__, error)


async def test_the_end_of_the_main_thread_ends_the_others(workflows: Workflows) -> None:
    await workflows.start(alone, "i", Data())
    await stands(workflows, "i", "main")
    await workflows.send("i", Note("n"), name="note")

    assert await workflows.result("i", timeout=SECONDS) == "done"
    state = await workflows.engine.get_state("i")
    assert ("threads" in state.values, state.get(Data, "data").log) == (False, "n")


async def test_a_failing_step_runs_again_and_a_good_one_goes_on(workflows: Workflows) -> None:
    tries.clear()
    await workflows.start(tried, "i", Data())

    assert await ended(workflows, "i") == Data("a", 1)
    assert tries == [1, 1, 1]


async def test_a_renamed_wait_is_set_aside_until_its_new_name_is_known(
    workflows: Workflows,
) -> None:
    before = Sections("it", Data, Wait("old", On("note", noted)), Step("a", add("a")))
    after = Sections("it", Data, Wait("new", On("note", noted)), Step("a", add("a")))
    known = Sections(
        "it", Data, Wait("new", On("note", noted)), Step("a", add("a")), renamed={"old": "new"}
    )
    engine = workflows.engine
    async with Workflows(engine, [before]) as old:
        await old.start(before, "i", Data())
        await stands(old, "i", "old")
    async with Workflows(engine, [after]) as new:
        await new.send("i", Note("h"), name="note")
        state = await engine.wait_for(
            "i", until=lambda each: "parked" in each.labels, timeout=SECONDS
        )
        assert "no stop 'old'" in state.get(str, "parked")
    async with Workflows(engine, [known]) as newest:
        assert (await ended(newest, "i")).log == "ha"


async def test_a_renamed_step_is_set_aside_until_its_new_name_is_known(
    workflows: Workflows,
) -> None:
    engine, patient = workflows.engine, RetryPolicy(attempts=9, first=0.3, factor=1.0)

    def fail(data: Data) -> None:
        raise ConnectionError

    before = Sections("it", Data, Step("old", fail, retry=patient))
    after = Sections("it", Data, Step("new", add("a")))
    known = Sections("it", Data, Step("new", add("a")), renamed={"old": "new"})
    async with Workflows(engine, [before]) as old:
        await old.start(before, "i", Data())
        await stands(old, "i", "old")
    async with Workflows(engine, [after]):
        await engine.wait_for("i", until=lambda each: "parked" in each.labels, timeout=SECONDS)
    async with Workflows(engine, [known]) as newest:
        assert (await ended(newest, "i")).log == "a"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Sections("it", Data, Step("a", more), Step("a", more)),
        lambda: Sections("it", Data, Step("a", more), Go("b", Step("a", more))),
        lambda: Sections("it", Data, Step("a.setup", more), Wait("a.setup", On("x", noted))),
        lambda: Sections("it", Data, Break()),
        lambda: Sections("it", Data, For(lambda _: True, Go("a", Continue()))),
        lambda: Sections("it", Data, Step("", more)),
        lambda: Sections("it", Data, more),  # type: ignore[arg-type]
        lambda: Wait("a", On("x", noted), On("x", noted)),
        lambda: Wait("a"),
        lambda: Wait("a", On("x", noted), Step("b", more)),  # type: ignore[arg-type]
        lambda: Switch(Default(), Case(lambda _: True)),
        lambda: On("data", noted),
        lambda: Sections("it", Data, Wait("a", On("x", more))),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_defined(wrong: object) -> None:
    with pytest.raises(InvalidInputError):
        wrong()  # type: ignore[operator]
