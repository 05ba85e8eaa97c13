"""What is done with flowstate to see how long it takes. All return seconds for one unit."""

import asyncio
from time import perf_counter

from flowstate import (
    Command,
    Commit,
    Driver,
    End,
    Engine,
    FlowRegistry,
    State,
    StateContext,
    Transit,
    Transition,
)
from flowstate.driver import Writes

__all__ = ["chains", "commits", "delivery", "fill", "gets", "grow", "pages", "registry"]

LABELS = 100
BATCH = 100


def registry() -> FlowRegistry:
    """Return three flows, of which each commits its step to the next."""
    flows = FlowRegistry()

    @flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command:
        return Commit(Transit(ctx, "second"))

    @flows.flow("second")
    async def second(ctx: StateContext, engine: Engine) -> Command:
        return Commit(Transit(ctx, "third"))

    @flows.flow("third")
    async def third(ctx: StateContext, engine: Engine) -> Command:
        return Commit(End(ctx))

    return flows


async def commits(engine: Engine, count: int, tasks: int = 1, name: str = "hot") -> float:
    """Commit steps, each task those of one state."""

    async def work(ctx: StateContext) -> None:
        for _ in range(count // tasks):
            await engine.do(Commit(Transit(ctx, "first")))

    contexts = [StateContext(State(f"{name}-{task}")) for task in range(tasks)]
    start = perf_counter()
    if tasks == 1:
        await work(contexts[0])
    else:
        await asyncio.gather(*map(work, contexts))
    return (perf_counter() - start) / (count // tasks * tasks)


async def chains(engine: Engine, count: int, tasks: int = 1, name: str = "chain") -> float:
    """Execute states through three flows with three commits; seconds for one flow."""
    first = Transition("first")
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await engine.execute(StateContext(State(f"{name}-{number}", transition=first)))

    start = perf_counter()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return (perf_counter() - start) / (3 * count)


async def fill(driver: Driver, revisions: int) -> None:
    """Commit two revisions of each of so many states, in batches, with a label and a status."""
    states: list[State] = []
    for number in range(0, revisions // 2, BATCH):
        states = [
            State(f"s{n}", labels={"group": str(n % LABELS)}) for n in range(number, number + BATCH)
        ]
        for round_ in range(2):
            batch = [Writes(f"fill-{state.id}-{round_}", (state,)) for state in states]
            verdicts = await driver.commit(batch)
            states = [verdict[0] for verdict in verdicts if isinstance(verdict, tuple)]


async def grow(driver: Driver, states: int, revisions: int, labels: int) -> None:
    """Commit so many revisions, of these states in turn, as an engine would."""
    async with Engine(driver, registry()) as engine:
        contexts: dict[int, StateContext] = {}
        for number in range(revisions):
            which = number % states
            ctx = contexts.pop(which, None) or StateContext(
                State(f"s{which}", labels={f"key{n}": str(which % LABELS) for n in range(labels)})
            )
            await engine.do(Commit(Transit(ctx, "first")))
            if states < revisions:  # Whoever goes on keeps its context; the others would count.
                contexts[which] = ctx


async def gets(engine: Engine, count: int) -> float:
    """Read states by id."""
    start = perf_counter()
    for number in range(count):
        await engine.get_state(f"s{number % BATCH}")
    return (perf_counter() - start) / count


async def pages(engine: Engine, count: int) -> float:
    """Read pages of five latest states by label."""
    start = perf_counter()
    for number in range(count):
        labels = {"group": str(number % LABELS)}
        await engine.get_states(labels=labels, latest_only=True, limit=5)
    return (perf_counter() - start) / count


async def delivery(engine: Engine, count: int, name: str = "watched") -> float:
    """Commit a revision and wait until a watcher has it; the median."""
    ctx = StateContext(State(name, labels={"watched": name}))
    seconds: list[float] = []
    async with engine.watch(labels={"watched": name}, since_rev=await engine.head()) as states:
        for _ in range(count):
            seen = asyncio.ensure_future(anext(states))
            await asyncio.sleep(0)
            start = perf_counter()
            await engine.do(Commit(Transit(ctx, "first")))
            await seen
            seconds.append(perf_counter() - start)
    return sorted(seconds)[len(seconds) // 2]
