"""flowstate, at what the others do too."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from benchmarks.definitions import Nothing, three
from benchmarks.peers.work import Works, looped, repeated
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
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.engines.workflow import Workflows

__all__ = ["in_memory", "on_postgres", "on_sqlite", "transitions"]

TO = ("first", "second")
DRAFTED = 10  # Steps of one context: it keeps all that were taken since its last commit.


def three_flows() -> FlowRegistry:
    """Return three flows, of which each commits its step to the next, and the last the end."""
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


def in_memory(place: str) -> AbstractAsyncContextManager[Works]:
    """Three steps, kept as long as the process lives."""
    return _steps(MemoryDriver())


def on_sqlite(place: str) -> AbstractAsyncContextManager[Works]:
    """Three steps, each safe from a power cut before the next begins."""
    return _steps(SQLiteDriver(Path(place) / f"{secrets.token_hex(8)}.db"))


def on_postgres(place: str) -> AbstractAsyncContextManager[Works]:
    """Three steps, each committed before the next begins."""
    return _steps(PostgresDriver(place))


@asynccontextmanager
async def _steps(driver: Driver) -> AsyncIterator[Works]:
    first = Transition("first")
    async with (
        Engine(driver, three_flows()) as engine,
        Workflows(engine, [three]) as workflows,
    ):

        async def chain() -> None:
            await engine.execute(StateContext(State(secrets.token_hex(16), transition=first)))

        async def run() -> None:
            id = secrets.token_hex(16)
            await workflows.start(three, id, Nothing())
            await workflows.result(id)

        yield {"rate": repeated(chain), "workflow rate": repeated(run)}


@asynccontextmanager
async def transitions(place: str) -> AsyncIterator[Works]:
    """Steps that stay on the context, and steps of which each becomes a revision."""
    async with Engine(MemoryDriver(), three_flows()) as engine:
        committed = StateContext(State("one"))

        async def drafted(count: int) -> None:
            for _ in range(count // DRAFTED):
                ctx = StateContext(State("two"))
                for number in range(DRAFTED):
                    await engine.do(Transit(ctx, TO[number % 2]))

        async def stored(count: int) -> None:
            for number in range(count):
                await engine.do(Commit(Transit(committed, TO[number % 2])))

        yield {"rate": looped(drafted), "committed rate": looped(stored)}
