"""A flow is told when others move its state on: in its process at once, elsewhere soon."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from flowstate.commands import Command, Commit, End, Pause, Retry, Transit
from flowstate.context import StateContext
from flowstate.driver import Writes
from flowstate.engine import Engine
from flowstate.recovery import set_retry_after
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, stored

__all__ = ["CASES"]

QUICK = timedelta(seconds=0.6)  # Three heartbeats.


async def executing(
    h: Harness,
    move_on: Callable[[], Awaitable[None]],
    *,
    interrupt: bool = False,
    at_once: bool = True,
) -> None:
    """Execute a flow that waits until others move its state on; ``at_once``: it knows then."""
    begun = asyncio.get_running_loop().create_future()

    @h.flows.flow("work", interrupt=interrupt)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set_result(ctx)
        try:
            await (asyncio.Event().wait() if interrupt else ctx.wait_superseded())
        finally:
            h.visit(f"superseded: {ctx.superseded}")
        return Commit(End(ctx))

    ctx = h.ctx("job")
    set_retry_after(ctx, QUICK)
    await h.engine.do(Commit(Transit(ctx, "work")))
    task = asyncio.ensure_future(h.engine.execute(ctx))
    told: StateContext = await begun
    await move_on()
    check(told.superseded or not at_once, True, "superseded at once")
    await task
    check(h.visits, ["superseded: True"], "visits")
    state = await h.engine.get_state("job")
    check((state.rev, state.status), (2, Status.PAUSED), "state")
    check(h.engine.stats().superseded, 1, "superseded")


async def paused_by(engine: Engine) -> None:
    """Pause the state by a commit of an engine."""
    await engine.do(Commit(Pause(StateContext(await engine.get_state("job")))))


async def paused_elsewhere(h: Harness) -> None:
    """Pause the state without an engine, as another process would; wait for a heartbeat."""
    state = await h.driver.get_state("job")
    assert state is not None
    put = State(state.id, state.rev, annotations=state.annotations, status=Status.PAUSED)
    await stored(h, Writes("of another process", (put,)))
    await h.clock.sleep(QUICK.total_seconds())


@case()
async def superseded_by_its_engine(h: Harness) -> None:
    """G5: a commit of the same engine tells the flow at once that its state has moved on."""
    await executing(h, lambda: paused_by(h.engine))


@case()
async def superseded_with_an_interruption(h: Harness) -> None:
    """G5: a flow that asks for it is cancelled then, and its execution ends quietly."""
    await executing(h, lambda: paused_by(h.engine), interrupt=True)
    check(h.engine.stats().failures, 0, "failures")


@case("shared")
async def superseded_by_another_engine(h: Harness) -> None:
    """G5: so does a commit through another driver object in the same process."""

    async def move_on() -> None:
        async with h.make_engine(h.make_driver()) as other:
            await paused_by(other)

    await executing(h, move_on)


@case("any_loop", real_time=True)
async def superseded_by_another_loop(h: Harness) -> None:
    """G5: so does a commit from another event loop of the process."""

    async def move_on() -> None:
        async with h.make_engine(h.driver) as other:
            await paused_by(other)

    await executing(h, lambda: asyncio.to_thread(asyncio.run, move_on()), at_once=False)


@case()
async def superseded_by_another_process(h: Harness) -> None:
    """G5: the next heartbeat tells of a commit of another process."""
    await executing(h, lambda: paused_elsewhere(h), at_once=False)


@case()
async def interrupted_by_another_process(h: Harness) -> None:
    """G5: and cancels a flow that asks for it."""
    await executing(h, lambda: paused_elsewhere(h), at_once=False, interrupt=True)


@case()
async def own_commits_do_not_supersede(h: Harness) -> None:
    """G12: a flow that commits is never taken for one whose state others have moved on."""
    # Heartbeats go out between its commits; a busy machine must not lose it.
    pause, retry_after = (0.01, 0.09) if h.has_fake_clock else (0.03, 0.9)

    @h.flows.flow("work", interrupt=True)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        for _ in range(40):
            await engine.do(Commit(Retry(ctx)))
            await h.clock.sleep(pause)
            check(ctx.superseded, False, "superseded")
        return Commit(End(ctx))

    async def one(number: int) -> None:
        ctx = h.ctx(f"job-{number}")
        set_retry_after(ctx, timedelta(seconds=retry_after))
        await h.engine.do(Commit(Transit(ctx, "work")))
        await h.engine.execute(ctx)
        check(ctx.committed.status, Status.ENDED, "status")

    await asyncio.gather(*map(one, range(8)))
    check(h.engine.stats().superseded, 0, "superseded")


@case()
async def refused_commits_do_not_supersede(h: Harness) -> None:
    """G2: a commit that lost its race tells no execution anything."""
    told: list[bool] = []

    @h.flows.flow("work", interrupt=True)
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        lost = await asyncio.gather(
            engine.do(Commit(Pause(StateContext(State("job"))))), return_exceptions=True
        )
        told.append(ctx.superseded)
        check(len(lost), 1, "refused")
        return Commit(End(ctx))

    ctx = await committed(h, "job", "work")
    await h.engine.execute(ctx)
    check(told, [False], "superseded")
    check(ctx.committed.status, Status.ENDED, "status")


CASES: tuple[Case, ...] = (
    superseded_by_its_engine,
    superseded_with_an_interruption,
    superseded_by_another_engine,
    superseded_by_another_loop,
    superseded_by_another_process,
    interrupted_by_another_process,
    own_commits_do_not_supersede,
    refused_commits_do_not_supersede,
)
