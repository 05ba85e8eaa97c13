"""Forgetting: what a commit of it writes, what it refuses, and pruning when something fails."""

import logging
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
from msgspec import Raw
from msgspec.structs import replace

from flowstate import (
    Command,
    Commit,
    CommitUnknownError,
    Data,
    Delay,
    DriverError,
    End,
    Engine,
    EngineStoppedError,
    FakeClock,
    FlowRegistry,
    Forget,
    InvalidCommandError,
    Pause,
    Put,
    Resume,
    Retry,
    RevisionMismatchError,
    SetTimer,
    Stack,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    StoreData,
    Transit,
    Transition,
    Unstack,
)
from flowstate.driver import DamagedRevision, Liveness, StateQuery, States, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.mailboxes.mailbox import Mailbox, Message, mailbox_id
from flowstate.testcases.support import DriverWrapper, end

HOUR = timedelta(hours=1)


class Recorder(DriverWrapper):
    """Keeps what was committed; fails, and damages, when told to.

    Attributes:
        writes: of each commit.
        errors: what the next commits that forget have as their verdicts, if not ``None``.
        damaged: ids of states that no page can read.
    """

    def __init__(self) -> None:
        super().__init__(MemoryDriver(FakeClock()))
        self.writes: list[Writes] = []
        self.errors: list[Exception | None] = []
        self.damaged: set[str] = set()

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.writes += batch
        forgets = any(writes.forgets for writes in batch)
        error = self.errors.pop(0) if forgets and self.errors else None
        if error is not None:
            raise error
        return await super().commit(batch)

    async def get_states(self, query: StateQuery) -> States:
        page = await super().get_states(query)
        bad = [DamagedRevision(s.rev, s.id, "odd") for s in page.states if s.id in self.damaged]
        states = [state for state in page.states if state.id not in self.damaged]
        return replace(page, states=states, damaged=bad)

    @property
    def forgotten(self) -> list[list[str]]:
        """The ids that each commit has forgotten."""
        each = ([writes.puts[place].id for place in writes.forgets] for writes in self.writes)
        return [ids for ids in each if ids]


@pytest.fixture
def driver() -> Recorder:
    return Recorder()


@pytest.fixture
async def engine(driver: Recorder) -> AsyncIterator[Engine]:
    flows = FlowRegistry()
    flows.set("work", end)
    async with Engine(driver, flows, clock=FakeClock()) as engine:
        yield engine


async def ended(engine: Engine, *ids: str) -> list[StateContext]:
    contexts = [StateContext(State(id, labels={"kind": "x"})) for id in ids]
    for ctx in contexts:
        await engine.do(Commit(Transit(ctx, "work"), End(ctx)))
    return contexts


async def left(engine: Engine) -> list[str]:
    return [state.id async for state in engine.states(latest_only=True)]


# What a commit writes


async def test_a_commit_names_the_states_that_it_forgets(engine: Engine, driver: Recorder) -> None:
    first, second = await ended(engine, "a", "b")
    other = StateContext(State("c"))
    await engine.do(Commit(Forget(second), Transit(other, "work"), Forget(first), Forget(second)))
    writes = driver.writes[-1]
    assert {writes.puts[place].id for place in writes.forgets} == {"a", "b"}
    assert len(writes.forgets) == 2
    put = writes.puts[writes.forgets[0]]
    last = Transition("work", cause="forget")
    assert put == State(put.id, put.rev, {"kind": "x"}, transition=last, status=Status.ENDED)
    assert await left(engine) == ["c"]


async def test_timers_go_with_what_is_forgotten(engine: Engine, driver: Recorder) -> None:
    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "work"), SetTimer(ctx, "t", "work", after=HOUR)))
    await engine.do(Commit(End(ctx), Forget(ctx)))
    assert (len(driver.writes[-1].drops), driver.writes[-1].forgets) == (1, (0,))
    assert (await engine.get_delayed_states()).delayed == []


async def test_the_step_of_forgetting_is_one(engine: Engine) -> None:
    (ctx,) = await ended(engine, "a")
    await engine.do(Forget(ctx))
    assert ctx.transitions[-1] == ctx.current.transition == Transition("work", cause="forget")
    assert (ctx.current.rev, ctx.committed.rev, await left(engine)) == (1, 1, ["a"])
    await engine.do(Commit(Put(ctx)))
    assert (ctx.transitions, ctx.committed.transition.cause) == ((), "forget")


