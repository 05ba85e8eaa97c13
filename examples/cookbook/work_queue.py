"""Queue: jobs wait in the store, until a worker has room for them.

A worker is a process with an engine and a ``Delayer``; there may be any number of them.
"""

import contextlib

from examples.cookbook.helpers import reached
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    RetryPolicy,
    RevisionMismatchError,
    State,
    StateContext,
)

QUEUE = {"queue": "mail"}
flows = FlowRegistry()


@flows.flow(retry=RetryPolicy(attempts=5), timeout=60.0)
async def handle(ctx: StateContext, engine: Engine) -> Command:
    return Commit(End(ctx))  # Here goes the work, with ``ctx.get(str)``.


async def put(engine: Engine, id: str, text: str) -> None:
    """Put a job at the end of the queue; one with the same id is put once."""
    job = StateContext(State(id, labels=QUEUE))
    job.put(text)
    with contextlib.suppress(RevisionMismatchError):
        await engine.start(job, "handle", elsewhere=True)


async def demo(engine: Engine) -> list[str]:
    """Let workers do five jobs; this process is one of them."""
    for number in range(5):
        await put(engine, f"mail {number}", "Hello!")
    return [f"{state.id}: {state.status}" for state in await reached(engine, QUEUE, 5)]
