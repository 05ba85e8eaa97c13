"""Saga: steps one after the other; a refused one undoes those before it, the last one first.

``done`` counts the steps whose success is committed.
"""

from examples.cookbook.helpers import begin, reached
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    RetryPolicy,
    State,
    StateContext,
    Transit,
)

STEPS = ("flight", "hotel", "card")
flows = FlowRegistry()


class RefusedError(Exception):
    """The service says no: nothing has happened, and asking again does not help."""


class Services:
    """Stands for the outside world. It knows a request that it has seen by its key."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.booked: list[tuple[str, str]] = []

    async def book(self, key: str, trip: str, what: str) -> None:
        if trip == "poor" and what == "card":
            raise RefusedError("no money")
        if key not in self.seen:
            self.seen.add(key)
            self.booked.append((trip, what))

    async def cancel(self, key: str, trip: str, what: str) -> None:
        if key not in self.seen:
            self.seen.add(key)
            self.booked.remove((trip, what))


services = Services()


@flows.flow(retry=RetryPolicy(attempts=10, never=RefusedError), on_failure="back")
async def forward(ctx: StateContext, engine: Engine) -> Command:
    done = ctx.get(int, "done", default=0)
    if done == len(STEPS):
        return Commit(End(ctx))
    await services.book(ctx.effect_key, ctx.current.id, STEPS[done])
    ctx.put(done + 1, "done")
    return Commit(Transit(ctx, "forward"))


@flows.flow(retry=RetryPolicy(attempts=1_000))
async def back(ctx: StateContext, engine: Engine) -> Command:
    done = ctx.get(int, "done", default=0)
    if not done:
        return Commit(End(ctx))
    await services.cancel(ctx.effect_key, ctx.current.id, STEPS[done - 1])
    ctx.put(done - 1, "done")
    return Commit(Transit(ctx, "back"))


async def demo(engine: Engine) -> list[str]:
    """Book a trip that succeeds, and one that is refused at its last step."""
    for id in ("rich", "poor"):
        await begin(engine, State(id, labels={"kind": "trip"}), "forward")
    trips = await reached(engine, {"kind": "trip"}, 2)
    return [f"{trip.id}: {trip.get(int, 'done')} steps done" for trip in trips]
