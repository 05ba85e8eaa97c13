"""Batch import: each commit has a batch of new states, and how far the import has come."""

from collections.abc import Sequence
from itertools import islice

from msgspec import Struct

from examples.cookbook.helpers import begin
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    Put,
    State,
    StateContext,
    Status,
    Transit,
)

BATCH = 100  # One commit takes up to 128 states.
flows = FlowRegistry()


class Progress(Struct, frozen=True):
    read: int = 0
    refused: Sequence[str] = ()


def lines() -> list[str]:
    """Stands for a file."""
    return [f"{number}" if number % 100 else "?" for number in range(1, 251)]


@flows.flow
async def load(ctx: StateContext, engine: Engine) -> Command:
    progress = ctx.get(Progress)
    batch = list(islice(lines(), progress.read, progress.read + BATCH))
    rows, refused = [], list(progress.refused)
    for number, line in enumerate(batch, progress.read + 1):
        if not line.isdecimal():
            refused.append(f"line {number}: {line}")
            continue
        row = StateContext(State(f"row {number}", labels={"import": ctx.current.id}))
        row.put(int(line))
        rows.append(Put(row))
    ctx.put(Progress(progress.read + len(batch), refused))
    return Commit(*rows, Transit(ctx, "load") if batch else End(ctx))


async def demo(engine: Engine) -> list[str]:
    """Import 250 lines, of which two are wrong."""
    await begin(engine, State("import"), "load", Progress())
    state = await engine.wait_for("import", status=Status.ENDED)
    progress = [old.get(Progress).read async for old in engine.history("import")]
    count = await engine.count(labels={"import": "import"})
    return [
        f"progress: {sorted(set(progress))}",
        f"{count} rows; refused: {', '.join(state.get(Progress).refused)}",
    ]
