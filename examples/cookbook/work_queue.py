"""Queue: paused states under a label are taken in the order in which they were put."""

import asyncio
import contextlib
import logging

from examples.cookbook.helpers import oldest, reached
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    Pause,
    Resume,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)

QUEUE = {"queue": "mail"}
flows = FlowRegistry()
logger = logging.getLogger(__name__)


@flows.flow("handle")
async def handle(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))  # Here goes the work.


async def put(engine: Engine, id: str) -> None:
    """Put a job at the end of the queue; one with the same id is put once."""
    job = StateContext(State(id, labels=QUEUE))
    with contextlib.suppress(RevisionMismatchError):
        await engine.do(Commit(Transit(job, "handle"), Pause(job)))


async def work(engine: Engine) -> None:
    """Take jobs, the oldest first, until cancelled; any number of workers may run."""
    while True:
        job = StateContext(await oldest(engine, QUEUE))
        try:
            await engine.do(Commit(Resume(job)))
        except RevisionMismatchError:
            continue  # Another worker has taken it.
        try:
            await engine.execute(job)
        except Exception:
            logger.exception("job %r failed", job.current.id)


async def demo(engine: Engine) -> list[str]:
    """Let two workers take five jobs."""
    workers = [asyncio.create_task(work(engine)) for _ in range(2)]
    for number in range(5):
        await put(engine, f"mail {number}")
    done = await reached(engine, QUEUE, 5)
    for task in workers:
        task.cancel()
    await asyncio.wait(workers)
    return [f"{state.id}: {state.status}" for state in done]
