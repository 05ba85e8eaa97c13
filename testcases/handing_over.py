"""What one process leaves, another one takes over: after a stop at once, after a death soon."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from flowstate import recovery
from flowstate.commands import Command, Commit, Delay, End, Execute, Noop, Pause, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import Heartbeat, Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import StoreUnavailableError
from flowstate.recovery import Recoverer
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import DriverWrapper, end

__all__ = ["CASES"]

LEASE = 1.0
QUICK = {"lease": LEASE, "poll_interval": 0.05}
SOON = 5.0  # Seconds; recovery without a hand-over waits for two minutes.


@case()
async def stop_hands_over(h: Harness) -> None:
    """G11: what a stop interrupts is executed elsewhere at once, and counts no attempt."""
    begun = asyncio.Event()

    @h.flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{len(h.visits)}, attempt {recovery.attempt(ctx.current)}")
        if len(h.visits) > 4:
            return Commit(End(ctx))
        begun.set()
        await asyncio.Event().wait()
        return Noop()

    ctx = h.ctx("job")
    await h.engine.do(Commit(Transit(ctx, "long")))
    for deploy in range(4):
        begun.clear()
        async with (
            h.make_engine(shutdown_timeout=0.01) as engine,
            Recoverer(engine, **QUICK),  # type: ignore[arg-type]
        ):
            if not deploy:
                await engine.do(Execute(ctx))
            started = h.clock.monotonic()
            await begun.wait()
            took = h.clock.monotonic() - started
            check(took < SOON, True, f"taken over after {took:.2f} s")
    async with Recoverer(h.engine, **QUICK):  # type: ignore[arg-type]
        await h.until(lambda visits: len(visits) > 4)
        await h.engine.idle()
    check(h.visits, [f"{n}, attempt 0" for n in range(5)], "visits")
    check(recovery.is_dead(await h.engine.get_state("job")), False, "dead")


@case()
async def stop_hands_over_what_waits(h: Harness) -> None:
    """G11: what had no turn before a stop is executed elsewhere at once as well."""

    @h.flows.flow("blocked")
    async def blocked(ctx: StateContext, engine: Engine) -> Command[None]:
        if engine is h.engine:
            h.visit(ctx.current.id)
            return Commit(End(ctx))
        await asyncio.Event().wait()
        return Noop()

    contexts = [h.ctx(f"job-{n}") for n in range(4)]
    for ctx in contexts:
        await h.engine.do(Commit(Transit(ctx, "blocked")))
    async with h.make_engine(shutdown_timeout=0.01, max_executions=1) as engine:
        await engine.do(*[Execute(ctx) for ctx in contexts])
        await h.clock.sleep(0.05)
    started = h.clock.monotonic()
    async with Recoverer(h.engine, **QUICK):  # type: ignore[arg-type]
        await h.until(lambda visits: len(visits) == 4)
        await h.engine.idle()
    took = h.clock.monotonic() - started
    check(took < SOON, True, f"taken over after {took:.2f} s")
    check(sorted(h.visits), [f"job-{n}" for n in range(4)], "visits")


@case()
async def stop_hands_over_claimed_delays(h: Harness) -> None:
    """G10: a delay whose flow a stop interrupts fires elsewhere at once, not after its lease."""
    begun = asyncio.Event()

    @h.flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(engine.name)
        if engine is h.engine:
            return Commit(End(ctx))
        begun.set()
        await asyncio.Event().wait()
        return Noop()

    ctx = h.ctx("job")
    await h.engine.do(Commit(Pause(ctx)), Delay(ctx, "long", after=timedelta(0), commit=False))
    async with h.make_engine(shutdown_timeout=0.01) as engine, Delayer(engine, lease=600.0):
        await begun.wait()
    started = h.clock.monotonic()
    async with Delayer(h.engine):
        await h.until(lambda visits: len(visits) == 2)
        await h.engine.idle()
    took = h.clock.monotonic() - started
    check(took < SOON, True, f"fired again after {took:.2f} s")


class _Cut(DriverWrapper):
    """Cannot reach the store any more, once it is cut off."""

    is_cut = False

    def _check(self) -> None:
        if self.is_cut:
            raise StoreUnavailableError("the connection is lost")

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Commit, or fail."""
        self._check()
        return await super().commit(batch)

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        """Note signs of life, or fail."""
        self._check()
        return await super().beat(heartbeats)


async def _leads(h: Harness, recoverer: Recoverer) -> float:
    """Return after how many seconds a recoverer leads."""
    started = h.clock.monotonic()
    while not recoverer.is_leading:
        await h.clock.sleep(0.01)
    return h.clock.monotonic() - started


@case("shared", real_time=True)
async def recovery_without_its_leader(h: Harness) -> None:
    """G11: when the leader is cut off, another process takes over within the lease."""
    h.flows.set("work", end)
    async with h.other_driver() as driver:
        away = _Cut(driver)
        async with h.make_engine(away) as first, Recoverer(first, **QUICK) as leader:  # type: ignore[arg-type]
            await _leads(h, leader)
            async with Recoverer(h.engine, **QUICK) as standby:  # type: ignore[arg-type]
                await h.clock.sleep(0.2)
                check(standby.is_leading, False, "two leaders")
                check(standby.leader, first.name, "who leads")
                away.is_cut = True
                took = await _leads(h, standby)
                check(took <= LEASE + 0.5, True, f"took over after {took:.2f} s")
                check(took >= LEASE / 3, True, f"took over after {took:.2f} s, too soon")
                check(leader.is_leading, False, "two leaders")
                ctx = h.ctx("job")
                recovery.set_retry_after(ctx, timedelta(milliseconds=100))
                await h.engine.do(Commit(Transit(ctx, "work")))
                async with h.engine.watch(status=Status.ENDED) as ended:
                    check((await anext(ended)).id, "job", "what it recovers")


@case("shared", real_time=True)
async def recovery_handed_over(h: Harness) -> None:
    """G11: a leader that stops gives its lease back, and another one takes it at once."""
    long = {"lease": 30.0, "poll_interval": 0.05}
    async with h.other_driver() as away, h.make_engine(away) as first:
        async with Recoverer(first, **long) as leader:  # type: ignore[arg-type]
            await _leads(h, leader)
            standby = Recoverer(h.engine, **long)  # type: ignore[arg-type]
            await standby.__aenter__()
            await h.clock.sleep(0.1)
        took = await _leads(h, standby)
        await standby.__aexit__(None, None, None)
        check(took < 1.0, True, f"took over after {took:.2f} s")


CASES: tuple[Case, ...] = (
    stop_hands_over,
    stop_hands_over_what_waits,
    stop_hands_over_claimed_delays,
    recovery_without_its_leader,
    recovery_handed_over,
)