@pytest.mark.parametrize("id", ["a", "x" * 512])
async def test_a_mailbox_goes_with_its_state(engine: Engine, id: str) -> None:
    for is_at_once in (True, False):
        (ctx,) = await ended(engine, id)
        await engine.do(Commit(Pause(StateContext(State(mailbox_id(id))))))
        if is_at_once:
            await engine.do(Commit(Forget(ctx)))
        else:
            await engine.do(Forget(ctx), Commit(Put(ctx)))
        assert await left(engine) == []


@pytest.mark.parametrize(
    "cause", [{}, {"annotations": {"a": "b"}}, {"status": Status.ACTIVE}, {"status": Status.PAUSED}]
)
async def test_a_transition_that_was_made_by_hand_forgets_nothing_half(
    engine: Engine, driver: Recorder, cause: dict[str, object]
) -> None:
    made = State("a", transition=Transition("work", cause="forget"), status=Status.ENDED)
    ctx = StateContext(replace(made, **cause))
    if cause:
        for command in (Put(ctx), SetTimer(ctx, "t", "work", after=HOUR)):
            with pytest.raises(InvalidCommandError):
                await engine.do(Commit(command))
        with pytest.raises(InvalidCommandError, match="is forgotten"):
            await engine.do(Commit(Retry(ctx)))
        assert driver.writes == []
    else:
        await engine.do(Commit(Put(ctx)))
        assert driver.writes[-1].forgets == (0,)


async def test_an_odd_flow_is_refused_when_it_is_forgotten(engine: Engine) -> None:
    (ctx,) = await ended(engine, "a")
    ctx.current = replace(ctx.current, transition=Transition("\0"))
    with pytest.raises(ValueError, match=r"^state\.transition\.to: "):
        await engine.do(Commit(Forget(ctx)))


async def test_a_stacked_context_of_what_is_forgotten_finds_it_gone(engine: Engine) -> None:
    carrier, back = StateContext(State("carrier")), StateContext(State("back"))
    (ctx,) = await ended(engine, "a")
    await engine.do(Commit(Stack(carrier, ctx, "before")))
    await engine.do(Commit(Forget(ctx), Stack(carrier, ctx, "with")))
    with pytest.raises(RevisionMismatchError):
        await engine.do(Unstack(carrier, back, "with"))
    await engine.do(Unstack(carrier, back, "before"))
    with pytest.raises(RevisionMismatchError):
        await engine.do(Commit(Transit(back, "work")))


@pytest.mark.parametrize("status", ["active", "paused", "ended", "resumed"])
async def test_only_what_has_ended_by_then_is_forgotten(engine: Engine, status: str) -> None:
    ctx = StateContext(State("a"))
    steps: dict[str, Sequence[Command[None]]] = {
        "active": [Transit(ctx, "work")],
        "paused": [Pause(ctx)],
        "ended": [End(ctx)],
        "resumed": [End(ctx), Resume(ctx)],
    }
    commit = Commit(*steps[status], Forget(ctx))
    if status == "ended":
        await engine.do(commit)
        with pytest.raises(StateNotFoundError):
            await engine.get_state("a")
    else:
        with pytest.raises(InvalidCommandError, match="only what has ended can be forgotten"):
            await engine.do(commit)
        assert (ctx.current, await engine.head()) == (State("a"), 0)


async def test_a_life_after_it_shares_nothing_with_the_one_before(engine: Engine) -> None:
    (ctx,) = await ended(engine, "a")
    ctx.data["d"] = Data(b"1")
    ctx.put(1)
    await engine.do(Commit(StoreData(ctx, "d")))
    old = ctx.copy()
    await engine.do(Commit(Forget(ctx)))
    again = StateContext(State("a"))
    await engine.do(Commit(Transit(again, "work")))
    assert again.committed == replace(await engine.get_state("a"))
    assert (again.current.data, again.current.values, again.current.labels) == ({}, {}, {})
    assert again.effect_key != old.effect_key
    with pytest.raises(InvalidCommandError, match="which it forgets"):
        await engine.do(Commit(Delay(ctx, "work", after=HOUR)))
    for each in (ctx, old):
        for command in (Transit(each, "work"), End(each), Forget(each)):
            with pytest.raises(RevisionMismatchError):
                await engine.do(Commit(command))
        with pytest.raises(RevisionMismatchError):
            await engine.do(Delay(each, "work", after=HOUR))


