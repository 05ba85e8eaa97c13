"""Outbox to a webhook: what is committed is delivered, at least once, with a key, in order."""

from examples.cookbook.helpers import begin
from flowstate import Command, Commit, End, Engine, FlowRegistry, State, StateContext, Status
from flowstate.recovery import Consumer

ORDERS = {"kind": "order"}
flows = FlowRegistry()


class Endpoint:
    """Stands for a service that knows its keys. Its first reply to each gets lost."""

    def __init__(self) -> None:
        self.received: dict[str, str] = {}

    async def post(self, key: str, body: str) -> None:
        if key not in self.received:
            self.received[key] = body
            raise ConnectionError("no answer")


endpoint = Endpoint()


async def deliver(state: State) -> None:
    await endpoint.post(f"{state.id}:{state.rev}", f"{state.id} {state.status}")


@flows.flow
async def order(ctx: StateContext, engine: Engine) -> Command:
    return Commit(End(ctx))


async def demo(engine: Engine) -> list[str]:
    """Deliver the end of each of three orders."""
    async with Consumer(engine, "webhook", deliver, labels=ORDERS, status=Status.ENDED):
        for number in range(3):
            await begin(engine, State(f"order {number}", labels=ORDERS), "order")
        while len(endpoint.received) < 3:
            await engine.clock.sleep(0.1)
    return sorted(endpoint.received.values())
