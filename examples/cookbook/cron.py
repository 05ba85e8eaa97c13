"""Cron: a state delays itself from slot to slot, and each slot starts a task named after it.

A slot that was missed while nothing ran starts its task late; the slots after it, up to now,
are left out.
"""

import contextlib
from datetime import datetime, timedelta

from cronsim import CronSim

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
)

SCHEDULE = "*/15 * * * *"
TASKS = {"started by": "report"}
flows = FlowRegistry()


def next_slot(ctx: StateContext, now: datetime) -> Delay:
    """Return the command that brings ``ctx`` back at the first slot after ``now``."""
    slot = next(CronSim(SCHEDULE, now))
    return Delay(ctx, "cron", until=slot, annotations={"slot": slot.isoformat()})


@flows.flow("cron")
async def cron(ctx: StateContext, engine: Engine) -> Command[None]:
    slot = ctx.current.transition.annotations["slot"]
    task = StateContext(State(f"report {slot}", labels=TASKS))
    fired = ctx.current.committed_at or engine.clock.now()
    # A delay of nothing starts the task: the delayer executes it, in whatever process.
    return Commit(Delay(task, "task", after=timedelta(0)), next_slot(ctx, fired))


@flows.flow("task")
async def task(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))  # Here goes the work.


async def demo(engine: Engine) -> list[str]:
    """Wait for the tasks of three slots."""
    ctx = StateContext(State("report"))
    with contextlib.suppress(RevisionMismatchError):
        await engine.do(Commit(next_slot(ctx, engine.clock.now())))
    return [f"{state.id}: {state.status}" for state in await reached(engine, TASKS, 3)][:3]
