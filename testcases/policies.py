"""What a flow raises is tried again as its policy says, durably; then sent elsewhere, or ended."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from flowstate.commands import Command, Commit, Delay, End, Noop, Pause, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import CommitUnknownError, FlowTimeoutError, StoreUnavailableError
from flowstate.recovery import (
    Recoverer,
    attempt,
    dead_states,
    explain,
    retry_dead,
    set_retry_after,
)
from flowstate.registry import FlowRegistry
from flowstate.retrying import RetryPolicy
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import DriverWrapper, committed, delays_of

__all__ = ["CASES"]

SOON = RetryPolicy(attempts=3, first=0.02, factor=1.0, jitter=False)
LEASE = 1.0


class DeclinedError(Exception):
    """What the flows of these cases raise."""


def failing(h: Harness, times: int, name: str = "charge") -> list[tuple[int, str, str]]:
    """Return what a flow, which is not registered yet, was told; it fails so many times."""
    told: list[tuple[int, str, str]] = []

    def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        told.append((ctx.failures, ctx.error, ctx.effect_key))
        h.visit(name)
        if len(told) <= times:
            raise DeclinedError(str(len(told)))
        return Commit(End(ctx))

    h.flows.set(name, charge, retry=SOON)
    return told


async def ended(h: Harness, id: str = "order") -> State:
    """Wait until a state has ended; return it."""
    async with h.engine.watch(since_rev=0, status=Status.ENDED) as states:
        async for state in states:
            if state.id == id:
                await h.engine.idle()
                return state
    raise AssertionError("a watch has no end")


@case()
async def failure_is_tried_again(h: Harness) -> None:
    """G11: a flow that fails is executed again after a pause, with the same key for effects."""
    told = failing(h, times=2)
    ctx = await committed(h, "order", "charge", labels={"kind": "order"}, annotations={"a": "b"})
    await h.engine.execute(ctx)
    first = await h.engine.get_state("order")
    check((first.rev, first.status, first.labels), (2, Status.ACTIVE, {"kind": "order"}), "state")
    check(first.annotations, {"a": "b"}, "annotations")
    check(first.delayed_until is not None, True, "delayed")
    check(ctx.committed, first, "the context")
    async with Delayer(h.engine):
        await ended(h)
    check([failures for failures, *_ in told], [0, 1, 2], "failures")
    errors = ["", "DeclinedError: 1", "DeclinedError: 2"]
    check([error for _, error, _ in told], errors, "errors")
    check({key for *_, key in told}, {"order:1:charge"}, "keys")
    check(await delays_of(h), [], "delays")
    check(len(await h.log()), 6, "revisions")


@case()
async def failure_too_many_ends_as_dead(h: Harness) -> None:
    """G11: when its attempts are used up, the state is ended as dead, and can be retried."""
    told = failing(h, times=3)
    ctx = await committed(h, "order", "charge", labels={"kind": "order"})
    async with Delayer(h.engine):
        await h.engine.execute(ctx)
        await ended(h)
        (dead,) = [each async for each in dead_states(h.engine, {"kind": "order"})]
        check(dead.reason, "failed 3 times in flow 'charge'", "reason")
        check((dead.failures, dead.attempts), (3, 0), "failures and attempts")
        check(dead.error, "DeclinedError: 3", "error")
        again = await retry_dead(h.engine, "order")
        check(again.committed.labels, {"kind": "order"}, "labels")
        await h.visited(*["charge"] * 4)
        await h.engine.idle()
    check([failures for failures, *_ in told], [0, 1, 2, 0], "failures")
    check({key for *_, key in told}, {"order:1:charge"}, "keys")
    check((await h.engine.get_state("order")).labels, {"kind": "order"}, "labels at last")


@case()
async def failure_is_sent_elsewhere(h: Harness) -> None:
    """G11: when its attempts are used up, the state goes where its policy says."""
    seen: list[tuple[str, int]] = []

    @h.flows.flow("charge", on_failure="refund")
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        ctx.set_label("half", "done")
        raise DeclinedError("no money")

    @h.flows.flow("refund")
    async def refund(ctx: StateContext, engine: Engine) -> Command[None]:
        seen.append((ctx.error, ctx.failures))
        return Commit(End(ctx))

    await h.engine.execute(await committed(h, "order", "charge"))
    check(seen, [("DeclinedError: no money", 0)], "what was told")
    log = await h.log()
    check([state.transition.to for state in log], ["charge", "refund", "refund"], "flows")
    check([state.labels for state in log], [{}] * 3, "labels")


@case()
async def failure_is_sent_to_another_engine(h: Harness) -> None:
    """G11: an engine that has the flow to which failures go executes it at once."""
    elsewhere = FlowRegistry()
    elsewhere.declare("charge")

    @h.flows.flow("charge", on_failure="refund")
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        raise DeclinedError("no money")

    @elsewhere.flow("refund")
    async def refund(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(ctx.error)
        return Commit(End(ctx))

    h.flows.declare("refund")
    await h.engine.execute(await committed(h, "order", "charge"))
    async with Engine(h.driver, elsewhere, clock=h.clock) as other, Delayer(other):
        await ended(h)
    check(h.visits, ["DeclinedError: no money"], "visits")
    check(await delays_of(h), [], "delays")


@case("durable")
async def pause_of_a_policy_outlives_its_process(h: Harness) -> None:
    """G7: the pause after a failure is stored, and goes on where its engine has gone."""
    told = failing(h, times=1)
    await h.engine.execute(await committed(h, "order", "charge"))
    await h.reopen()
    async with Delayer(h.engine):
        await ended(h)
    check([failures for failures, *_ in told], [0, 1], "failures")
    check({key for *_, key in told}, {"order:1:charge"}, "keys")


@case()
async def failure_that_lost_its_race(h: Harness) -> None:
    """G2: what others have moved on is left alone, however its flow ends here."""

    @h.flows.flow("charge", retry=SOON, on_failure="refund")
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Pause(StateContext(await engine.get_state("order")))))
        raise DeclinedError("too late")

    h.flows.declare("refund")
    await h.engine.execute(await committed(h, "order", "charge"))
    state = await h.engine.get_state("order")
    check((state.rev, state.status), (2, Status.PAUSED), "state")
    check(h.engine.stats().retries, 0, "retries")


@case()
async def failure_in_two_engines(h: Harness) -> None:
    """G2: a state that two engines execute, and fail with, is tried again once."""
    both = asyncio.Barrier(2)

    @h.flows.flow("charge", retry=SOON)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(str(ctx.failures))
        if not ctx.failures:
            await both.wait()
            raise DeclinedError("both")
        return Commit(End(ctx))

    ctx = await committed(h, "order", "charge")
    async with h.make_engine() as other:
        await asyncio.gather(h.engine.execute(ctx.copy()), other.execute(ctx.copy()))
        async with Delayer(h.engine), Delayer(other):
            await ended(h)
            await other.idle()
        check(h.engine.stats().retries + other.stats().retries, 1, "retries")
    check(h.visits, ["0", "0", "1"], "visits")


@case()
async def failure_of_a_claimed_delay(h: Harness) -> None:
    """G10: a flow that a delay with ``commit=False`` started is tried again as its policy says."""
    told = failing(h, times=2)
    ctx = await committed(h, "order", "ask", labels={"kind": "order"})
    later = Delay(ctx, "charge", timedelta(0), commit=False)
    await h.engine.do(Commit(Pause(ctx), later))
    async with Delayer(h.engine):
        state = await ended(h)
    check([failures for failures, *_ in told], [0, 1, 2], "failures")
    check({key for *_, key in told}, {"order:2.1:charge"}, "keys")
    check(state.labels, {"kind": "order"}, "labels")
    check(await delays_of(h), [], "delays")


@case()
async def failures_and_crashes_count_apart(h: Harness) -> None:
    """G11: what stands still is recovered, what fails is tried again; neither forgets the other."""
    calls: list[tuple[int, int]] = []
    driver = Forgetful(h)

    @h.flows.flow("charge", retry=SOON)
    def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        calls.append((ctx.failures, attempt(ctx.current)))
        driver.forgets = len(calls) == 2
        if len(calls) < 4:
            raise DeclinedError(str(len(calls)))
        return Commit(End(ctx))

    ctx = h.ctx("order")
    set_retry_after(ctx, timedelta(seconds=0.3))
    await h.engine.do(Commit(Transit(ctx, "charge")))
    async with (
        h.make_engine(driver) as engine,
        Delayer(engine),
        Recoverer(engine, lease=LEASE, poll_interval=0.05),
    ):
        await engine.execute(ctx)
        await ended(h)
    check(calls, [(0, 0), (1, 0), (1, 1), (2, 1)], "failures and attempts")


class Forgetful(DriverWrapper):
    """Loses the next commit of a failure, as a crash would."""

    def __init__(self, h: Harness) -> None:
        super().__init__(h.driver)
        self.forgets = False

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Pass on, or fail."""
        if self.forgets and any(writes.delays for writes in batch):
            self.forgets = False
            raise StoreUnavailableError("gone")
        return await super().commit(batch)


