"""Messages to states: none missed, none doubled, none stuck, whatever the state does meanwhile."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import Any

from flowstate.commands import Command, Commit, Delay, End, Forget, Put, SetTimer, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.errors import (
    DamagedRevisionError,
    InvalidCommandError,
    InvalidInputError,
    MailboxFullError,
    StateNotFoundError,
)
from flowstate.mailboxes.mailbox import mailbox_id
from flowstate.mailboxes.receiving import Receive
from flowstate.registry import FlowRegistry
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, delays_of, in_another_loop, know, raised

__all__ = ["CASES"]

HOUR = timedelta(hours=1)
SOON = timedelta(milliseconds=20)


def _receiving(h: Harness) -> None:
    """Register flows that note each message, and wait for the next one."""

    @h.flows.flow("wait")
    def wait(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(Receive(ctx, "m", "n", to="got"))

    @h.flows.flow("got")
    async def got(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{ctx.current.id} {ctx.signal} {ctx.get(int, ctx.signal)}")
        return Commit(Receive(ctx, "m", "n", to="got"))


async def _paused(h: Harness, id: str = "a") -> State:
    return await h.engine.wait_for(id, status=Status.PAUSED)


async def _all(h: Harness, id: str = "a") -> list[Any]:
    """Receive until nothing is left, and return the values."""
    if "got" not in h.flows:
        h.flows.declare("got")
    found: list[Any] = []
    ctx = StateContext(await h.engine.get_state(id))
    while True:
        await h.engine.do(Commit(Receive(ctx, "m", "n", to="got")))
        if ctx.committed.status is Status.PAUSED:
            return found
        found.append(ctx.get(object, ctx.signal))


@case()
async def signal_to_one_that_waits(h: Harness) -> None:
    """G1: a message to a state that waits is one revision, and the state goes on with it."""
    _receiving(h)
    await h.engine.start(h.ctx("a"), "wait")
    await _paused(h)
    check(await h.engine.signal("a", "n", 5), True, "whether it was sent")
    await h.visited("a n 5")
    await h.engine.wait_for("a", until=lambda state: state.rev == 4)
    log = [(s.id, s.transition.cause, s.transition.to, s.status.value) for s in await h.log()]
    expected = [
        ("a", "transit", "wait", "active"),
        ("a", "pause", "wait", "paused"),
        ("a", "signal", "got", "active"),
        ("a", "pause", "got", "paused"),
    ]
    check(log, expected, "log")


@case()
async def signals_are_kept_in_order(h: Harness) -> None:
    """G4: messages that are not waited for are received later, in the order of their sending."""
    ctx = await committed(h, "a")
    for value in range(5):
        await h.engine.signal("a", "mn"[value % 2], value)
    check(await h.engine.get_state("a"), ctx.committed, "the state, which was left alone")
    check(await _all(h), [0, 1, 2, 3, 4], "what was received")
    check((await h.engine.get_state(mailbox_id("a"))).status, Status.PAUSED, "the mailbox")


@case()
async def signals_with_keys(h: Harness) -> None:
    """G8: of messages with one key one comes, however often and wherever it is sent."""
    await committed(h, "a")
    sent = [h.engine.signal("a", "m", value, key="k") for value in range(5)]
    check(sorted(await asyncio.gather(*sent)), [False] * 4 + [True], "which were new")
    check(len(await _all(h)), 1, "how many were received")
    for expected in (True, False):  # Delivered by then, since it waits.
        check(await h.engine.signal("a", "m", 9, key="l"), expected, "whether it was new")
    ctx = StateContext(await h.engine.get_state("a"))
    await h.engine.do(Commit(End(ctx)))
    check(await h.engine.signal("a", "m", 9, key="l"), False, "whether it was new in the end")


@case()
async def signals_before_and_after_a_life(h: Harness) -> None:
    """G2: a message may be early if it says so; none comes after the end or into another life."""
    await raised(StateNotFoundError, h.engine.signal, "a", "m", 1)
    await h.engine.signal("a", "m", 1, early=True)
    ctx = await committed(h, "a")
    check(await _all(h), [1], "what was early")
    ctx = StateContext(await h.engine.get_state("a"))
    await h.engine.do(Commit(Transit(ctx, "work")))
    await h.engine.signal("a", "m", 2, key="k")
    await h.engine.do(Commit(End(ctx)))
    await raised(InvalidCommandError, h.engine.signal, "a", "m", 3, early=True)
    await h.engine.do(Commit(Forget(ctx)))
    await raised(StateNotFoundError, h.engine.get_state, mailbox_id("a"))
    await committed(h, "a")
    check(await h.engine.signal("a", "m", 4, key="k"), True, "whether the key is new")
    check(await _all(h), [4], "what comes in the next life")


@case()
async def messages_are_taken_without_waiting(h: Harness) -> None:
    """G1: one that need not wait takes a message with what it stores, or goes on as it is."""
    h.flows.declare("got")
    ctx = await committed(h, "a")
    for left, expected in (("first", None), ("second", 1), ("third", None)):
        ctx.put(left, "left")
        await h.engine.do(Commit(Put(ctx), Receive(ctx, "m", to="got", wait=False)))
        check(ctx.committed.get(str, "left"), left, "what it has stored")
        check(ctx.committed.get(int, "m", None), expected, "the message")
        check(ctx.committed.status, Status.ACTIVE, "status")
        ctx.remove("m")
        if left == "first":
            await h.engine.signal("a", "m", 1)
    late = Receive(ctx, "m", to="got", wait=False, timeout=HOUR, timeout_to="got")
    await raised(InvalidCommandError, h.engine.do, Commit(late))


@case()
async def signals_to_one_that_is_delayed_or_has_a_timer(h: Harness) -> None:
    """G10: a message that is kept leaves a delay alone, and a timer ends a wait for one."""
    _receiving(h)
    know(h, "late")
    delayed = await committed(h, "delayed")
    await h.engine.do(Commit(Delay(delayed, "wait", after=SOON)))
    timed = await committed(h, "timed")
    timer = SetTimer(timed, "late", "late", after=SOON)
    await h.engine.do(Commit(Receive(timed, "m", to="got"), timer))
    await h.engine.signal("delayed", "m", 1)
    async with Delayer(h.engine):
        await h.visited("delayed m 1")
        state = await h.engine.wait_for("timed", status=Status.ENDED)
    check((state.transition.to, h.visits), ("late", ["delayed m 1"]), "what has come of both")


def _timed(h: Harness) -> None:
    """Register flows that note what has ended a wait."""

    @h.flows.flow("taken")
    def taken(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{ctx.current.id} {ctx.signal}")
        return Commit(End(ctx))

    @h.flows.flow("late")
    def late(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{ctx.current.id} {ctx.timer}")
        return Commit(Receive(ctx, "m", to="taken"))


async def _wait(h: Harness, id: str, after: timedelta) -> StateContext:
    ctx = await committed(h, id)
    await h.engine.do(Commit(Receive(ctx, "m", to="taken", timeout=after, timeout_to="late")))
    return ctx


@case()
async def timeout_ends_with_its_wait(h: Harness) -> None:
    """G10: the commit that ends a wait drops its timeout, whatever ends it."""
    _timed(h)
    for id in ("signal", "step", "again", "update"):
        ctx = await _wait(h, id, HOUR)
        check([d.timer for d in await delays_of(h)], ["flowstate.wait"], f"timers of {id!r}")
        match id:
            case "signal":
                await h.engine.signal(id, "m", 1)
            case "step":
                await h.engine.do(Commit(Transit(ctx, "work")))
            case "again":
                await h.engine.do(Commit(Receive(ctx, "m", to="taken")))
            case "update":
                state = await h.engine.update(id, lambda ctx: ctx.put(1))
                check(list(state.timers), ["flowstate.wait"], "what an update has left")
                await h.engine.do(Commit(End(StateContext(state))))
        check((await h.engine.get_state(id)).timers, {}, f"timers of {id!r} in the end")
        check(await delays_of(h), [], f"what is left of {id!r}")
    await committed(h, "early")
    await h.engine.signal("early", "m", 1)
    early = StateContext(await h.engine.get_state("early"))
    await h.engine.do(Commit(Receive(early, "m", to="taken", timeout=HOUR, timeout_to="late")))
    check((early.signal, await delays_of(h)), ("m", []), "with a message that was there")


@case()
async def timeout_that_was_passed_before_a_crash(h: Harness) -> None:
    """G10: a message that came in time counts, although its flow runs after the timeout."""
    _timed(h)
    await _wait(h, "a", SOON)
    async with Engine(h.driver, FlowRegistry(), clock=h.clock) as without_flows:
        await without_flows.signal("a", "m", 1)
    await h.clock.sleep(3 * SOON.total_seconds())
    async with Delayer(h.engine):
        await h.engine.wait_for("a", status=Status.ENDED)
    check(h.visits, ["a m"], "visits")


@case()
async def timeout_and_message_at_once(h: Harness) -> None:
    """G2: of a timeout and a message that come at once one wins, and no message is lost."""
    _timed(h)
    ids = [f"s-{number}" for number in range(10)]
    async with Delayer(h.engine, poll_interval=0.01):
        for id in ids:
            await _wait(h, id, SOON)
        await h.clock.sleep(SOON.total_seconds() - 0.002)
        await asyncio.gather(*(h.engine.signal(id, "m", 1) for id in ids))
        for id in ids:
            await h.engine.wait_for(id, status=Status.ENDED)
    check(sorted(v for v in h.visits if v.endswith(" m")), [f"{id} m" for id in ids], "messages")
    for id in ids:
        causes = [s.transition.cause for s in await h.log() if s.id == id]
        check(causes.count("signal"), 1, f"how often {id!r} got its message")
        check(causes.count("timer") <= 1, True, f"whether the timeout of {id!r} came once at most")
        is_late = f"{id} flowstate.wait" in h.visits
        check(is_late, "timer" in causes, f"whether {id!r} was late")


@case("shared")
async def signals_from_another_process(h: Harness) -> None:
    """G1, G10: a process without the flows delivers a message, and another one goes on with it."""
    _receiving(h)
    await h.engine.start(h.ctx("a"), "wait")
    await _paused(h)
    async with (
        h.other_driver() as driver,
        Engine(driver, FlowRegistry(), clock=h.clock) as other,
        Delayer(h.engine),
    ):
        await other.signal("a", "m", 1)
        await h.visited("a m 1")
        await other.wait_for("a", until=lambda s: s.status is Status.PAUSED and s.rev == 4)
        for value in range(2, 12):
            await other.signal("a", "n", value)
        await h.visited("a m 1", *(f"a n {value}" for value in range(2, 12)))


async def _send(engine: Engine, values: Sequence[int]) -> None:
    for value in values:
        key = f"{value}" if value % 2 else None
        await engine.signal(f"r-{value % 3}", "m", value, key=key)
        if value % 4 == 1:
            await engine.signal(f"r-{value % 3}", "m", value, key=key)


@case("shared", real_time=True)
async def signals_of_many_at_once(h: Harness) -> None:
    """G2, G8: of messages of many senders to states that run and wait none is missed or doubled."""
    _receiving(h)
    values = list(range(90))
    Random(1).shuffle(values)  # noqa: S311 - no secret

    async def send_others(engine: Engine) -> None:
        await asyncio.gather(*(_send(engine, values[n::6]) for n in range(3)))

    async with Delayer(h.engine):
        for n in range(3):
            await h.engine.start(h.ctx(f"r-{n}"), "wait")
        own = [_send(h.engine, values[n::6]) for n in range(3, 6)]
        await asyncio.gather(in_another_loop(h, send_others), *own)
        await h.until(lambda visits: len(visits) >= len(values))
        for n in range(3):
            await _paused(h, f"r-{n}")
    check(sorted(h.visits), sorted(f"r-{n % 3} m {n}" for n in values), "what has come")


@case("shared", real_time=True)
async def signals_to_one_that_always_moves(h: Harness) -> None:
    """G12: a state that another process moves on all the time keeps no message away."""
    await committed(h, "a")
    done = threading.Event()

    async def keep_moving(engine: Engine) -> None:
        engine.flows.declare("work")
        ctx = StateContext(await engine.get_state("a"))
        while not done.is_set():
            await engine.do(Commit(Transit(ctx, "work")))

    moving = asyncio.ensure_future(in_another_loop(h, keep_moving))
    try:
        for value in range(5):
            await h.engine.signal("a", "m", value, key=f"{value}")
    finally:
        done.set()
        await moving
    check(await _all(h), [0, 1, 2, 3, 4], "what was received")


@case("durable")
async def messages_survive(h: Harness) -> None:
    """G7: what was kept, which keys were seen, and who waits, is known to the next process."""
    _receiving(h)
    await committed(h, "kept")
    await h.engine.signal("kept", "m", 1, key="k")
    await h.engine.start(h.ctx("waiting"), "wait")
    await _paused(h, "waiting")
    await h.reopen()
    check(await h.engine.signal("kept", "m", 1, key="k"), False, "whether the key is new")
    check(await _all(h, "kept"), [1], "what was kept")
    await h.engine.signal("waiting", "m", 2)
    await h.visited("waiting m 2")


@case()
async def many_keys_survive_compaction(h: Harness) -> None:
    """G13: keys that are stored apart from the mailbox stay as long as they are referred to."""
    await committed(h, "a")
    for number in range(260):
        await h.engine.signal("a", "m", number, key=f"{number}")
        if number % 100 == 99:
            await _all(h)
    await h.engine.compact(await h.engine.head())
    for number in (0, 249, 250, 259):
        check(await h.engine.signal("a", "m", 0, key=f"{number}"), False, f"key {number} is new")
    # One of the last 60 was delivered at once.
    check(len(await _all(h)), 59, "how many were left")


@case()
async def mailboxes_are_bounded(h: Harness) -> None:
    """G13, G14: a mailbox has as many bytes as the values of a state; more is refused."""
    await committed(h, "a")
    large = "x" * 400_000
    for _ in range(2):
        await h.engine.signal("a", "m", large)
    await raised(MailboxFullError, h.engine.signal, "a", "m", large)
    await raised(InvalidInputError, h.engine.signal, "a", "m", "x" * 10_000_000)
    head = await h.engine.head()
    check(await _all(h), [large] * 2, "what was received")
    check(await h.engine.head(), head + 5, "head")


@case("damage")
async def damaged_mailbox(h: Harness) -> None:
    """G15: a mailbox that cannot be read is named, and hides no other one."""
    for id in "ab":
        await committed(h, id)
        await h.engine.signal(id, "m", 1)
    await h.damage("revision", mailbox_id("a"))
    error = await raised(DamagedRevisionError, h.engine.signal, "a", "m", 2)
    check(error.id, mailbox_id("a"), "what is damaged")
    await raised(DamagedRevisionError, _all, h, "a")
    check(await _all(h, "b"), [1], "the other one")


CASES: tuple[Case, ...] = (
    signal_to_one_that_waits,
    signals_are_kept_in_order,
    signals_with_keys,
    signals_before_and_after_a_life,
    messages_are_taken_without_waiting,
    signals_to_one_that_is_delayed_or_has_a_timer,
    timeout_ends_with_its_wait,
    timeout_that_was_passed_before_a_crash,
    timeout_and_message_at_once,
    signals_from_another_process,
    signals_of_many_at_once,
    signals_to_one_that_always_moves,
    messages_survive,
    many_keys_survive_compaction,
    mailboxes_are_bounded,
    damaged_mailbox,
)
