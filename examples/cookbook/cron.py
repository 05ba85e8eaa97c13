"""Cron: a state delays itself from slot to slot, and each slot starts a task named after it.

A slot that was missed while nothing ran starts its task late; the slots after it, up to now,
are left out.
"""

from datetime import datetime, timedelta

from cronsim import CronSim

from examples.cookbook.helpers import begin, reached
from flowstate import Command, Commit, Delay, End, Engine, FlowRegistry, State, StateContext

SCHEDULE = "*/15 * * * *"
TASKS = {"started by": "report"}
flows = FlowRegistry()


@flows.flow
async def cron(ctx: StateContext, engine: Engine) -> Command:
    starts = []
    if slot := ctx.get(datetime, "slot", default=None):
        task = StateContext(State(f"report {slot.isoformat()}", labels=TASKS))
        starts = [Delay(task, "task", after=timedelta(0))]
    following = next(CronSim(SCHEDULE, engine.clock.now()))
    ctx.put(following, "slot")
    return Commit(*starts, Delay(ctx, "cron", until=following))


@flows.flow
async def task(ctx: StateContext, engine: Engine) -> Command:
    return Commit(End(ctx))  # Here goes the work.


async def demo(engine: Engine) -> list[str]:
    """Wait for the tasks of three slots."""
    await begin(engine, State("report"), "cron")
    return [f"{state.id}: {state.status}" for state in await reached(engine, TASKS, 3)][:3]
