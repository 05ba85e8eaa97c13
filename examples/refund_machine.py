"""A refund as a machine: a bank that is busy at times, an answer that comes as an event, apologies.

Run ``python -m examples.refund_machine refunds.db`` and kill it while it waits for the bank; run it
again with ``--settle`` or ``--refuse``, and the refund goes on.
"""

import asyncio
import sys
from datetime import timedelta

from msgspec import Struct

from flowstate import Delayer, Engine, FlowRegistry, State, Status
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.engines.logic import (
    Arrived,
    AwaitAny,
    Cancelled,
    CloudEvent,
    Done,
    Entered,
    Event,
    Machine,
    Machines,
    Next,
    Problem,
    Retry,
    Returned,
    Run,
    To,
    Wake,
    log,
)
from flowstate.engines.workflow import effect_key
from flowstate.recovery import Recoverer


class Refund(Struct):
    cents: int
    receipt: str = ""


booked: dict[str, str] = {}  # Stands for the services: a key that they have seen is nothing new.
busy = 2  # How often the bank is, before it listens.


async def give_back(cents: int) -> str:
    """Ask the bank."""
    global busy  # noqa: PLW0603 - a stand-in
    if busy:
        busy -= 1
        raise Problem("bank.busy", "try again")
    booked.setdefault(effect_key(), f"give back {cents}")
    return f"receipt for {cents}"


async def write_letter(text: str) -> None:
    """Write to the customer."""
    booked.setdefault(effect_key(), text)


refunds = Machine("refund", Refund, catch={"*": "apologise"})


@refunds.state("ask", timeout=timedelta(days=2))
async def ask(s: Refund, wake: Wake) -> Next | None:
    """Give the money back, and wait for what the bank says."""
    match wake:
        case Entered():
            retry = Retry(["bank.busy"], attempts=5, first=3, factor=1.5)
            return Run(give_back, s.cents, retry=retry)
        case Returned(receipt):
            s.receipt = receipt
            return AwaitAny(Event("settled", receipt=receipt), Event("refused", receipt=receipt))
        case Arrived(Event(type="settled")):
            return To("thank")
        case Arrived(event):
            raise Problem("bank.refused", event.data["why"])
        case Cancelled():
            return To("apologise")
    return None


@refunds.state("thank")
async def thank(s: Refund, wake: Wake) -> Next:
    """Say that it is done."""
    log("thanks", cents=s.cents)
    if isinstance(wake, Returned):
        return Done("settled")
    return Run(write_letter, f"{s.cents} cents are yours again")


@refunds.state("apologise")
async def apologise(_: Refund, wake: Wake) -> Next:
    """Say why it is not."""
    if isinstance(wake, Returned):
        return Done("refused")
    problem = wake.problem if isinstance(wake, Entered) else None
    return Run(write_letter, f"sorry: {problem or 'it was cancelled'}")


def is_settled(state: State) -> bool:
    """Whether a refund waits for the bank, or is over."""
    return any(key.startswith("awaits.") for key in state.labels) or state.status is Status.ENDED


async def main(path: str, *options: str) -> None:
    """Give 995 cents back."""
    async with (
        Engine(SQLiteDriver(path), FlowRegistry()) as engine,
        Recoverer(engine),
        Delayer(engine),
        Machines(engine, [refunds]) as machines,
    ):
        await machines.start(refunds, "refund-1", Refund(995))
        await engine.wait_for("refund-1", until=is_settled)
        print(await machines.explain("refund-1"), flush=True)
        receipt = {"receipt": "receipt for 995"}
        if "--settle" in options:
            await machines.publish(CloudEvent("1", "/bank", "settled", extensions=receipt))
        if "--refuse" in options:
            data = {"why": "the account is closed"}
            refused = CloudEvent("2", "/bank", "refused", data=data, extensions=receipt)
            await machines.publish(refused)
        print(await machines.result("refund-1"), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
