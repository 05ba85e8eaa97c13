"""Rename of a flow in production: an alias takes what is stored under the old id.

``check`` tells before a deployment what could not go on with the new flows, and later, when
nothing is left under the old id, that the alias may go.
"""

import contextlib
from datetime import timedelta

from examples.cookbook.helpers import reached
from flowstate import (
    Command,
    Commit,
    Delay,
    End,
    Engine,
    FlowRegistry,
    RevisionMismatchError,
    State,
    StateContext,
    check,
)

BILLS = {"kind": "bill"}
before, without_alias, flows = FlowRegistry(), FlowRegistry(), FlowRegistry()


@before.flow("bill")  # As it was called in the last version,
@without_alias.flow("invoice")  # and is called now.
@flows.flow("invoice")
async def invoice(ctx: StateContext, engine: Engine) -> Command:
    return Commit(End(ctx))


flows.alias("bill", "invoice")


async def leave_behind(engine: Engine) -> None:
    """Be the last version, and leave a bill that is due in an hour."""
    bill = StateContext(State("bill 1", labels=BILLS))
    async with Engine(engine.driver, before, clock=engine.clock) as old:
        with contextlib.suppress(RevisionMismatchError):
            await old.do(Commit(Delay(bill, "bill", after=timedelta(hours=1))))


async def demo(engine: Engine) -> list[str]:
    """Deploy the new version; it does what the last one has left."""
    await leave_behind(engine)
    if report := await check(engine):
        return [str(report)]  # Here ends the deployment.
    return [f"{bill.id}: {bill.status}" for bill in await reached(engine, BILLS, 1)]
