"""Timers: set, fired, and pending in numbers while others commit."""

from collections.abc import Iterable
from functools import partial

from benchmarks.flows import FINISH
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.stores.filling import FIRST_DUE, NEVER_STALLS
from benchmarks.stores.pending import timer_body
from benchmarks.suites.commits import commit_together
from benchmarks.suites.delays import PAST, delayed, fire
from benchmarks.suites.measured import Measured, Work
from benchmarks.workload import Sample, Side, Workload
from flowstate import Commit, Delay, Engine, SetTimer, State, StateContext, Transit, Transition
from flowstate.codec import encode_body
from flowstate.driver import NewTimer, Writes
from flowstate.ground.frozen import FrozenDict
from flowstate.state import Timer
from flowstate.timers import timer_id

__all__ = ["NAME", "content", "timed", "workloads"]

NAME = "t"
DUE_PART = 100  # Of those that are pending.
COUNTED = 1_000
ROUNDS = 2
# A commit that has nothing to do with timers pays nothing for them, apart from noise.
UNUSED = 1.1
GROWTH = 1.3
AS_A_DELAY = 1.5


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        yield _pending(engines)
        yield _set(engines)
        yield _fired(engines)


def content(timers: int) -> Content:
    """Return the place on which so many timers are pending."""
    return Content(f"timers{timers}", timers=timers)


def _pending(engines: Engines) -> Workload:
    store = engines.store

    def with_pending(timers: int) -> Measured:
        return _on(engines, timers, partial(_commit, engines), store.operations)

    return Workload(
        f"commit, {store.log:,} timers pending",
        store.name,
        "commit",
        with_pending(store.log),
        (Side(_few(engines), "small", with_pending(store.small_log), mark=UNUSED),),
    )


def _set(engines: Engines) -> Workload:
    store, setting_timers = engines.store, partial(_set_timers, engines)
    few = _on(engines, store.small_log, setting_timers, store.operations)
    delays = _on(engines, store.log, partial(_set_delays, engines), store.operations)
    return Workload(
        f"commit that sets a timer, {store.log:,} timers pending",
        store.name,
        "commit",
        _on(engines, store.log, setting_timers, store.operations),
        (
            Side(_few(engines), "small", few, mark=GROWTH),
            Side("with a delay instead", "small", delays, mark=AS_A_DELAY),
        ),
    )


def _fired(engines: Engines) -> Workload:
    store = engines.store
    due = store.log // DUE_PART

    def firing(timers: int, work: Work) -> Measured:
        return _on(engines, timers, work, due, counted=min(due, COUNTED))

    timers, delays = partial(fire, engines, timed), partial(fire, engines, delayed)
    return Workload(
        f"{due:,} timers due at once, {store.log:,} timers pending",
        store.name,
        "timer",
        firing(store.log, timers),
        (
            Side(_few(engines), "small", firing(store.small_log, timers), mark=GROWTH),
            Side("as many delays", "small", firing(store.log, delays), mark=AS_A_DELAY),
        ),
        rounds=ROUNDS,
    )


def _on(
    engines: Engines, timers: int, work: Work, units: int, *, counted: int | None = None
) -> Measured:
    return Measured(engines, content(timers), work, units, counted=counted)


def _few(engines: Engines) -> str:
    return f"{engines.store.small_log:,} timers pending"


async def _commit(engines: Engines, engine: Engine, count: int) -> Sample:
    return await commit_together(engine, count, 1, engines.unique(), NEVER_STALLS)


async def _set_timers(engines: Engines, engine: Engine, count: int) -> Sample:
    contexts = _contexts(engines.unique(), count)
    watch = Stopwatch()
    for ctx in contexts:
        timer = SetTimer(ctx, NAME, FINISH, until=FIRST_DUE)
        await engine.do(Commit(Transit(ctx, "first"), timer))
    return watch.sample(count)


async def _set_delays(engines: Engines, engine: Engine, count: int) -> Sample:
    contexts = _contexts(engines.unique(), count)
    watch = Stopwatch()
    for ctx in contexts:
        await engine.do(Commit(Transit(ctx, "first"), Delay(ctx, FINISH, until=FIRST_DUE)))
    return watch.sample(count)


def _contexts(name: str, count: int) -> list[StateContext]:
    return [
        StateContext(State(f"{name}-{number}", annotations=NEVER_STALLS)) for number in range(count)
    ]


def timed(id: str) -> Writes:
    """Return the commit of a state with a timer that is due."""
    timers = FrozenDict({NAME: Timer(FINISH, PAST)})
    state = State(id, transition=Transition("first"), timers=timers)
    row = NewTimer(timer_id(id, NAME), NAME, 0, FINISH, PAST, None, timer_body(NAME))
    body = encode_body(state)
    return Writes(id, (state,), (body,), timers=(row,), size=len(body))
