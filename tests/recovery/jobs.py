"""Jobs that go through five flows, each of which adds to a ledger: exactly once, or it shows."""

import random
from datetime import timedelta

from flowstate import (
    Command,
    Commit,
    Delay,
    End,
    Engine,
    Execute,
    Flow,
    FlowRegistry,
    Noop,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.recovery import attempt, set_max_attempts, set_retry_after
from tests.recovery.journal import Entry, Journal

__all__ = [
    "MAX_ATTEMPTS",
    "SUM",
    "create_job",
    "create_ledgers",
    "expected_sums",
    "flows_of",
    "is_job",
    "job_ids",
    "registry",
]

FLOWS = ["receive", "reserve", "charge", "ship", "close"]
DELAYS_ITSELF = "reserve"
PART_OF_DELAYED = 0.25
LEDGERS = 500
BACK_OFF = 0.1  # Else a slow machine does nothing but lose races, which makes it slower.
SUM = "sum"
RETRY_AFTER = 2.0
MAX_ATTEMPTS = 20
LONG = 1.25 * RETRY_AFTER  # Only heartbeats keep such an execution from being recovered.
PART_OF_LONG = 0.02
AT_ONCE = 100


def job_ids(count: int) -> list[str]:
    """Return the ids of so many jobs."""
    return [f"job-{number}" for number in range(count)]


def is_job(state: State) -> bool:
    """Return whether a state is a job, and no ledger or lease."""
    return state.id.startswith("job-")


async def create_ledgers(engine: Engine) -> None:
    """Commit them."""
    contexts = [
        StateContext(State(f"ledger-{number}", annotations={SUM: "0"})) for number in range(LEDGERS)
    ]
    for start in range(0, LEDGERS, AT_ONCE):
        await engine.do(Commit(*map(Pause, contexts[start : start + AT_ONCE])))


async def create_job(engine: Engine, id: str) -> int:
    """Commit a job, without executing it; return its revision."""
    ctx = StateContext(State(id))
    set_retry_after(ctx, timedelta(seconds=RETRY_AFTER))
    set_max_attempts(ctx, MAX_ATTEMPTS)
    await engine.do(Commit(Transit(ctx, FLOWS[0])))
    return ctx.committed.rev


def expected_sums(jobs: int) -> dict[str, int]:
    """Return what the ledgers must come to when each flow of each job has added once."""
    sums = {f"ledger-{number}": 0 for number in range(LEDGERS)}
    for id in job_ids(jobs):
        for flow in FLOWS:
            ledger, amount = _entry(id, flow)
            sums[ledger] += amount
    return sums


def _entry(id: str, flow: str) -> tuple[str, int]:
    chance = random.Random(f"{id} {flow}")
    return f"ledger-{chance.randrange(LEDGERS)}", chance.randint(1, 1_000)


def flows_of(journal: Journal) -> FlowRegistry:
    """Return the flows, which note in a journal what they execute."""

    async def step(ctx: StateContext, engine: Engine) -> Command[None]:
        entry = journal.begin(ctx.committed)
        try:
            await engine.clock.sleep(_pause(ctx.committed))
            return await _add(ctx, engine, entry)
        finally:
            entry.end()

    return registry(step)


def registry(step: Flow | None = None) -> FlowRegistry:
    """Return a registry in which each flow is ``step``, or only known by its name."""
    flows = FlowRegistry()
    for flow in FLOWS:
        if step is None:
            flows.declare(flow)
        else:
            flows.set(flow, step)
    return flows


def _pause(state: State) -> float:
    """Return how long a flow works: mostly some milliseconds."""
    chance = random.Random(f"{state.id} {state.transition.to} works")
    if chance.random() < PART_OF_LONG:
        return LONG / float(2 ** attempt(state))  # The wait of an attempt doubles; this must not.
    return chance.uniform(0, 0.05)


async def _add(ctx: StateContext, engine: Engine, entry: Entry) -> Command[None]:
    """Add to the ledger and take the next step as one, however often others are faster."""
    id, flow = ctx.committed.id, ctx.committed.transition.to
    ledger_id, amount = _entry(id, flow)
    while True:
        ledger = StateContext(await engine.get_state(ledger_id))
        ledger.set_annotation(SUM, str(int(ledger.current.annotations[SUM]) + amount))
        entry.commits()
        try:
            await engine.do(Commit(Pause(ledger), _next(ctx, flow)))
        except RevisionMismatchError as lost:
            if id in lost.ids:
                return Noop()
            entry.goes_on()
            await engine.clock.sleep(random.uniform(0, BACK_OFF))
            continue
        goes_on = ctx.committed.status is Status.ACTIVE and not ctx.committed.delayed_until
        return Execute(ctx) if goes_on else Noop()


def _next(ctx: StateContext, flow: str) -> Command[None]:
    place = FLOWS.index(flow) + 1
    if place == len(FLOWS):
        return End(ctx)
    if flow == DELAYS_ITSELF and random.Random(ctx.committed.id).random() < PART_OF_DELAYED:
        return Delay(ctx, FLOWS[place], after=timedelta(milliseconds=100))
    return Transit(ctx, FLOWS[place])
