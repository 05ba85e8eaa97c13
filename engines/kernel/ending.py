"""How instances end, and how those are set aside that do not fit their code."""

import contextlib
from typing import Any

import msgspec
from msgspec import Raw

from flowstate import CodecError, Command, Commit, End, Receive, StateContext, Transit
from flowstate.engines.kernel.control import CONTROL
from flowstate.engines.kernel.instance import (
    NOTES,
    ORIGIN,
    PARKED,
    RESERVED,
    Instance,
    Notes,
)

__all__ = ["TELL", "ended", "parked", "take_delivered"]

TELL = "workflows.tell"  # The flow in which a child tells its parent that it has ended.


def ended(ctx: StateContext, instance: Instance) -> Command[Any]:
    """Return the command that ends an instance, or lets it tell its parent first."""
    instance.end(ctx)
    if ORIGIN in ctx.current.values:
        return Commit(Transit(ctx, TELL))
    return Commit(End(ctx))


def parked(ctx: StateContext, error: Exception) -> Command[Any]:
    """Set an instance aside as it was committed last, until its code fits."""
    ctx.current = ctx.committed
    with contextlib.suppress(CodecError):  # Then they stay where they are.
        notes = ctx.get(Notes, NOTES, default=Notes())
        known = {(name, bytes(raw)) for name, raw in notes.kept if name == CONTROL}
        messages = take_delivered(ctx)
        notes.kept += [each for each in messages if (each[0], bytes(each[1])) not in known]
        if notes.kept:
            ctx.put(Raw(msgspec.json.encode(notes)), NOTES)
    ctx.set_label(PARKED, "misfit")
    ctx.put(str(error), PARKED)
    return Commit(Receive(ctx, CONTROL, to=ctx.current.transition.to))


def take_delivered(ctx: StateContext) -> list[tuple[str, Raw]]:
    """Return the messages that were delivered to an instance, out of its values.

    There is one at most, unless others have moved the state on before it was taken.
    """
    found = [each for each in ctx.current.values.items() if each[0] not in RESERVED]
    for name, _ in found:
        ctx.remove(name)
    return found
