"""A committed flow eventually completes: on retry, or by force."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

from flowstate import recovery
from flowstate.commands import Command, Commit, Delay, End, Execute, Noop, Pause, Resume, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import Seen
from flowstate.engine import Engine
from flowstate.errors import InvalidCommandError, StateNotFoundError
from flowstate.recovery import Recoverer
from flowstate.registry import FlowRegistry
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import end, raised

__all__ = ["CASES"]

LEASE = 1.0
QUICK = {"lease": LEASE, "poll_interval": 0.05}


def _short(h: Harness) -> timedelta:
    """Return after what time states are recovered here; a busy machine must keep them alive."""
    return timedelta(milliseconds=250 if h.has_fake_clock else 800)


def _quick(h: Harness, id: str, attempts: int | None = None, **state: Any) -> StateContext:
    """Return a new context that is recovered soon."""
    ctx = h.ctx(id, **state)
    recovery.set_retry_after(ctx, _short(h))
    if attempts is not None:
        recovery.set_max_attempts(ctx, attempts)
    return ctx


@contextlib.asynccontextmanager
async def _recovering(h: Harness, engine: Engine | None = None) -> AsyncIterator[Recoverer]:
    async with Recoverer(engine or h.engine, lease=LEASE, poll_interval=0.05) as recoverer:
        yield recoverer


async def _reach(h: Harness, id: str, reached: Callable[[State], bool]) -> State:
    """Wait until a state is as wanted."""
    while True:
        seen = await h.driver.changed(Seen())
        state = await h.engine.get_state(id)
        if reached(state):
            return state
        await h.driver.changed(seen)


async def _ended(h: Harness, id: str) -> State:
    return await _reach(h, id, lambda state: state.status is Status.ENDED)


@case()
async def recovery_of_a_flow_that_fails_at_first(h: Harness) -> None:
    """G11: a flow that makes no progress at first is executed again, and ends."""

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        number = recovery.attempt(ctx.current)
        h.visit(f"attempt {number}")
        if number < 2:
            raise ValueError("not yet")
        return Commit(End(ctx))

    ctx = _quick(h, "job")
    await h.engine.do(Commit(Transit(ctx, "work")))
    async with _recovering(h) as recoverer:
        await h.engine.do(Execute(ctx))
        state = await _ended(h, "job")
        check(recovery.is_dead(state), False, "dead")
        await _counted(h, recoverer, "completed", 1)
        stats = recoverer.stats()
    check(h.visits, ["attempt 0", "attempt 1", "attempt 2"], "visits")
    check(stats.added, 1, "added")
    check((stats.retried, stats.failed, stats.dropped), (2, 1, 0), "retried, failed, dropped")
    log = [s for s in await h.log() if s.id == "job"]
    check([recovery.attempt(s) for s in log], [0, 1, 2, 0], "attempts in the log")


async def _counted(h: Harness, recoverer: Recoverer, what: str, count: int) -> None:
    while getattr(recoverer.stats(), what) < count:
        await h.clock.sleep(0.01)


@case()
async def recovery_of_a_flow_that_always_fails(h: Harness) -> None:
    """G11: it is tried as often as allowed, then ended by force, marked, and can be retried."""
    is_mended = False

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"attempt {recovery.attempt(ctx.current)}")
        if is_mended:
            return Commit(End(ctx))
        raise ValueError("never " * 200)

    ctx = _quick(h, "job", 2, labels={"kind": "x"})
    await h.engine.do(Commit(Transit(ctx, "work", {"with": "love"})))
    async with _recovering(h) as recoverer:
        await h.engine.do(Execute(ctx))
        state = await _ended(h, "job")
        check(recoverer.stats().dropped, 1, "dropped")
        check(h.visits, ["attempt 0", "attempt 1", "attempt 2"], "visits")
        check(state.transition.to, "work", "where it stays")
        (dead,) = [dead async for dead in recovery.dead_states(h.engine, {"kind": "x"})]
        check((dead.state, dead.attempts, dead.at), (state, 2, state.committed_at), "dead state")
        check(dead.error.startswith("ValueError: never never"), True, f"error {dead.error!r}")
        check(len(dead.error) <= 1024, True, "error is bounded")
        check(dead.reason, "made no progress in 2 attempts", "reason")
        check(await recovery.count_dead(h.engine), 1, "count")
        check(await recovery.count_dead(h.engine, {"kind": "y"}), 0, "count of others")
        is_mended = True
        await recovery.retry_dead(h.engine, "job")
        state = await _reach(
            h, "job", lambda s: s.status is Status.ENDED and not recovery.is_dead(s)
        )
    check(h.visits[3:], ["attempt 0"], "visits after the retry")
    check(await recovery.count_dead(h.engine), 0, "count of dead states afterwards")
    retried = next(s for s in await h.log() if s.id == "job" and s.rev > dead.state.rev)
    check(dict(retried.transition.annotations), {"with": "love"}, "annotations of the retry")
    check(dict(retried.labels), {"kind": "x"}, "labels of the retry")


@case()
async def recovery_leaves_alone_what_does_not_want_it(h: Harness) -> None:
    """G11: disabled, paused, ended, delayed and unsent states are left alone."""

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(ctx.current.id)
        return Commit(End(ctx))

    disabled, paused, ended, delayed = (_quick(h, id) for id in ("off", "paused", "ended", "later"))
    recovery.disable(disabled)
    await h.engine.do(Commit(Transit(disabled, "work")))
    await h.engine.do(Commit(Transit(paused, "work"), Pause(paused)))
    await h.engine.do(Commit(Transit(ended, "work"), End(ended)))
    await h.engine.do(Commit(Delay(delayed, "work", after=timedelta(hours=1))))
    await h.engine.do(Commit(Resume(_quick(h, "unsent"))))
    await h.engine.do(Commit(Transit(_quick(h, "stalled"), "work")))
    async with _recovering(h):
        await _ended(h, "stalled")
        await h.clock.sleep(2 * _short(h).total_seconds())
        check(h.visits, ["stalled"], "visits")
        recovery.enable(disabled)
        await h.engine.do(Commit(Transit(disabled, "work")))
        await h.engine.do(Commit(Resume(paused)))
        await _ended(h, "off")
        await _ended(h, "paused")


@case()
async def recovery_of_a_delay_that_fired(h: Harness) -> None:
    """G11: what a fired delay or a resumed state stalls in goes on as if nothing had happened."""

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        attempt = recovery.attempt(ctx.current)
        note = ctx.current.transition.annotations.get("note")
        h.visit(f"{ctx.current.id} {attempt} {ctx.delayed} {ctx.resumed} {note}")
        if not attempt:
            raise ValueError("first time")
        return Commit(End(ctx))

    delayed, resumed = _quick(h, "delayed"), _quick(h, "resumed")
    soon = timedelta(milliseconds=20)
    await h.engine.do(Commit(Delay(delayed, "work", after=soon, annotations={"note": "d"})))
    await h.engine.do(Commit(Transit(resumed, "work"), Pause(resumed)))
    async with Delayer(h.engine), _recovering(h):
        await h.engine.do(Commit(Resume(resumed, {"note": "r"})), Execute(resumed))
        await _ended(h, "delayed")
        await _ended(h, "resumed")
    expected = [
        "delayed 0 True False d",
        "delayed 1 True False d",
        "resumed 0 False True r",
        "resumed 1 False True r",
    ]
    check(sorted(h.visits), expected, "visits")


@case()
async def recovery_leaves_overdue_delays_to_delayers(h: Harness) -> None:
    """G10, G11: a delay that is long overdue is not lost to recovery."""

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{ctx.current.id} {ctx.current.transition.cause}")
        return Commit(End(ctx))

    h.flows.set("first", end)
    soon = timedelta(milliseconds=1)
    within, alone = _quick(h, "within"), _quick(h, "alone")
    await h.engine.do(Commit(Transit(within, "first"), Delay(within, "work", after=soon)))
    await h.engine.do(Commit(Transit(alone, "first")), Delay(alone, "work", after=soon))
    async with _recovering(h) as recoverer:
        while recoverer.stats().skipped.get("delayed") != 2:
            await h.clock.sleep(0.01)
        async with Delayer(h.engine):
            await _ended(h, "within")
            await _ended(h, "alone")
        check(recoverer.stats().retried, 0, "retried")
    check(sorted(h.visits), ["alone delay", "within delay"], "visits")


@case()
async def recovery_waits_for_what_is_alive(h: Harness) -> None:
    """G11: an execution is not taken over, however long it runs, by this engine or another."""

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("begin")
        await h.clock.sleep(5 * _short(h).total_seconds())
        h.visit("end")
        return Commit(End(ctx))

    ctx = h.ctx("long")
    recovery.set_retry_after(ctx, 3 * _short(h))
    async with h.make_engine() as other, _recovering(h, other):
        await h.engine.do(Commit(Transit(ctx, "work")), Execute(ctx))
        await _ended(h, "long")
        await h.engine.idle()
    check(h.visits, ["begin", "end"], "visits")


@case()
async def recovery_of_what_a_crash_left(h: Harness) -> None:
    """G11: a process that dies between commit and execution leaves nothing behind."""
    h.flows.set("work", end)
    for number in range(20):
        await h.engine.do(Commit(Transit(_quick(h, f"left {number}"), "work")))
    async with _recovering(h) as recoverer:
        for number in range(20):
            await _ended(h, f"left {number}")
        await _counted(h, recoverer, "completed", 20)
    check(recoverer.stats().retried, 20, "retried")


@case()
async def recovery_is_not_held_up_by_one_state(h: Harness) -> None:
    """G12: unknown flows, failing flows and hanging flows delay no other state."""

    @h.flows.flow("fail")
    async def fail(ctx: StateContext, engine: Engine) -> Command[None]:
        raise ValueError("always")

    @h.flows.flow("hang")
    async def hang(ctx: StateContext, engine: Engine) -> Command[None]:
        await asyncio.Event().wait()
        return Noop()

    h.flows.set("work", end)
    h.flows.declare("elsewhere")
    for number in range(5):
        for flow in ("fail", "hang", "elsewhere", "work"):
            ctx = _quick(h, f"{flow} {number}", attempts=1)
            await h.engine.do(Commit(Transit(ctx, flow)))
    async with _recovering(h) as recoverer:
        for number in range(5):
            await _ended(h, f"work {number}")
            dead = await _ended(h, f"fail {number}")
            check(recovery.is_dead(dead), True, "dead")
        await _counted(h, recoverer, "dropped", 5)
        left = await h.engine.get_state("elsewhere 0")
        check((left.rev <= 20, recovery.attempt(left)), (True, 0), "left as it was")
        why = await recovery.explain(h.engine, "elsewhere 0")
        check(why.why, "unknown flow", "explanation")


@case()
async def recovery_by_the_engine_that_has_the_flow(h: Harness) -> None:
    """G11: a flow that the leader of one group does not know is recovered by another group."""
    h.flows.declare("theirs")
    ctx = _quick(h, "job")
    await h.engine.do(Commit(Transit(ctx, "theirs")))
    theirs = FlowRegistry()
    theirs.set("theirs", end)
    async with (
        Engine(h.driver, theirs, clock=h.clock) as other,
        Recoverer(h.engine, **QUICK),  # type: ignore[arg-type]
        Recoverer(other, group="theirs", **QUICK) as recoverer,  # type: ignore[arg-type]
    ):
        await _ended(h, "job")
        await _counted(h, recoverer, "completed", 1)


@case()
async def recovery_with_no_attempt_left_is_by_force(h: Harness) -> None:
    """G11: with no attempts allowed a stalled state is ended without being executed."""
    h.flows.set("work", end)
    await h.engine.do(Commit(Transit(_quick(h, "job", 0), "work")))
    async with _recovering(h):
        state = await _ended(h, "job")
    check((recovery.is_dead(state), h.visits), (True, []), "dead, and never executed")


@case()
async def recovery_counts_progress(h: Harness) -> None:
    """G11: attempts count from 0 again after progress."""

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        step = int(ctx.current.annotations.get("step", "0"))
        attempt = recovery.attempt(ctx.current)
        h.visit(f"step {step}, attempt {attempt}")
        if attempt < 1:
            raise ValueError("first attempt of each step")
        if step == 1:
            return Commit(End(ctx))
        ctx.set_annotation("step", str(step + 1))
        return Commit(Transit(ctx, "work"))

    ctx = _quick(h, "job", 1)
    await h.engine.do(Commit(Transit(ctx, "work")))
    async with _recovering(h):
        await h.engine.do(Execute(ctx))
        state = await _ended(h, "job")
    check(recovery.is_dead(state), False, "dead")
    expected = [f"step {step}, attempt {attempt}" for step in range(2) for attempt in range(2)]
    check(h.visits, expected, "visits")


@case()
async def recovery_keeps_the_idempotency_key(h: Harness) -> None:
    """G11: every attempt of a step has the same key, and other steps have others."""

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(recovery.idempotency_key(ctx))
        if recovery.attempt(ctx.current) < 1:
            raise ValueError("not yet")
        if ctx.current.annotations.get("again"):
            return Commit(End(ctx))
        ctx.set_annotation("again", "yes")
        return Commit(Transit(ctx, "work"))

    ctx = _quick(h, "job")
    await h.engine.do(Commit(Transit(ctx, "work")), Execute(ctx))
    async with _recovering(h):
        await _ended(h, "job")
    check(len(h.visits), 4, "executions")
    check([len(set(h.visits[:2])), len(set(h.visits[2:]))], [1, 1], "keys of each step")
    check(h.visits[0] != h.visits[2], True, "steps differ")


@case()
async def recovery_of_all_dead_by_label(h: Harness) -> None:
    """G11: dead states are retried by label, and only those."""
    is_mended = False

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        if not is_mended:
            raise ValueError("not yet")
        return Commit(End(ctx))

    ids = [(f"{kind} {number}", kind) for kind in ("a", "b") for number in range(3)]
    for id, kind in ids:
        await h.engine.do(Commit(Transit(_quick(h, id, 0, labels={"kind": kind}), "work")))
    async with _recovering(h):
        for id, _ in ids:
            await _ended(h, id)
    is_mended = True
    check(await recovery.retry_all_dead(h.engine, {"kind": "a"}), 3, "retried")
    await h.engine.idle()
    check(await recovery.count_dead(h.engine), 3, "still dead")
    check(await recovery.retry_all_dead(h.engine), 3, "retried")
    await h.engine.idle()
    statuses = {(await h.engine.get_state(id)).status for id, _ in ids}
    check((statuses, await recovery.count_dead(h.engine)), ({Status.ENDED}, 0), "all ended")
    error = await raised(InvalidCommandError, recovery.retry_dead, h.engine, "a 0")
    check("is not dead" in str(error), True, str(error))
    await raised(StateNotFoundError, recovery.retry_dead, h.engine, "unknown")


CASES: tuple[Case, ...] = (
    recovery_of_a_flow_that_fails_at_first,
    recovery_of_a_flow_that_always_fails,
    recovery_leaves_alone_what_does_not_want_it,
    recovery_of_a_delay_that_fired,
    recovery_leaves_overdue_delays_to_delayers,
    recovery_waits_for_what_is_alive,
    recovery_of_what_a_crash_left,
    recovery_is_not_held_up_by_one_state,
    recovery_by_the_engine_that_has_the_flow,
    recovery_with_no_attempt_left_is_by_force,
    recovery_counts_progress,
    recovery_keeps_the_idempotency_key,
    recovery_of_all_dead_by_label,
)