# Pruning


def names(count: int) -> list[str]:
    return [f"job-{n}" for n in range(count)]


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [(5, 128, [5]), (5, 2, [2, 2, 1]), (0, 128, []), (300, 128, [128, 128, 44])],
)
async def test_pruning_is_done_in_batches(
    engine: Engine, driver: Recorder, count: int, batch: int, sizes: list[int]
) -> None:
    await ended(engine, *names(count))
    assert await engine.prune(batch=batch) == count
    assert [*map(len, driver.forgotten)] == sizes
    assert await left(engine) == []


async def test_a_batch_with_mailboxes_is_split(engine: Engine, driver: Recorder) -> None:
    await ended(engine, *names(100))
    for id in names(100):
        await engine.do(Commit(Pause(StateContext(State(mailbox_id(id))))))
    assert await engine.prune() == 100
    assert [*map(len, driver.forgotten)] == [100, 100]
    assert await left(engine) == []


async def test_a_mailbox_by_itself_is_left_alone(engine: Engine) -> None:
    await ended(engine, mailbox_id("a"), "b")
    assert await engine.prune() == 1
    assert await left(engine) == [mailbox_id("a")]


async def test_what_cannot_be_read_or_stored_is_left_and_logged(
    engine: Engine, driver: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    await ended(engine, *names(6))
    odd = State("odd", 1, labels={f"{n}": "" for n in range(65)}, status=Status.ENDED)
    store = driver._driver
    await store.commit([Writes("odd", (replace(odd, rev=0),))])  # By a library with other bounds.
    driver.damaged = {"job-2"}
    with caplog.at_level(logging.WARNING):
        assert await engine.prune() == 5
    told = [vars(record)["state_id"] for record in caplog.records]
    assert told == ["job-2", "odd"]
    driver.damaged = set()
    assert await left(engine) == ["job-2", "odd"]


@pytest.mark.parametrize("error", [DriverError("full"), CommitUnknownError("token")])
async def test_a_store_that_fails_is_told(
    engine: Engine, driver: Recorder, error: Exception
) -> None:
    await ended(engine, *names(4))
    driver.errors = [None, error]
    with pytest.raises(type(error)):
        await engine.prune(batch=1)
    assert await left(engine) == names(4)[1:]
    assert await engine.prune() == 3


async def test_pruning_stops_with_the_engine(driver: Recorder) -> None:
    flows = FlowRegistry()
    flows.set("work", end)
    async with Engine(driver, flows, clock=FakeClock()) as engine:
        await ended(engine, "a")
    with pytest.raises(EngineStoppedError):
        await engine.prune()


async def test_what_ends_while_it_is_pruned_is_found_or_left(
    engine: Engine, driver: Recorder
) -> None:
    await ended(engine, *names(4))
    pages = 0

    class Ending(Recorder):
        async def get_states(self, query: StateQuery) -> States:
            nonlocal pages
            pages += 1
            if pages == 2:
                await ended(engine, "late")
            return await driver.get_states(query)

    wrapped = Ending()
    wrapped._driver = driver._driver
    async with Engine(wrapped, engine.flows, clock=FakeClock()) as other:
        assert await other.prune(batch=2) == 5
    assert await left(engine) == []


class Sent(DriverWrapper):
    """Lets another process send a message when a commit has found no mailbox.

    Attributes:
        before_commit: the message is on its way.
    """

    before_commit = False

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        found = await super().get_liveness(ids)
        if self.before_commit:
            self.before_commit = False
            kept = Mailbox((Message("note", Raw(b"1")),)).stored_in(State(mailbox_id("s")))
            (verdict,) = await self._driver.commit([Writes("other", (kept,), (), (("s", 1),))])
            assert not isinstance(verdict, Exception)
        return found


async def test_a_message_that_comes_meanwhile_is_forgotten_with_its_receiver() -> None:
    driver = Sent(MemoryDriver(FakeClock()))
    flows = FlowRegistry()
    flows.declare("work")
    async with Engine(driver, flows) as engine:
        ctx = StateContext(State("s"))
        await engine.do(Commit(Transit(ctx, "work")))
        driver.before_commit = True
        await engine.do(Commit(End(ctx), Forget(ctx)))
        for id in ("s", mailbox_id("s")):
            with pytest.raises(StateNotFoundError):
                await engine.get_state(id)
    assert not driver.before_commit
