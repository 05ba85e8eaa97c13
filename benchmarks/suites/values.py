"""Values: a step reads what the one before has put, changes it, and commits it."""

from collections.abc import Callable, Iterable
from functools import partial

import msgspec
from msgspec import Struct

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Side, Workload
from flowstate import Commit, Engine, State, StateContext, Transit

__all__ = ["CONTENT", "KEY", "Order", "commit_steps", "workloads"]

CONTENT = Content("values")
KEY = "order"
MARKS = {"memory": 2.0, "sqlite": 1.3, "postgres": 1.3, "redis": 1.3}


class Order(Struct, frozen=True):
    """What is kept."""

    number: int
    customer: str = "c-4711"
    currency: str = "EUR"
    items: tuple[str, ...] = ("book", "lamp", "pen")


Change = Callable[[StateContext], None]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Order).decode


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    return map(_values, engines_of(setting))


def _values(engines: Engines) -> Workload:
    def changing(change: Change) -> Measured:
        work = partial(commit_steps, engines.unique, change)
        return Measured(engines, CONTENT, work, engines.store.commits)

    name = engines.store.name
    return Workload(
        "commit with a value",
        name,
        "commit",
        changing(put_next),
        (
            Side("JSON in an annotation", "small", changing(_annotate_next), mark=MARKS[name]),
            Side("without either", "small", changing(_keep)),
        ),
    )


async def commit_steps(
    unique: Callable[[], str], change: Change, engine: Engine, count: int
) -> Sample:
    """Commit so many steps of one state, and change it before each.

    Args:
        unique: makes the id of the state.
        change: changes it.
        engine: to commit with.
        count: of steps.
    """
    ctx = StateContext(State(unique()))
    watch = Stopwatch()
    for _ in range(count):
        change(ctx)
        await engine.do(Commit(Transit(ctx, "first")))
    return watch.sample(count)


def put_next(ctx: StateContext) -> None:
    """Put the next order."""
    order = ctx.get(Order, KEY, default=None)
    ctx.put(Order(order.number + 1 if order else 1), KEY)


def _annotate_next(ctx: StateContext) -> None:
    kept = ctx.current.annotations.get(KEY)
    ctx.set_annotation(KEY, _encode(Order(_decode(kept).number + 1 if kept else 1)).decode())


def _keep(ctx: StateContext) -> None:
    pass
