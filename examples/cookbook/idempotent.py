"""Idempotent external calls: however often a step runs, it sends the same key."""

from examples.cookbook.helpers import begin
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    RetryPolicy,
    State,
    StateContext,
    Status,
)

flows = FlowRegistry()


class Bank:
    """Stands for a service that knows its keys. Its first reply to each gets lost."""

    def __init__(self) -> None:
        self.receipts: dict[str, str] = {}

    async def charge(self, key: str, cents: int) -> str:
        if key not in self.receipts:
            self.receipts[key] = f"{cents} cents, receipt {key}"
            raise ConnectionError("no answer")
        return self.receipts[key]


bank = Bank()


@flows.flow(retry=RetryPolicy(attempts=5, first=0.1, on=ConnectionError))
async def charge(ctx: StateContext, engine: Engine) -> Command:
    ctx.put(await bank.charge(ctx.effect_key, ctx.get(int)), "receipt")
    return Commit(End(ctx))


async def demo(engine: Engine) -> list[str]:
    """Charge a payment and read its receipt back."""
    await begin(engine, State("payment"), "charge", 995)
    state = await engine.wait_for("payment", status=Status.ENDED)
    return [f"{state.id}: {state.get(str, 'receipt')}"]
