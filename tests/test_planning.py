"""What commits may hold, what they write, and what becomes of their contexts."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from flowstate import (
    Check,
    Command,
    Commit,
    Data,
    Delay,
    End,
    Engine,
    FlowRegistry,
    InvalidCommandError,
    InvalidInputError,
    Noop,
    Pause,
    Resume,
    Retry,
    Stack,
    State,
    StateContext,
    Status,
    StoreData,
    Transit,
    Unstack,
)
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.ground.limits import MAX_STEPS

MIB = 1024 * 1024
SOON = timedelta(days=1)


class Recorder(MemoryDriver):
    """Notes what it is given, as a driver that stores the encoded form."""

    stores_objects = False
    max_batch_size = 10

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Writes] = []

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.writes += batch
        return await super().commit(batch)


@pytest.fixture
def flows() -> FlowRegistry:
    flows = FlowRegistry()
    flows.declare("work")
    return flows


def new(id: str, **fields: Any) -> StateContext:
    return StateContext(State(id, **fields))


class Ship(Transit, frozen=True):
    pass


class Stop(Pause, frozen=True):
    pass


class Again(Retry, frozen=True):
    pass


class Finish(End, frozen=True):
    pass


class Together(Commit):
    pass


SUBCLASSES: dict[str, tuple[Callable[[StateContext], Command[None]], Status, str]] = {
    "transit": (lambda ctx: Ship(ctx, "work"), Status.ACTIVE, "transit"),
    "pause": (Stop, Status.PAUSED, "pause"),
    "retry": (Again, Status.ACTIVE, "pause"),
    "end": (Finish, Status.ENDED, "end"),
}


@pytest.mark.parametrize("name", SUBCLASSES)
@pytest.mark.parametrize("commit", [Commit, Together])
async def test_subclasses_of_steps_do_what_their_bases_do(
    name: str, commit: type[Commit], flows: FlowRegistry
) -> None:
    make, status, cause = SUBCLASSES[name]
    async with Engine(MemoryDriver(), flows) as engine:
        ctx = new("a")
        await engine.do(Commit(Pause(ctx)))
        await engine.do(commit(make(ctx)))
        assert (ctx.committed.status, ctx.committed.transition.cause) == (status, cause)
        other = new("b")
        await engine.do(commit(Pause(other), make(other)))
        assert other.committed.status is status


async def test_of_many_steps_the_last_are_kept(flows: FlowRegistry) -> None:
    async with Engine(MemoryDriver(), flows) as engine:
        ctx = new("a")
        for number in range(3 * MAX_STEPS):
            await engine.do(Transit(ctx, "work", {"number": str(number)}))
        assert len(ctx.transitions) == MAX_STEPS
        assert ctx.transitions[-1].annotations == {"number": str(3 * MAX_STEPS - 1)}
        await engine.do(Commit(Noop(), Check(new("other")), Resume(ctx)))
        assert ctx.transitions == ()


def with_data(id: str, *blobs: int) -> StateContext:
    ctx = new(id)
    for number, size in enumerate(blobs):
        ctx.data[f"{number}"] = Data(number.to_bytes(2, "big") + bytes(size))
    return ctx


def store(ctx: StateContext) -> list[Command[None]]:
    return [StoreData(ctx, alias) for alias in ctx.data]


def large(count: int, size: int, text: str = "x") -> list[Command[None]]:
    annotations = {"text": text * size}
    return [Pause(new(f"large-{n}", annotations=annotations), annotations) for n in range(count)]


TOO_MUCH: dict[str, Callable[[], list[Command[None]]]] = {
    "states": lambda: [Pause(new(f"{n}")) for n in range(129)],
    "checks": lambda: [Check(new("a"))] * 1_001,
    "delays": lambda: [Delay(new("a"), "work", after=SOON)] * 1_001,
    "data": lambda: store(with_data("a", *range(129))),
    "bytes of data": lambda: store(with_data("a", *[15 * MIB] * 5)),
    "bytes of states": lambda: large(40, MIB - 10),
    "bytes of escaped states": lambda: large(7, MIB - 10, "\x01"),
}


@pytest.mark.parametrize("what", TOO_MUCH)
@pytest.mark.parametrize("driver", [MemoryDriver, Recorder])
async def test_a_commit_that_holds_too_much_is_refused_before_it_is_written(
    what: str, driver: type[MemoryDriver], flows: FlowRegistry
) -> None:
    async with Engine(driver(), flows) as engine:
        with pytest.raises(InvalidCommandError) as caught:
            await engine.do(Commit(*TOO_MUCH[what]()))
        assert caught.value.field == "commit"
        assert await engine.head() == 0


ENOUGH: dict[str, Callable[[], list[Command[None]]]] = {
    "states": lambda: [Pause(new(f"{n}")) for n in range(128)],
    "checks": lambda: [Check(new("a"))] * 1_000,
    "delays": lambda: [Delay(new("a"), "work", after=SOON)] * 1_000,
    "data": lambda: store(with_data("a", *range(128))),
    "bytes of states": lambda: large(20, MIB - 10),
    "bytes of escaped states": lambda: large(5, MIB - 10, "\x01"),
}


@pytest.mark.parametrize("what", ENOUGH)
@pytest.mark.parametrize("driver", [MemoryDriver, Recorder])
async def test_a_commit_at_a_limit_is_stored(
    what: str, driver: type[MemoryDriver], flows: FlowRegistry
) -> None:
    async with Engine(driver(), flows) as engine:
        await engine.do(Commit(*ENOUGH[what]()))


async def test_sizes_are_those_of_what_is_stored(flows: FlowRegistry) -> None:
    driver = Recorder()
    async with Engine(driver, flows) as engine:
        ctx = with_data("é", 1_000)
        await engine.do(Commit(Pause(ctx)), Commit(*store(ctx), Delay(ctx, "work", after=SOON)))
        await engine.do(StoreData(with_data("b", 2_000), "0"), Delay(ctx, "work", after=SOON))
    alone, rich, data, delay = driver.writes

    assert alone.size == len(alone.bodies[0].encode()) > len(alone.bodies[0])
    encoded = len(rich.bodies[0].encode()) + len(rich.delays[0].body.encode())
    assert rich.size == encoded + 1_002 + len("{}")
    assert data.size == 2_002 + len("{}")
    assert delay.size == len(delay.delays[0].body.encode())


async def test_delays_alone_refer_to_the_data_that_no_revision_has(flows: FlowRegistry) -> None:
    driver = Recorder()
    async with Engine(driver, flows) as engine:
        ctx = with_data("a", 1, 2)
        await engine.do(Commit(StoreData(ctx, "0"), Pause(ctx)), StoreData(ctx, "1"))
        delay = Delay(ctx, "work", after=SOON)
        await engine.do(delay, Commit(delay))
    *_, alone, within = driver.writes
    new_ref = ctx.current.data["1"].checksum

    assert (alone.needs, alone.delays[0].references) == ((new_ref,), (new_ref,))
    assert (within.needs, within.delays[0].references) == ((new_ref,), ())


async def test_a_carrier_refers_to_the_data_of_what_is_stacked_in_it(flows: FlowRegistry) -> None:
    async with Engine(MemoryDriver(), flows) as engine:
        inner, middle, outer = with_data("inner", 1), with_data("middle", 2), new("outer")
        await engine.do(*store(inner), *store(middle))
        await engine.do(Stack(middle, inner, "x"), Commit(Stack(outer, middle, "x.y")))
        own = {ref.checksum for ctx in (inner, middle) for ref in ctx.current.data.values()}
        assert {ref.checksum for ref in outer.committed.data.values()} == own
        with pytest.raises(InvalidCommandError, match=r"^name: is taken"):
            await engine.do(Stack(outer, inner, "x.y"))
        await engine.do(Unstack(outer, into := new("into"), "x.y"))
        assert (outer.current.data, into.current) == ({}, middle.current)
        await engine.do(Unstack(into, new("last"), "x"))
        assert [*into.current.data] == ["0"]


async def test_a_new_cause_is_refused_and_one_that_is_stored_is_kept(flows: FlowRegistry) -> None:
    class Newer(MemoryDriver):
        """Stands for a store that a newer library has written to."""

        async def get_state(self, id: str, rev: int | None = None) -> State | None:
            found = await super().get_state(id, rev)
            assert found is not None
            step = type(found.transition)("work", cause="later")
            return State(found.id, found.rev, transition=step)

    async with Engine(Newer(), flows) as engine:
        await engine.do(Commit(Transit(new("a"), "work")))
        ctx = StateContext(await engine.get_state("a"))
        await engine.do(Commit(Retry(ctx)))
        assert ctx.committed.transition.cause == "later"
        slip = new("b", transition=ctx.committed.transition)
        with pytest.raises(InvalidInputError, match=r"^state.transition.cause: "):
            await engine.do(Commit(Retry(slip)))


async def test_commits_of_one_moment_are_checked_one_by_one(flows: FlowRegistry) -> None:
    driver = Recorder()
    async with Engine(driver, flows) as engine:
        odd = [new("", labels={"a": "b"}), new("x", labels={"a": "\0"}), new("x", labels={1: "b"})]
        good = [new(f"good-{number}") for number in range(6)]
        commits = [Commit(Pause(ctx)) for ctx in (*good[:3], *odd, *good[3:])]
        outcomes = await asyncio.gather(*map(engine.do, commits), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes[3:6]] == [InvalidInputError] * 3
    assert sorted(ctx.committed.rev for ctx in good) == [1, 2, 3, 4, 5, 6]


def a_plain_function(ctx: StateContext, engine: Engine) -> Command[None]:
    return Noop()


class FlowObject:
    def __call__(self, _ctx: StateContext, _engine: Engine) -> Command[None]:
        return Noop()


@pytest.mark.parametrize(
    "flow",
    [a_plain_function, FlowObject(), lambda *_: Noop(), lambda _a, _b, _c=1: Noop()],
    ids=["function", "object", "any number", "default"],
)
def test_what_takes_two_arguments_is_a_flow(flow: Any) -> None:
    flows = FlowRegistry()
    flows.set("work", flow)

    assert flows.runnable("work").call is flow


@pytest.mark.parametrize(
    "flow",
    [FlowObject, None, "work", lambda: None, lambda _a: [], lambda _a, _b, _c: []],
    ids=["class", "None", "text", "none", "one", "three"],
)
def test_what_cannot_be_called_as_a_flow_is_refused(flow: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^flow: must "):
        FlowRegistry().set("work", flow)


class Turning(MemoryDriver):
    """Replies to the commit of one state only when it may."""

    def __init__(self, late: str) -> None:
        super().__init__()
        self.late = late
        self.may_reply = asyncio.Event()
        self.has_committed = asyncio.Event()

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await super().commit(batch)
        if batch[0].puts[0].id == self.late:
            self.has_committed.set()
            await self.may_reply.wait()
        return verdicts


async def test_a_context_that_was_only_checked_keeps_what_was_committed_meanwhile() -> None:
    driver = Turning("late")
    async with Engine(driver, FlowRegistry()) as engine:
        fence, late = StateContext(State("fence")), StateContext(State("late"))
        await engine.do(Commit(Pause(fence)))
        checking = asyncio.create_task(engine.do(Commit(Check(fence), Pause(late))))
        await driver.has_committed.wait()
        await engine.do(Commit(Pause(fence)))
        driver.may_reply.set()
        await checking
        assert fence.committed == await engine.get_state("fence")
        await engine.do(Commit(Pause(fence)))
