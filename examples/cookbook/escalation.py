"""Approval with a reminder and an escalation: one wait after the other, each with a timeout."""

from datetime import timedelta

from examples.cookbook.helpers import begin, reached
from flowstate import Command, Commit, End, Engine, FlowRegistry, Receive, State, StateContext

DAY = timedelta(days=1)
flows = FlowRegistry()
sent: dict[str, str] = {}  # Stands for a mail server that knows its keys.


@flows.flow
async def ask(ctx: StateContext, engine: Engine) -> Command:
    return Commit(Receive(ctx, "answer", to="decide", timeout=DAY, timeout_to="remind"))


@flows.flow
async def remind(ctx: StateContext, engine: Engine) -> Command:
    sent[ctx.effect_key] = f"to anna: {ctx.current.id}?"
    return Commit(Receive(ctx, "answer", to="decide", timeout=2 * DAY, timeout_to="escalate"))


@flows.flow
async def escalate(ctx: StateContext, engine: Engine) -> Command:
    sent[ctx.effect_key] = f"to anna's boss: {ctx.current.id}?"
    return Commit(Receive(ctx, "answer", to="decide", timeout=4 * DAY, timeout_to="decide"))


@flows.flow
async def decide(ctx: StateContext, engine: Engine) -> Command:
    ctx.put(ctx.get(str, "answer", default="expired"), "answer")
    return Commit(End(ctx))


async def demo(engine: Engine) -> list[str]:
    """Ask twice: one request is approved after a reminder, the other one gets no answer."""
    for id in ("holiday", "car"):
        await begin(engine, State(id, labels={"kind": "request"}), "ask")
    await engine.wait_for("holiday", until=lambda state: state.transition.to != "ask")
    await engine.signal("holiday", "answer", "approved", key="from anna")
    requests = await reached(engine, {"kind": "request"}, 2)
    return [f"{request.id}: {request.get(str, 'answer')}" for request in requests] + sorted(
        sent.values()
    )
