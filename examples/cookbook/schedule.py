"""A job once a night by the clock on the wall: daylight saving neither skips nor repeats it.

A time that the clock leaves out is made up for at once; one that it has twice counts once.
"""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim

from examples.cookbook.helpers import begin, reached
from flowstate import Command, Commit, Delay, End, Engine, FlowRegistry, State, StateContext

ZONE = ZoneInfo("Europe/Berlin")
SCHEDULE = "30 2 * * *"
CHANGES = {"spring": (3, 30), "autumn": (10, 26)}
flows = FlowRegistry()


@flows.flow
async def wait(ctx: StateContext, engine: Engine) -> Command:
    """Wait for the slot after the last one, but for none that has passed."""
    last = max(ctx.get(datetime), engine.clock.now())
    slot = next(CronSim(SCHEDULE, last.astimezone(ZONE)))
    ctx.put(slot)
    return Commit(Delay(ctx, "fire", until=slot))


@flows.flow
async def fire(ctx: StateContext, engine: Engine) -> Command:
    """Start the job of the slot, which is named after it."""
    name = f"job of {ctx.get(datetime).astimezone(ZONE).isoformat()}"
    job = StateContext(State(name, labels={"plan": ctx.current.id}))
    now = timedelta(0)
    return Commit(Delay(job, "work", after=now), Delay(ctx, "wait", after=now))


@flows.flow
async def work(ctx: StateContext, engine: Engine) -> Command:
    return Commit(End(ctx))  # Here goes the work.


async def demo(engine: Engine) -> list[str]:
    """Work in the nights around the changes of the clock."""
    jobs = list[State]()
    for plan, (month, day) in CHANGES.items():
        await begin(engine, State(plan), "wait", datetime(2030, month, day, tzinfo=ZONE))
        jobs += await reached(engine, {"plan": plan}, 3)
        await engine.update(plan, End)
    return [job.id for job in jobs]
