"""Saga: steps one after the other; a refused one undoes those before it, the last one first.

``done`` counts the steps whose success is committed. A step that is done again after a crash
has the same key, so the service does it once.
"""

import contextlib

from examples.cookbook.helpers import reached
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Execute,
    FlowRegistry,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
    recovery,
)

STEPS = ("flight", "hotel", "card")
TRIPS = {"kind": "trip"}
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


@flows.flow("forward")
async def forward(ctx: StateContext, engine: Engine) -> Command[None]:
    done = int(ctx.current.annotations.get("done", "0"))
    if done == len(STEPS):
        return Commit(End(ctx))
    try:
        await services.book(key_of(ctx), ctx.current.id, STEPS[done])
    except RefusedError as reason:
        return Commit(Transit(ctx, "back", {"because": f"{STEPS[done]}: {reason}"}))
    ctx.set_annotation("done", str(done + 1))
    return Commit(Transit(ctx, "forward"))


@flows.flow("back")
async def back(ctx: StateContext, engine: Engine) -> Command[None]:
    done = int(ctx.current.annotations.get("done", "0"))
    if done == 0:
        return Commit(End(ctx))
    await services.cancel(key_of(ctx), ctx.current.id, STEPS[done - 1])
    ctx.set_annotation("done", str(done - 1))
    return Commit(Transit(ctx, "back"))


def key_of(ctx: StateContext) -> str:
    """Name this step of this state: the same when it is done again after a crash."""
    return recovery.idempotency_key(ctx)


async def demo(engine: Engine) -> list[str]:
    """Book a trip that succeeds, and one that is refused at its last step."""
    for id in ("rich", "poor"):
        ctx = StateContext(State(id, labels=TRIPS))
        with contextlib.suppress(RevisionMismatchError):
            await engine.do(Commit(Transit(ctx, "forward")), Execute(ctx))
    trips = await reached(engine, TRIPS, 2)
    return [f"{trip.id}: {trip.annotations['done']} steps done" for trip in trips]
