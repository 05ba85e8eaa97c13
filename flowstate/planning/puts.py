"""Commits that need no plan: a ``Put`` alone, and a ``Check`` beside a step or a ``Put``."""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from flowstate.commands import Check, Command
from flowstate.context import StateContext, settle
from flowstate.effect_keys import kept, origin_of
from flowstate.ground.limits import check_id, check_rev
from flowstate.planning.steps import FORGET
from flowstate.state import State, Transition
from flowstate.validation import checked

__all__ = ["Checks", "check_beside", "put_alone", "settle_put"]

Checks = tuple[tuple[str, int], ...]
"""Ids, and what the latest revision of each has to be."""


def check_beside(commands: Sequence[Command[Any]], store_id: str) -> Checks:
    """Return the ``Check`` that is the second one of two commands; nothing if that takes a plan."""
    if [type(each) for each in commands[1:]] != [Check]:
        return ()
    check: Any = commands[1]
    ctx = check.ctx
    is_other = type(ctx) is StateContext and ctx is not getattr(commands[0], "ctx", ctx)
    if not is_other or (ctx._store_id or store_id) != store_id or type(ctx.committed) is not State:
        return ()
    check_rev("committed.rev", ctx.committed.rev)
    return ((check_id("state.id", ctx.committed.id), ctx.committed.rev),)


def put_alone(ctx: StateContext) -> State | None:
    """Return the state to put, or ``None`` if that takes a plan.

    It takes none where only labels, annotations and values may differ from what the store gave.
    """
    current, known = ctx.current, ctx.committed
    if type(current) is not State or known is not ctx._known or current is known:
        return None
    last = known.transition
    if (
        current.transition is not last
        or not last.to
        or last.cause == FORGET
        or ctx._steps
        or ctx._trimmed
        or current.timers
        or known.timers
        or current.data
        or known.data
        or not _differs(current, known)
    ):
        return None
    # A revision that begins no step names the one that goes on.
    if not last.origin or last.since:
        last = kept(last, origin_of(last, known, 0))
        current = replace(current, transition=last)
    return checked(current, known, last, is_known=True)


def _differs(current: State, known: State) -> bool:
    try:
        return bool(current != known)
    except Exception:  # noqa: BLE001 - user's values; the check of the state refuses them
        return True


def settle_put(
    stayed: Transition, ctx: StateContext, store_id: str, sent_at: float, verdict: object
) -> None:
    """Make a context what the verdict says, as ``settle`` does; it has taken no step."""
    # A driver may return an equal transition; a new object would look like a step.
    if type(verdict) is tuple and len(verdict) == 1 and verdict[0].transition is not stayed:
        verdict = (replace(verdict[0], transition=stayed),)
    settle(ctx, store_id, sent_at, verdict)
    ctx._stayed = stayed
