"""Revisions that only change a state: they keep its delays, and when it stalls."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec.structs import replace

from flowstate.commands import Command, Commit, Delay, End, Pause, Put, SetTimer, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import (
    Claim,
    DelayedState,
    DueQuery,
    Heartbeat,
    Liveness,
    NewDelay,
    Verdict,
    Writes,
)
from flowstate.engine import Engine
from flowstate.errors import ClaimLostError
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.recovery import Recoverer, set_retry_after
from flowstate.recovery_rules import DISABLED, RETRY_AFTER
from flowstate.state import State, Status, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, delays_of, encoded, know, stored, timer, visiting

__all__ = ["CASES"]

HOUR = timedelta(hours=1)
LEASE = 3.0  # Seconds; what has lost a race fires again after a part of them.
WORKING = Transition("work")
OWN = FrozenDict({RETRY_AFTER: "600"})


def _delay(state: State, due: datetime, put: int | None = 0) -> NewDelay:
    return NewDelay(state, "work", EMPTY, due, None, commit=True, body="", put=put)


async def _named(h: Harness) -> list[tuple[str, State]]:
    """Return all delays and timers, the earliest first."""
    page = await h.driver.get_due(DueQuery("delay", everything=True))
    return [(each.id, each.state) for each in page.due]


async def _now(h: Harness) -> datetime:
    return (await h.driver.get_due(DueQuery("delay"))).now


async def _keep(h: Harness, token: str, state: State, **changes: object) -> State:
    """Put a state that keeps its delays."""
    (kept,) = await stored(h, Writes(token, (replace(state, **changes),), keeps=(0,)))
    return kept


async def _liveness(h: Harness, id: str = "a") -> Liveness:
    (found,) = await h.driver.get_liveness([id])
    if found is None:
        raise AssertionError(f"nothing is known about {id!r}")
    return found


async def _verdicts(h: Harness, *batch: Writes) -> list[Verdict]:
    """Commit in batches as large as the driver takes them."""
    size, verdicts = h.driver.max_batch_size, list[Verdict]()
    for start in range(0, len(batch), size):
        verdicts += await h.driver.commit([encoded(w) for w in batch[start : start + size]])
    return verdicts


# As the driver sees it


@case()
async def kept_delays_have_the_new_revision(h: Harness) -> None:
    """G10: a put that keeps delays gives them its revision; only one by itself goes."""
    now = await _now(h)
    new = State("a", transition=WORKING)
    delays = (_delay(new, now + HOUR), _delay(new, now + 2 * HOUR))
    alarm = timer("t", now + 3 * HOUR)
    (state,) = await stored(h, Writes("begin", (new,), delays=delays, timers=(alarm,)))
    await stored(h, Writes("alone", delays=(_delay(state, now, None),)))
    check(len(await _named(h)), 4, "delays and timers")
    for token in ("one", "two"):
        state = await _keep(h, token, state, labels=FrozenDict({"a": token}))
        check(state.delayed_until, now + HOUR, "until when it is delayed")
        check(await h.driver.get_state("a"), state, "the state")
        check(await _named(h), _three(state), f"what is left after put {token}")
        check((await _liveness(h)).delay_due, now + HOUR, "when the first delay is due")
    await h.driver.compact(state.rev + 1)
    check(await _named(h), _three(state), "what is left after a compaction")
    (state,) = await stored(h, Writes("move", (replace(state, delayed_until=None),)))
    check(await _named(h), [("t", state)], "what is left after another put")


def _three(state: State) -> list[tuple[str, State]]:
    return [(id, state) for id in ("begin.0", "begin.1", "t")]


@case()
async def kept_delays_stay_claimed(h: Harness) -> None:
    """G10: a delay that is claimed and kept belongs to its holder, and is dropped by it alone."""
    now, new = await _now(h), State("a", transition=WORKING)
    (state,) = await stored(h, Writes("begin", (new,), delays=(_delay(new, now),)))

    async def claim(token: str, holder: str) -> bool:
        writes = Writes(token, claims=(Claim("begin.0", holder, 60.0),))
        (verdict,) = await h.driver.commit([writes])
        return not isinstance(verdict, ClaimLostError)

    check(await claim("1", "one"), True, "whether it was granted")
    state = await _keep(h, "keep", state)
    check([await claim("2", "two"), await claim("3", "one")], [False, True], "claims after that")
    check(await _named(h), [("begin.0", state)], "what is left")


@case()
async def kept_delays_within_a_batch(h: Harness) -> None:
    """G10: commits of one batch keep and drop what those before them have left."""
    now, new = await _now(h), State("a", transition=WORKING)
    (state,) = await stored(h, Writes("0", (new,), delays=(_delay(new, now + HOUR),)))

    def put(number: int, **writes: object) -> Writes:
        put = replace(state, rev=state.rev + number, delayed_until=None)
        return Writes(f"{state.rev} {number}", (put,), **writes)  # type: ignore[arg-type]

    keeps = {"keeps": (0,)}
    verdicts = await _verdicts(h, put(0, **keeps), put(1, **keeps))
    check([type(verdict) for verdict in verdicts], [tuple, tuple], "verdicts")
    (state,) = verdicts[1]  # type: ignore[misc]
    check(await _named(h), [("0.0", state)], "after two that keep it")
    new_delay = {"delays": (_delay(state, now + 2 * HOUR),)}
    verdicts = await _verdicts(h, put(0, **new_delay), put(1, **keeps), put(2, **keeps))
    first = f"{state.rev} 0.0"
    (state,) = verdicts[2]  # type: ignore[misc]
    check(await _named(h), [(first, state)], "after a new one that two keep")
    verdicts = await _verdicts(h, put(0, **keeps), put(1), put(2, **keeps))
    check([type(verdict) for verdict in verdicts], [tuple] * 3, "verdicts")
    check(await _named(h), [], "after one between them that keeps nothing")


@case()
async def kept_states_stall_no_later(h: Harness) -> None:
    """G11: a put that keeps delays does not put off when its state stalls."""
    (state,) = await stored(h, Writes("begin", (State("a", transition=WORKING),)))
    at = (await _liveness(h)).stalls_at
    for token in ("one", "two"):
        await h.clock.sleep(0.002)
        state = await _keep(h, token, state)
        check((await _liveness(h)).stalls_at, at, f"when it stalls after put {token}")
    state = await _keep(h, "longer", state, annotations=OWN)
    check((await _liveness(h)).stalls_at, at, "when it stalls with a longer time")
    await h.driver.beat([Heartbeat("a", state.rev, 0.0, "handed over")])
    at = (await _liveness(h)).stalls_at
    await h.clock.sleep(0.002)
    state = await _keep(h, "handed over", state)
    found = await _liveness(h)
    check((found.stalls_at, found.beat_at, found.note), (at, None, ""), "after it was handed over")
    page = await h.driver.get_due(DueQuery("stall"))
    check([each.state for each in page.due], [state], "what has stalled")
    (state,) = await stored(h, Writes("move", (state,)))
    check((await _liveness(h)).stalls_at, await _in(h, state, 600), "after another put")
    state = await _keep(h, "shorter", state, annotations=EMPTY)
    check((await _liveness(h)).stalls_at, await _in(h, state, 120), "with a shorter time")


async def _in(h: Harness, state: State, seconds: float) -> datetime | None:
    at = state.committed_at
    return None if at is None else at + timedelta(seconds=seconds)


@case()
async def kept_states_that_stall_or_never_do(h: Harness) -> None:
    """G11: a put that keeps delays follows the rules that it brings, whether it stalls at all."""
    (state,) = await stored(h, Writes("begin", (State("a", transition=WORKING),)))
    off = FrozenDict({DISABLED: ""})
    state = await _keep(h, "off", state, annotations=off)
    check((await _liveness(h)).stalls_at, None, "when it stalls with recovery disabled")
    page = await h.driver.get_due(DueQuery("idle"))
    check([each.state for each in page.due], [state], "what is idle")
    state = await _keep(h, "on", state, annotations=EMPTY)
    check((await _liveness(h)).stalls_at, await _in(h, state, 120), "when it stalls again")
    for token, status in (("paused", Status.PAUSED), ("ended", Status.ENDED)):
        (state,) = await stored(h, Writes(token, (replace(state, status=status),)))
        state = await _keep(h, f"{token} and kept", state)
        check((await _liveness(h)).stalls_at, None, f"when it stalls, {token}")
    (state,) = await stored(h, Writes("again", (replace(state, status=Status.ACTIVE),)))
    check((await _liveness(h)).stalls_at, await _in(h, state, 120), "when it stalls in the end")


@case()
async def kept_delay_by_itself_puts_off_nothing(h: Harness) -> None:
    """G11: with a delay that was stored by itself, what it put off is gone."""
    now = await _now(h)
    (state,) = await stored(h, Writes("begin", (State("a", transition=WORKING),)))
    await stored(h, Writes("alone", delays=(_delay(state, now + HOUR, None),)))
    state = await _keep(h, "keep", state)
    check(await _named(h), [], "delays")
    check((await _liveness(h)).stalls_at, await _in(h, state, 120), "when it stalls")


@case()
async def kept_states_of_a_batch_stall_in_time(h: Harness) -> None:
    """G11: commits of one batch find when a state stalls as those before them have left it."""
    now = await _now(h)
    (state,) = await stored(h, Writes("begin", (State("a", transition=WORKING),)))
    await h.clock.sleep(0.002)
    alone = Writes("alone", delays=(_delay(state, now + HOUR, None),))
    verdicts = await _verdicts(h, alone, Writes("keep", (state,), keeps=(0,)))
    (state,) = verdicts[1]  # type: ignore[misc]
    check((await _liveness(h)).stalls_at, await _in(h, state, 120), "after one by itself")
    slow, rev = replace(state, transition=replace(WORKING, annotations=OWN)), state.rev
    verdicts = await _verdicts(
        h, Writes("quick", (state,)), Writes("slow", (replace(slow, rev=rev + 1),), keeps=(0,))
    )
    (first,), (state,) = verdicts  # type: ignore[misc]
    check((await _liveness(h)).stalls_at, await _in(h, first, 120), "with longer rules since")


@case("durable")
async def kept_delays_survive(h: Harness) -> None:
    """G7: what was kept is there in the next process."""
    now, new = await _now(h), State("a", transition=WORKING)
    (state,) = await stored(h, Writes("begin", (new,), delays=(_delay(new, now + HOUR),)))
    state = await _keep(h, "keep", state)
    at = (await _liveness(h)).stalls_at
    await h.reopen()
    check(await _named(h), [("begin.0", state)], "delays")
    check((await _liveness(h)).stalls_at, at, "when it stalls")


# With an engine


def _note(ctx: StateContext) -> None:
    ctx.put("new", "note")


def _delayed(found: Sequence[DelayedState]) -> list[tuple[str, int]]:
    return [(each.to, each.state.rev) for each in found]


@case()
async def update_keeps_what_was_committed_with_a_state(h: Harness) -> None:
    """G10: an update leaves delays, of which one fires then with what the update has made."""
    know(h, "late")

    @h.flows.flow("soon")
    def soon(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{ctx.current.transition.to} {ctx.get(str, 'note')} {ctx.delayed}")
        return Commit(End(ctx))

    for id, commit in (("a", True), ("b", False)):
        ctx = await committed(h, id)
        first = Delay(ctx, "soon", after=timedelta(milliseconds=50), commit=commit)
        await h.engine.do(Commit(first, Delay(ctx, "late", after=HOUR)))
        state = await h.engine.update(id, _note)
        check(state.delayed_until, ctx.committed.delayed_until, "until when it is delayed")
        found = [each for each in await delays_of(h) if each.state.id == id]
        check(_delayed(found), [("soon", state.rev), ("late", state.rev)], "delays")
    async with Delayer(h.engine):
        await h.visited("soon new True", "soon new True")
        for id in "ab":
            await h.engine.wait_for(id, status=Status.ENDED)
    check(await delays_of(h), [], "delays in the end")


@case()
async def update_that_moves_a_state_drops_its_delays(h: Harness) -> None:
    """G10: an update that takes a step, or brings a delay of its own, is like any other commit."""
    know(h, "other")
    ctx = await committed(h, "a")
    await h.engine.do(
        Commit(Delay(ctx, "other", after=HOUR), SetTimer(ctx, "t", "work", after=HOUR))
    )

    def delay(ctx: StateContext) -> Command[None]:
        _note(ctx)
        return Delay(ctx, "work", after=2 * HOUR)

    state = await h.engine.update("a", delay)
    found = await delays_of(h)
    check(_delayed(found), [("work", state.rev)] * 2, "the timer, and the new delay")
    state = await h.engine.update("a", Pause)
    check([each.timer for each in await delays_of(h)], ["t"], "what a step has left")

    def pause(ctx: StateContext) -> None:
        ctx.current = replace(ctx.current, status=Status.ACTIVE)

    await h.engine.do(Commit(Delay(StateContext(state), "other", after=HOUR)))
    await h.engine.update("a", pause)
    check([each.timer for each in await delays_of(h)], ["t"], "what another status has left")


@case()
async def updates_put_off_no_recovery(h: Harness) -> None:
    """G11: a state that is updated all the time is recovered all the same."""
    visiting(h, "work")
    ctx = h.ctx("a")
    short = timedelta(milliseconds=250 if h.has_fake_clock else 800)
    set_retry_after(ctx, short)
    await h.engine.do(Commit(Transit(ctx, "work")))
    async with Recoverer(h.engine, lease=1.0, poll_interval=0.05):
        count = 0
        while not h.visits:
            await h.engine.update("a", lambda ctx: ctx.put(ctx.current.rev, "n"))
            # Uneven, or on a fake clock each attempt of recovery meets an update.
            await h.clock.sleep(short.total_seconds() * (0.13 + 0.03 * (count % 4)))
            count += 1
            check(count < 100, True, "whether it was recovered in time")
        await h.engine.wait_for("a", status=Status.ENDED)
    check(h.visits, ["work"], "visits")


@case()
async def update_of_a_claimed_delay(h: Harness) -> None:
    """G2, G10: an update supersedes what a claimed delay executes, and the delay fires again."""
    is_told = asyncio.Event()

    @h.flows.flow("slow")
    async def slow(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"slow {ctx.get(str, 'note', default='')}")
        if not is_told.is_set():
            await ctx.wait_superseded()
            is_told.set()
        return Commit(End(ctx))

    ctx = await committed(h, "a")
    await h.engine.do(Commit(Delay(ctx, "slow", after=timedelta(0), commit=False)))
    async with Delayer(h.engine, lease=LEASE):
        await h.visited("slow ")
        state = await h.engine.update("a", _note)
        await is_told.wait()
        check(await h.engine.get_state("a"), state, "the state, which the flow did not end")
        await h.engine.wait_for("a", status=Status.ENDED)
    check((h.visits, await delays_of(h)), (["slow ", "slow new"], []), "visits, and what is left")


@case()
async def claimed_delay_that_loses_a_race(h: Harness) -> None:
    """G10: a claimed delay of which nothing has come, because of another state, fires again."""
    other = await committed(h, "other")

    @h.flows.flow("both")
    async def both(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("both")
        found = StateContext(await engine.get_state("other"))
        found.put(len(h.visits), "n")
        if len(h.visits) == 1:
            await engine.do(Commit(Pause(other)))
        return Commit(End(ctx), Put(found))

    ctx = await committed(h, "a")
    await h.engine.do(Commit(Delay(ctx, "both", after=timedelta(0), commit=False)))
    async with Delayer(h.engine, lease=LEASE):
        await h.engine.wait_for("a", status=Status.ENDED)
    check(h.visits, ["both"] * 2, "visits")
    check((await h.engine.get_state("other")).get(int, "n"), 2, "what was committed with it")


CASES: tuple[Case, ...] = (
    kept_delays_have_the_new_revision,
    kept_delays_stay_claimed,
    kept_delays_within_a_batch,
    kept_states_stall_no_later,
    kept_states_that_stall_or_never_do,
    kept_delay_by_itself_puts_off_nothing,
    kept_states_of_a_batch_stall_in_time,
    kept_delays_survive,
    update_keeps_what_was_committed_with_a_state,
    update_that_moves_a_state_drops_its_delays,
    updates_put_off_no_recovery,
    update_of_a_claimed_delay,
    claimed_delay_that_loses_a_race,
)