@case()
async def failure_that_was_stored_without_a_reply(h: Harness) -> None:
    """G8: a pause whose commit got no reply is there once, and ends once."""
    told = failing(h, times=1)
    driver = Silent(h)
    async with h.make_engine(driver) as engine:
        ctx = await committed(h, "order", "charge")
        driver.is_silent = True
        try:
            await engine.execute(ctx)
        except DeclinedError:
            h.visit("raised")
        async with Delayer(engine):
            await ended(h)
    check(h.visits, ["charge", "raised", "charge"], "visits")
    check([failures for failures, *_ in told], [0, 1], "failures")


class Silent(DriverWrapper):
    """Stores the next commit, and does not say so."""

    def __init__(self, h: Harness) -> None:
        super().__init__(h.driver)
        self.is_silent = False

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Pass on, and reply or not."""
        verdicts = await super().commit(batch)
        if self.is_silent:
            self.is_silent = False
            raise CommitUnknownError(batch[0].token)
        return verdicts


@case()
async def flow_that_takes_too_long(h: Harness) -> None:
    """G12: a flow that hangs is cancelled in time, and that is a failure like others."""
    calls: list[str] = []

    @h.flows.flow("charge", timeout=0.05, retry=SOON)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        calls.append(ctx.error)
        if len(calls) == 1:
            await asyncio.Event().wait()
        return Commit(End(ctx))

    @h.flows.flow("hang", timeout=0.05)
    async def hang(ctx: StateContext, engine: Engine) -> Command[None]:
        await asyncio.Event().wait()
        return Noop()

    async with Delayer(h.engine):
        await h.engine.execute(await committed(h, "order", "charge"))
        await ended(h)
    text = "FlowTimeoutError: flow 'charge' of 'order' took longer than 0.05 s"
    check(calls, ["", text], "errors")
    ctx = await committed(h, "other", "hang")
    try:
        await h.engine.execute(ctx)
    except FlowTimeoutError as error:
        check((error.flow, error.id), ("hang", "other"), "error")
        h.visit("raised")
    check(h.visits, ["raised"], "visits")
    check(await h.engine.get_state("other"), ctx.committed, "the state")


@case()
async def policy_of_one_state(h: Harness) -> None:
    """G11: what a state says about its attempts counts more than the policy of its flow."""
    told = failing(h, times=5)
    ctx = h.ctx("order")
    ctx.set_policy(attempts=6, first=0.0)
    await h.engine.do(Commit(Transit(ctx, "charge")))
    async with Delayer(h.engine):
        await h.engine.execute(ctx)
        await ended(h)
    check([failures for failures, *_ in told], list(range(6)), "failures")


@case()
async def failures_are_explained(h: Harness) -> None:
    """G11: it is explained why a state waits after a failure, and why it is dead after many."""

    @h.flows.flow("charge", retry=RetryPolicy(attempts=2, first=3_600.0, jitter=False))
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        raise DeclinedError("no money")

    ctx = await committed(h, "order", "charge")
    await h.engine.execute(ctx)
    found = await explain(h.engine, "order")
    check((found.why, found.failures, found.attempts), ("failed", 1, 0), "explanation")
    check(found.until, ctx.committed.delayed_until, "until")
    check(found.error, "DeclinedError: no money", "error")
    check(found.max_failures, 2, "how many there may be")
    text = "failed 1 of 2 times in flow 'charge', at last with DeclinedError: no money; tried"
    check(found.text.startswith(text), True, found.text)
    await h.engine.execute(ctx)
    found = await explain(h.engine, "order")
    check((found.why, found.failures, found.error), ("dead", 2, "DeclinedError: no money"), "dead")
    check("failed 2 times in flow 'charge'" in found.text, True, found.text)


CASES: tuple[Case, ...] = (
    failure_is_tried_again,
    failure_too_many_ends_as_dead,
    failure_is_sent_elsewhere,
    failure_is_sent_to_another_engine,
    pause_of_a_policy_outlives_its_process,
    failure_that_lost_its_race,
    failure_in_two_engines,
    failure_of_a_claimed_delay,
    failures_and_crashes_count_apart,
    failure_that_was_stored_without_a_reply,
    flow_that_takes_too_long,
    policy_of_one_state,
    failures_are_explained,
)
