"""A flow has another id than the states and delays that wait for it: it was renamed."""

from datetime import timedelta

from flowstate.commands import Command, Commit, Delay, End, Pause, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.recovery import Recoverer, set_retry_after
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import delays_of

__all__ = ["CASES"]

SOON = timedelta(seconds=0.1)


def rename(h: Harness) -> None:
    """Register a flow under its new id, with an alias for the old one."""

    @h.flows.flow("new")
    async def new(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{ctx.current.id} in {ctx.current.transition.to}")
        return Commit(End(ctx))

    h.flows.unset("old")
    h.flows.alias("old", "new")


@case()
async def renamed_flow_finds_what_has_stalled(h: Harness) -> None:
    """G11: a state that has stalled in a flow of the old id is recovered in the new one."""
    h.flows.declare("old")
    ctx = h.ctx("order")
    set_retry_after(ctx, SOON)
    await h.engine.do(Commit(Transit(ctx, "old")))
    key = ctx.effect_key
    rename(h)
    async with Recoverer(h.engine, lease=1.0, poll_interval=0.05):
        await h.visited("order in old")
        await h.engine.idle()
    state = await h.engine.get_state("order")
    check(state.status, Status.ENDED, "status")
    check(StateContext(state).effect_key, key, "key")


@case()
async def renamed_flow_finds_its_delays(h: Harness) -> None:
    """G10: delays to the old id fire into the new flow, committed first or not."""
    h.flows.declare("old")
    for id, commit in (("committed", True), ("claimed", False)):
        ctx = h.ctx(id)
        await h.engine.do(Commit(Pause(ctx), Delay(ctx, "old", SOON, commit=commit)))
    rename(h)
    async with Delayer(h.engine):
        await h.until(lambda visits: len(visits) == 2)
        await h.engine.idle()
    check(sorted(h.visits), ["claimed in old", "committed in old"], "visits")
    while await delays_of(h):
        await h.clock.sleep(0.01)
    ended = await h.engine.get_states(latest_only=True, status=Status.ENDED)
    check(len(ended.states), 2, "ended")


CASES: tuple[Case, ...] = (renamed_flow_finds_what_has_stalled, renamed_flow_finds_its_delays)
