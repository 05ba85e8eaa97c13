"""Starts: one revision, and the state is executed here, or by another engine that has the flow."""

from flowstate.commands import Command, Commit, End, Pause
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.errors import RevisionMismatchError, UnknownFlowError
from flowstate.registry import FlowRegistry
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import delays_of, raised

__all__ = ["CASES"]


def _noting(h: Harness) -> None:
    """Register a flow that notes where, how and at which revision it was entered."""

    @h.flows.flow("work")
    def work(ctx: StateContext, engine: Engine) -> Command[None]:
        cause, notes = ctx.current.transition.cause, dict(ctx.current.transition.annotations)
        h.visit(f"{engine.name}: {ctx.effect_key} {cause} {notes} {ctx.delayed}")
        return Commit(End(ctx))


def _without_flows(h: Harness) -> Engine:
    """Return an engine that knows the flow and cannot run it."""
    flows = FlowRegistry()
    flows.declare("work")
    return Engine(h.driver, flows, clock=h.clock)


async def _ended(h: Harness, id: str = "a") -> State:
    return await h.engine.wait_for(id, status=Status.ENDED)


@case()
async def start_runs_here(h: Harness) -> None:
    """G1: a start is one revision, and the flow runs in the background of the engine."""
    _noting(h)
    ctx = h.ctx("a")
    async with h.make_engine(name="here") as engine:
        await engine.start(ctx, "work", {"why": "x"})
        check((ctx.committed.rev, ctx.committed.delayed_until), (1, None), "what was committed")
        await _ended(h)
    check(h.visits, ["here: a:1:work transit {'why': 'x'} False"], "visits")
    check(await h.engine.head(), 2, "head")


@case()
async def start_without_the_flow_runs_elsewhere(h: Harness) -> None:
    """G1, G10: a start for another engine is one revision too, and its flow cannot tell."""
    _noting(h)
    async with (
        _without_flows(h) as engine,
        h.make_engine(name="there") as there,
        Delayer(there),
        Delayer(engine),
    ):
        ctx = h.ctx("a")
        await engine.start(ctx, "work", {"why": "x"})
        check(ctx.committed.rev, 1, "what was committed")
        await _ended(h)
    check(h.visits, ["there: a:1:work transit {'why': 'x'} False"], "visits")
    check((await h.engine.head(), await delays_of(h)), (2, []), "head and delays")


@case("shared")
async def start_for_another_process(h: Harness) -> None:
    """G10: an engine of another process begins soon with what is left to it, each once."""
    _noting(h)
    async with (
        h.other_driver() as driver,
        h.make_engine(driver, name="there") as there,
        Delayer(there),
        _without_flows(h) as engine,
    ):
        for n in range(20):
            await engine.start(h.ctx(f"s-{n}"), "work")
        for n in range(20):
            await _ended(h, f"s-{n}")
    check(sorted(h.visits), sorted(set(h.visits)), "visits")
    check((len(h.visits), await h.engine.head()), (20, 40), "how many, and head")


@case("durable")
async def start_for_others_survives(h: Harness) -> None:
    """G7: what was left to others when the last process ended is begun by the next one."""
    _noting(h)
    await h.engine.start(h.ctx("a"), "work", elsewhere=True)
    await h.reopen()
    async with Delayer(h.engine):
        await _ended(h)
    check(len(h.visits), 1, "visits")


@case()
async def start_that_is_refused(h: Harness) -> None:
    """G2, G14: what loses its race, or goes to an unknown flow, is neither stored nor run."""
    _noting(h)
    ctx = h.ctx("a")
    await h.engine.do(Commit(Pause(ctx.copy())))
    for elsewhere in (False, True):
        await raised(RevisionMismatchError, h.engine.start, ctx, "work", elsewhere=elsewhere)
        await raised(UnknownFlowError, h.engine.start, ctx, "unknown", elsewhere=elsewhere)
    await h.engine.idle()
    check((h.visits, await delays_of(h), await h.engine.head()), ([], [], 1), "what was done")


CASES: tuple[Case, ...] = (
    start_runs_here,
    start_without_the_flow_runs_elsewhere,
    start_for_another_process,
    start_for_others_survives,
    start_that_is_refused,
)
