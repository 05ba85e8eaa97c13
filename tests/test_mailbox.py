"""Messages to states: delivered, kept, and received in order, as part of any commit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    Forget,
    InvalidCommandError,
    Pause,
    Receive,
    Resume,
    Retry,
    SetTimer,
    Stack,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Transit,
    Unstack,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.turns import turns_of
from tests.receivers import begun, latest, paused, received, receiving, waiting
from tests.scripted import Scripted

HOUR = timedelta(hours=1)


class Order(msgspec.Struct):
    cart: list[str]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Scripted:
    return Scripted(MemoryDriver(clock))


@pytest.fixture
def got() -> list[tuple[str, Any]]:
    """Names and values of the messages with which the flow ``next`` was entered."""
    return []


@pytest.fixture
def flows(got: list[tuple[str, Any]]) -> FlowRegistry:
    return receiving(got)


@pytest.fixture
async def engine(driver: Scripted, flows: FlowRegistry, clock: FakeClock) -> AsyncIterator[Engine]:
    async with Engine(driver, flows, clock=clock, rng=Random(1)) as engine:
        yield engine
        assert turns_of(driver.store_id)._lines == {}


# Delivered


async def test_a_state_that_waits_gets_it_by_one_commit_and_goes_on(
    engine: Engine, got: list[tuple[str, Any]]
) -> None:
    ctx = StateContext(State("a"))
    await engine.start(ctx, "wait")
    assert (await paused(engine)).rev == 2
    assert await engine.signal("a", "n", Order(["tea"]))
    await engine.wait_for("a", until=lambda state: state.rev == 4)
    assert got == [("n", {"cart": ["tea"]})]
    log = [(s.id, s.transition.cause, s.transition.to) async for s in engine.states()]
    assert log == [
        ("a", "transit", "wait"),
        ("a", "pause", "wait"),
        ("a", "signal", "next"),
        ("a", "pause", "next"),
    ]
    assert (await engine.get_state("a")).get(Order, "n") == Order(["tea"])


async def test_a_message_for_which_it_does_not_wait_is_kept(engine: Engine) -> None:
    await waiting(engine)
    assert await engine.signal("a", "other", 1)
    assert (await engine.get_state("a")).status is Status.PAUSED
    assert await engine.signal("a", "m", 2)
    ctx = await latest(engine)
    assert (ctx.signal, ctx.get(int, "m")) == ("m", 2)
    assert await received(engine, "other") == [("other", 1)]


async def test_an_engine_without_the_flow_leaves_it_to_one_that_has_it(
    driver: Scripted, engine: Engine, clock: FakeClock, got: list[tuple[str, Any]]
) -> None:
    await engine.start(StateContext(State("a")), "wait")
    await paused(engine)
    head = await engine.head()
    async with Engine(driver, FlowRegistry(), clock=clock) as other, Delayer(engine):
        assert await other.signal("a", "m", 1)
        assert await other.head() == head + 1
        await engine.wait_for("a", until=lambda state: state.rev == head + 2)
    delivered, last = [state async for state in engine.states(since_rev=head)]
    assert (delivered.transition.cause, delivered.status) == ("signal", Status.ACTIVE)
    assert (last.transition.cause, last.transition.origin) == ("pause", f"{head + 1}")
    assert got == [("m", 1)]


async def test_a_change_without_a_step_keeps_it_waiting(engine: Engine) -> None:
    await waiting(engine)
    await engine.update("a", lambda ctx: ctx.set_label("kind", "x"))
    await engine.signal("a", "m", 1)
    ctx = await latest(engine)
    assert (ctx.signal, ctx.current.labels) == ("m", {"kind": "x"})


@pytest.mark.parametrize("command", [Retry, Resume, Pause])
async def test_one_that_was_moved_on_does_not_wait_any_more(
    engine: Engine, command: Callable[[StateContext], Command[None]]
) -> None:
    ctx = await waiting(engine)
    await engine.do(Commit(command(ctx)))
    await engine.signal("a", "m", 1)
    assert await engine.get_state("a") == ctx.committed
    assert await received(engine) == [("m", 1)]


# Kept


async def test_messages_are_received_in_their_order_by_their_names(engine: Engine) -> None:
    await begun(engine)
    for value in range(3):
        await engine.signal("a", "n", value)
        await engine.signal("a", "m", value)
    assert await received(engine, "m") == [("m", 0), ("m", 1), ("m", 2)]
    await engine.do(Commit(Transit(await latest(engine), "elsewhere")))
    await engine.signal("a", "m", 3)
    assert await received(engine) == [("n", 0), ("n", 1), ("n", 2), ("m", 3)]


async def test_those_of_one_process_come_in_the_order_in_which_they_were_sent(
    engine: Engine,
) -> None:
    await begun(engine)
    await asyncio.gather(*(engine.signal("a", "m", value) for value in range(20)))
    assert await received(engine) == [("m", value) for value in range(20)]


async def test_a_message_may_come_before_the_state(engine: Engine) -> None:
    with pytest.raises(StateNotFoundError, match="'a'"):
        await engine.signal("a", "m", 1)
    assert await engine.signal("a", "m", 1, early=True)
    await begun(engine)
    assert await received(engine) == [("m", 1)]


async def test_one_that_is_delayed_keeps_its_delay(engine: Engine, clock: FakeClock) -> None:
    ctx = await begun(engine)
    await engine.do(Commit(Delay(ctx, "wait", after=HOUR)))
    await engine.signal("a", "m", 1)
    assert await engine.get_state("a") == ctx.committed
    async with Delayer(engine):
        await engine.wait_for("a", until=lambda state: state.transition.cause == "signal")
    assert clock.monotonic() == HOUR.total_seconds()


async def test_one_that_waits_and_is_delayed_takes_what_comes_first(engine: Engine) -> None:
    for id in ("a", "b"):
        ctx = await begun(engine, id)
        await engine.do(Commit(Receive(ctx, "m", to="elsewhere"), Delay(ctx, "next", after=HOUR)))
    await engine.signal("a", "m", 1)
    delays = await engine.get_delayed_states()
    # That of the first is gone; it goes on where its flow is.
    assert [(d.state.id, d.to) for d in delays.delayed] == [("a", "elsewhere"), ("b", "next")]


async def test_a_timer_ends_a_wait(engine: Engine, flows: FlowRegistry) -> None:
    @flows.flow("ask")
    async def ask(ctx: StateContext, engine: Engine) -> Command[None]:
        late = SetTimer(ctx, "late", "expire", after=HOUR)
        return Commit(Receive(ctx, "yes", to="answer"), late)

    @flows.flow("expire")
    async def expire(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx, {"why": "late"}))

    @flows.flow("answer")
    async def answer(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx, {"why": "answered"}))

    async with Delayer(engine):
        for id in ("a", "b"):
            await engine.start(StateContext(State(id)), "ask")
            await paused(engine, id)
        await engine.signal("a", "yes")
        found = [await engine.wait_for(id, status=Status.ENDED) for id in ("a", "b")]
    assert [state.transition.annotations["why"] for state in found] == ["answered", "late"]


async def test_one_that_has_ended_takes_nothing(engine: Engine) -> None:
    ctx = await waiting(engine)
    await engine.do(Commit(End(ctx)))
    for options in ({}, {"early": True}, {"key": "k"}):
        with pytest.raises(InvalidCommandError, match="'a' has ended"):
            await engine.signal("a", "m", 1, **options)
    await engine.do(Commit(Transit(ctx, "elsewhere")))  # As an operator may.
    assert await engine.signal("a", "m", 1)


async def test_one_that_was_forgotten_begins_again_without_the_messages_and_keys_of_before(
    engine: Engine,
) -> None:
    ctx = await begun(engine)
    assert await engine.signal("a", "m", 1, key="k")
    await engine.do(Commit(End(ctx), Forget(ctx)))
    with pytest.raises(StateNotFoundError):
        await engine.signal("a", "m", 2, key="k")
    assert [state.id async for state in engine.states(latest_only=True)] == []
    await begun(engine)
    assert await engine.signal("a", "m", 3, key="k")
    assert await received(engine) == [("m", 3)]


# As part of commits


async def test_it_is_a_commit_by_itself(engine: Engine, flows: FlowRegistry) -> None:
    @flows.flow("bare")
    async def bare(ctx: StateContext, engine: Engine) -> Command[None]:
        return Receive(ctx, "m", to="next")

    await engine.start(StateContext(State("a")), "bare")
    assert (await paused(engine)).rev == 2
    ctx = await begun(engine, "b")
    await engine.signal("b", "m", 1)
    await engine.do(Receive(ctx, "m", to="elsewhere"))
    assert (ctx.signal, ctx.committed.status) == ("m", Status.ACTIVE)


async def test_several_states_receive_in_one_commit(engine: Engine) -> None:
    contexts = [await begun(engine, id) for id in ("b", "a", "c")]
    await engine.signal("a", "m", 1)
    await engine.signal("b", "n", 2)
    await engine.do(Commit(*(Receive(ctx, "m", "n", to="elsewhere") for ctx in contexts)))
    assert [(ctx.signal, ctx.current.status.value) for ctx in contexts] == [
        ("n", "active"),
        ("m", "active"),
        ("", "paused"),
    ]
    assert await received(engine, id="a") == await received(engine, id="b") == []


async def test_a_receiver_that_is_new_or_has_just_taken_a_step_waits(engine: Engine) -> None:
    new = StateContext(State("new"))
    await engine.do(Commit(Receive(new, "m", to="next")))
    moved = StateContext(State("moved"))
    await engine.do(Transit(moved, "wait"))
    await engine.do(Commit(Transit(moved, "next"), Receive(moved, "m", to="next")))
    for ctx in (new, moved):
        assert ctx.current.status is Status.PAUSED
        assert await engine.signal(ctx.current.id, "m", 1)
        await engine.wait_for(ctx.current.id, until=lambda state: state.get(int, "m", default=0))


async def test_a_receiver_may_be_stacked_after_it_has_received(engine: Engine) -> None:
    ctx, carrier = await begun(engine), StateContext(State("b"))
    await engine.do(Commit(Receive(ctx, "m", to="elsewhere"), Stack(carrier, ctx, "x")))
    out = StateContext(State("c"))
    await engine.do(Unstack(carrier, out, "x"))
    assert (out.current.id, out.current.status) == ("a", Status.PAUSED)
    await engine.signal("a", "m", 1)
    assert (await latest(engine)).signal == "m"


async def test_a_state_that_is_unstacked_by_the_same_commit_receives(engine: Engine) -> None:
    ctx, carrier, out = await begun(engine), StateContext(State("b")), StateContext(State("c"))
    await engine.do(Commit(Stack(carrier, ctx, "x")))
    await engine.signal("a", "m", 1)
    await engine.do(Commit(Unstack(carrier, out, "x"), Receive(out, "m", to="elsewhere")))
    assert (out.current.id, out.signal, await received(engine)) == ("a", "m", [])


async def test_names_and_contexts_are_told_by_the_command() -> None:
    ctx = StateContext(State("a"))
    command = Receive(ctx, "m", "n", to="next")
    assert (command.ctx, command.names, command.to) == (ctx, ("m", "n"), "next")
    assert command == Receive(ctx, "m", "n", to="next") != Receive(ctx, "m", to="next")
    with pytest.raises(AttributeError):
        command.to = "other"  # type: ignore[misc]


async def test_a_key_that_was_seen_does_not_hide_that_there_is_no_such_state(
    engine: Engine,
) -> None:
    assert await engine.signal("to come", "m", 1, key="k", early=True)
    with pytest.raises(StateNotFoundError):
        await engine.signal("to come", "m", 1, key="k")
    assert not await engine.signal("to come", "m", 1, key="k", early=True)
