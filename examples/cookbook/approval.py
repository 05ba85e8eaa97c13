"""Human approval with a timeout: the first one decides, a person or the timer."""

from datetime import timedelta

from msgspec import Struct

from examples.cookbook.helpers import begin, reached
from flowstate import Command, Commit, End, Engine, FlowRegistry, Receive, State, StateContext

flows = FlowRegistry()


class Answer(Struct):
    verdict: str
    by: str


@flows.flow
async def ask(ctx: StateContext, engine: Engine) -> Command:
    wait = timedelta(days=3)
    return Commit(Receive(ctx, "answer", to="decide", timeout=wait, timeout_to="decide"))


@flows.flow
async def decide(ctx: StateContext, engine: Engine) -> Command:
    answer = ctx.get(Answer, "answer", default=Answer("expired", "nobody"))
    ctx.put(answer, "answer")
    return Commit(End(ctx))  # Here goes what follows from the answer.


async def demo(engine: Engine) -> list[str]:
    """Ask twice: the first request is approved, the second gets no answer."""
    for id in ("holiday", "car"):
        await begin(engine, State(id, labels={"kind": "request"}), "ask")
    await engine.signal("holiday", "answer", Answer("approved", "anna"), key="from anna")
    requests = await reached(engine, {"kind": "request"}, 2)
    return [f"{request.id}: {request.get(Answer, 'answer').verdict}" for request in requests]
