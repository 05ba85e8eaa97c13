"""How instances end, and how those are set aside that do not fit their code."""

import contextlib
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Raw

from flowstate import CodecError, Command, Commit, End, Receive, StateContext, Transit
from flowstate.engines.kernel.control import CONTROL
from flowstate.engines.kernel.instance import NOTES, ORIGIN, PARKED, RESERVED, Instance, Notes
from flowstate.engines.kernel.telling import mark_of, without_mark

__all__ = ["TELL", "ended", "parked", "take_delivered"]

SELDOM = 16  # Looks after which a day passes before the next one, more or less.
TELL = "workflows.tell"  # The flow in which a child tells its parent that it has ended.


def ended(ctx: StateContext, instance: Instance) -> Command[Any]:
    """Return the command that ends an instance, or lets it tell its parent first.

    If others wait for it, the commit is refused, because it has a mark.
    """
    instance.end(ctx)
    if ORIGIN in ctx.current.values:
        return Commit(Transit(ctx, TELL))
    return Commit(End(ctx), *without_mark(mark_of(ctx.current.id)))


def parked(ctx: StateContext, error: Exception) -> Command[Any]:
    """Set an instance aside as it was committed last, until its code fits.

    It looks again, ever more seldom: while a deployment rolls, another process may have the code.
    """
    ctx.current, looks = ctx.committed, SELDOM
    with contextlib.suppress(CodecError):  # Then they stay where they are.
        notes = ctx.get(Notes, NOTES, default=Notes())
        known = {(name, bytes(raw)) for name, raw in notes.kept if name == CONTROL}
        messages = take_delivered(ctx)
        notes.kept += [each for each in messages if (each[0], bytes(each[1])) not in known]
        looks = min(SELDOM, notes.looks)
        notes.looks = looks + 1
        ctx.put(Raw(msgspec.json.encode(notes)), NOTES)
    ctx.set_label(PARKED, "misfit")
    ctx.put(str(error), PARKED)
    to, wait = ctx.current.transition.to, timedelta(seconds=2**looks)
    return Commit(Receive(ctx, CONTROL, to=to, timeout=wait, timeout_to=to))


def take_delivered(ctx: StateContext) -> list[tuple[str, Raw]]:
    """Return the messages that were delivered to an instance, out of its values.

    There is one at most, unless others have moved the state on before it was taken.
    """
    found = [each for each in ctx.current.values.items() if each[0] not in RESERVED]
    for name, _ in found:
        ctx.remove(name)
    return found
