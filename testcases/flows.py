"""States go from flow to flow: chains, branches, forks, calls, actors."""

from collections.abc import Callable
from itertools import zip_longest

from flowstate.commands import (
    Command,
    Commit,
    End,
    Execute,
    Noop,
    Pause,
    Resume,
    Stack,
    Transit,
    Unstack,
)
from flowstate.context import StateContext
from flowstate.engine import Engine
from flowstate.errors import EngineStoppedError
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import end, take

__all__ = ["CASES"]


def _chain(h: Harness, *flows: str, commit: bool) -> None:
    """Register flows that note their visit and go on to the next; the last one ends."""
    for flow, following in zip_longest(flows, flows[1:]):
        h.flows.set(flow, _link(h, flow, following, commit=commit))


def _link(
    h: Harness, flow: str, following: str | None, *, commit: bool
) -> Callable[[StateContext, Engine], Command[None]]:
    def go_on(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(flow)
        step = Transit(ctx, following) if following else End(ctx)
        return Commit(step) if commit else step

    return go_on


async def _run_chain(h: Harness, *flows: str, commit: bool) -> StateContext:
    _chain(h, *flows, commit=commit)
    ctx = h.ctx("chained")
    start = Transit(ctx, flows[0])
    await h.engine.do(Commit(start) if commit else start)
    await h.engine.execute(ctx)
    check(h.visits, list(flows), "visits")
    check(ctx.current.status, Status.ENDED, "status")
    return ctx


@case()
async def single_flow(h: Harness) -> None:
    """G3: a state goes to one flow, which ends it, and nothing is stored without a commit."""
    ctx = await _run_chain(h, "first", commit=False)
    check([step.cause for step in ctx.transitions], ["transit", "end"], "transitions")
    check(await h.log(), [], "log")


@case()
async def consecutive_flows(h: Harness) -> None:
    """G3: a state goes through three flows, which is noted in the context only."""
    ctx = await _run_chain(h, "first", "second", "third", commit=False)
    steps = [step.to for step in ctx.transitions]
    check(steps, ["first", "second", "third", "third"], "transitions")
    check((ctx.committed.rev, await h.log()), (0, []), "committed revision and log")


@case()
async def two_consecutive_flows_with_commit(h: Harness) -> None:
    """G4: each step of a state is a revision of its own: 1, 2, 3."""
    ctx = await _run_chain(h, "first", "second", commit=True)
    log = [(s.id, s.rev, s.transition.to, s.status) for s in await h.log()]
    expected = [
        ("chained", 1, "first", Status.ACTIVE),
        ("chained", 2, "second", Status.ACTIVE),
        ("chained", 3, "second", Status.ENDED),
    ]
    check(log, expected, "log")
    check((ctx.committed.rev, ctx.transitions), (3, ()), "committed revision and transitions")


@case()
async def three_consecutive_flows_with_commit(h: Harness) -> None:
    """G4: the log holds every step of a state in the order in which it was taken."""
    await _run_chain(h, "first", "second", "third", commit=True)
    steps = [s.transition.to for s in await h.log()]
    check(steps, ["first", "second", "third", "third"], "log")


@case()
async def condition(h: Harness) -> None:
    """G5: a flow chooses where to go by what the state says."""

    @h.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("first")
        return Commit(Transit(ctx, ctx.current.annotations["choice"]))

    _chain(h, "second", commit=True)
    _chain(h, "third", commit=True)
    for choice in ("second", "third"):
        ctx = h.ctx(f"to-{choice}", "first", annotations={"choice": choice})
        await h.engine.execute(ctx)
    check(h.visits, ["first", "second", "first", "third"], "visits")


@case()
async def fork(h: Harness) -> None:
    """G3: a flow starts two copies of its state under new ids, and all three go on."""

    @h.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        for to in ("second", "third"):
            forked = ctx.fork(f"forked-{to}")
            await engine.do(Transit(forked, to), Execute(forked))
        return Transit(ctx, "fourth")

    for flow in ("second", "third", "fourth"):
        _chain(h, flow, commit=True)
    await h.engine.execute(h.ctx("origin", "first", labels={"kind": "fork"}))
    await h.until(lambda visits: len(visits) == 3)
    check(sorted(h.visits), ["fourth", "second", "third"], "visits")
    async with h.engine.watch(labels={"kind": "fork"}) as states:
        found = {state.id for state in await take(states, 3)}
    check(found, {"origin", "forked-second", "forked-third"}, "ids with the label of the origin")


@case()
async def fork_with_commit(h: Harness) -> None:
    """G1: a state and its two forks are committed as one, then all three go on."""

    @h.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        one, two = ctx.fork("one"), ctx.fork("two")
        await engine.do(Commit(Transit(one, "second"), Transit(two, "third"), End(ctx)))
        await engine.do(Execute(one))
        return Execute(two)

    _chain(h, "second", commit=True)
    _chain(h, "third", commit=True)
    ctx = h.ctx("origin")
    await h.engine.do(Commit(Transit(ctx, "first")))
    await h.engine.execute(ctx)
    await h.until(lambda visits: len(visits) == 2)
    check(sorted(h.visits), ["second", "third"], "visits")
    forked = [(s.id, s.rev) for s in await h.log() if s.rev in {2, 3, 4}]
    check(forked, [("one", 2), ("two", 3), ("origin", 4)], "revisions of the commit")


async def _fork_and_join(h: Harness, winner: int) -> None:
    """Let three states meet in a flow; the one that came ``winner``-th goes on."""
    labels = {"join": "group"}

    @h.flows.flow("join")
    async def join(ctx: StateContext, engine: Engine) -> Command[None]:
        for key, value in labels.items():
            ctx.set_label(key, value)
        await engine.do(Commit(Transit(ctx, "join")))
        async with engine.watch(labels=labels) as arrivals:
            won = (await take(arrivals, winner))[-1].id == ctx.current.id
        return Commit(Transit(ctx, "joined") if won else End(ctx))

    _chain(h, "joined", commit=True)
    origin = h.ctx("origin", "join")
    for name in ("a", "b", "c"):
        await h.engine.do(Execute(origin.fork(name)))
    ended: set[str] = set()
    async with h.engine.watch(labels=labels, status=Status.ENDED) as states:
        while len(ended) < 3:
            ended.add((await anext(states)).id)
    check(h.visits, ["joined"], "visits")
    joined = [s.id for s in await h.log() if s.transition.to == "joined"]
    check(joined[0], (await h.log())[winner - 1].id, "which state joined")


@case()
async def fork_join_first_wins(h: Harness) -> None:
    """G6: of three states that meet, all see the same one as the first."""
    await _fork_and_join(h, winner=1)


@case()
async def fork_join_last_wins(h: Harness) -> None:
    """G6: of three states that meet, all see the same one as the last."""
    await _fork_and_join(h, winner=3)


async def _call(h: Harness, *, commit: bool) -> None:
    """Call a flow with the caller stacked into the callee."""

    @h.flows.flow("call")
    async def call(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("call")
        if ctx.resumed:
            return Transit(ctx, "callEnd")
        callee = h.ctx("callee")
        steps = (Pause(ctx), Stack(callee, ctx, "caller"), Transit(callee, "called"))
        await engine.do(Commit(*steps)) if commit else await engine.do(*steps)
        return Execute(callee)

    _chain(h, "called", "calledEnd", commit=commit)
    h.flows.unset("calledEnd")

    @h.flows.flow("calledEnd")
    async def called_end(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("calledEnd")
        caller = h.ctx("replaced")
        steps = (Unstack(ctx, caller, "caller"), Resume(caller), End(ctx))
        await engine.do(Commit(*steps)) if commit else await engine.do(*steps)
        check(caller.current.id, "caller", "the state that was unstacked")
        return Execute(caller)

    _chain(h, "callEnd", commit=commit)
    await h.engine.execute(h.ctx("caller", "call"))
    check(h.visits, ["call", "called", "calledEnd", "call", "callEnd"], "visits")


@case()
async def call_flow_without_commit(h: Harness) -> None:
    """G3: a caller is stacked into its callee and resumed by it, all without the store."""
    await _call(h, commit=False)
    check(await h.log(), [], "log")


@case()
async def call_flow_with_commit(h: Harness) -> None:
    """G1: a caller is paused and stacked, unstacked and resumed, each in one commit."""
    await _call(h, commit=True)
    caller = await h.engine.get_state("caller")
    check(caller.status, Status.ENDED, "status of the caller")


@case()
async def call_flow_with_watch(h: Harness) -> None:
    """G6: a caller watches its callee until that has ended."""

    @h.flows.flow("call")
    async def call(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("call")
        callee = h.ctx("callee", labels={"call": "1"})
        await engine.do(Commit(Transit(callee, "called")), Execute(callee))
        async with engine.watch(labels={"call": "1"}, status=Status.ENDED) as ended:
            await anext(ended)
        return Transit(ctx, "callEnd")

    _chain(h, "called", "calledEnd", commit=True)
    _chain(h, "callEnd", commit=True)
    await h.engine.execute(h.ctx("caller", "call"))
    check(h.visits, ["call", "called", "calledEnd", "callEnd"], "visits")


@case()
async def actor(h: Harness) -> None:
    """G6: a flow that runs for long gets its messages in order, and stops with its engine."""
    sent = [f"message {n}" for n in range(20)]

    @h.flows.flow("actor")
    async def actor(ctx: StateContext, engine: Engine) -> Command[None]:
        try:
            async with engine.watch(labels={"inbox": "actor"}) as inbox:
                async for message in inbox:
                    h.visit(message.annotations["text"])
                    await engine.do(Commit(Transit(ctx, "actor")))
        except EngineStoppedError:
            h.visit("stopped" if ctx.stopping else "failed")
        return Noop()

    h.flows.set("inbox", end)
    async with h.make_engine() as engine:
        await engine.do(Execute(h.ctx("actor", "actor")))
        for n, text in enumerate(sent):
            labels = {"inbox": "actor"}
            message = StateContext(State(f"m-{n}", labels=labels, annotations={"text": text}))
            await engine.do(Commit(Transit(message, "inbox")))
        await h.visited(*sent)
    check(h.visits, [*sent, "stopped"], "visits")
    alive = [s for s in await h.log() if s.id == "actor"]
    check(alive[-1].status, Status.ACTIVE, "status of the actor")


CASES: tuple[Case, ...] = (
    single_flow,
    consecutive_flows,
    two_consecutive_flows_with_commit,
    three_consecutive_flows_with_commit,
    condition,
    fork,
    fork_with_commit,
    fork_join_first_wins,
    fork_join_last_wins,
    call_flow_without_commit,
    call_flow_with_commit,
    call_flow_with_watch,
    actor,
)
