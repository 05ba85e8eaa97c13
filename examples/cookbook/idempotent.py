"""Idempotent external calls: the key names the state, the revision of this step, and its flow.

A step that is done again, after a crash or by two executions at once, sends the same key, and
the next step sends another one.
"""

import contextlib

from examples.cookbook.helpers import reached
from flowstate import (
    Command,
    Commit,
    Data,
    End,
    Engine,
    Execute,
    FlowRegistry,
    RevisionMismatchError,
    State,
    StateContext,
    StoreData,
    Transit,
    recovery,
)

PAYMENTS = {"kind": "payment"}
flows = FlowRegistry()


class Bank:
    """Stands for a service that answers a key it has seen with the same receipt."""

    def __init__(self) -> None:
        self.receipts: dict[str, bytes] = {}

    async def charge(self, key: str, cents: int) -> bytes:
        return self.receipts.setdefault(key, f"{cents} cents, receipt {key}".encode())


bank = Bank()


@flows.flow("charge")
async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
    key = recovery.idempotency_key(ctx)
    receipt = await bank.charge(key, int(ctx.current.annotations["cents"]))
    ctx.data["receipt"] = Data(receipt)
    return Commit(StoreData(ctx, "receipt"), Transit(ctx, "charged"))


@flows.flow("charged")
async def charged(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


async def demo(engine: Engine) -> list[str]:
    """Charge a payment and read its receipt back."""
    payment = State("payment", labels=PAYMENTS, annotations={"cents": "995"})
    ctx = StateContext(payment)
    with contextlib.suppress(RevisionMismatchError):
        await engine.do(Commit(Transit(ctx, "charge")), Execute(ctx))
    (state,) = await reached(engine, PAYMENTS, 1)
    receipt = await engine.get_data(StateContext(state), "receipt")
    return [f"{state.id}: {receipt.blob.decode()}"]
