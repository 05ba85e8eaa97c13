"""A bug that only a crash shows, found in milliseconds: a card that is charged twice.

``careless`` charges the card, and then commits that it did. A process that dies between the two
has charged, and no process knows; recovery charges again. ``careful`` sends the same key with
each attempt, and the bank knows a key that it has seen.

Run it: ``python -m examples.double_charge``.
"""

from collections.abc import Callable

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Execute,
    FlowRegistry,
    State,
    StateContext,
    Transit,
    recovery,
)
from flowstate.testing import explore_crashes


class Bank:
    """Stands for a payment service: a key that it has seen is no new charge."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.charges: list[tuple[str, int]] = []

    async def charge(self, card: str, cents: int, key: str | None = None) -> None:
        if key is None or key not in self.keys:
            self.charges.append((card, cents))
        if key is not None:
            self.keys.add(key)


def careless(bank: Bank) -> FlowRegistry:
    flows = FlowRegistry()

    @flows.flow("charge")
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await bank.charge(ctx.current.annotations["card"], 995)
        return Commit(Transit(ctx, "ship"))

    flows.set("ship", ship)
    return flows


def careful(bank: Bank) -> FlowRegistry:
    flows = FlowRegistry()

    @flows.flow("charge")
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        card = ctx.current.annotations["card"]
        await bank.charge(card, 995, key=recovery.idempotency_key(ctx))
        return Commit(Transit(ctx, "ship"))

    flows.set("ship", ship)
    return flows


async def ship(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


async def order(engine: Engine, bank: Bank) -> None:
    """Place an order, as a request of a customer does."""
    ctx = StateContext(State("order-1", annotations={"card": "4242"}))
    await engine.do(Commit(Transit(ctx, "charge")), Execute(ctx))


def explore(make_flows: Callable[[Bank], FlowRegistry]) -> str:
    """Let the process die everywhere; say what comes out."""
    try:
        explored = explore_crashes(Bank, make_flows, order, outside=lambda bank: bank.charges)
    except AssertionError as error:
        return str(error)
    return f"nothing is wrong in {explored}"


if __name__ == "__main__":
    print(f"careless:\n\n{explore(careless)}\n\ncareful:\n\n{explore(careful)}")
