"""Lets instances go on that have ended without a result."""

import contextlib

from msgspec.structs import replace

from flowstate import State, StateContext
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.instance import ERROR, OUTCOME, Codes, Instance, Notes
from flowstate.engines.kernel.threads import MAIN, Thread

__all__ = ["begin_again", "new_notes", "revive", "revived"]


def revive(ctx: StateContext) -> None:
    """Take from a state what says that its instance has ended."""
    ctx.remove(ERROR)
    ctx.set_label(OUTCOME, None)


def new_notes(instance: Instance) -> Notes:
    """Return the notes of an instance that begins once more."""
    timeout = instance.code.options.timeout
    return Notes(timeout=None if timeout is None else timeout.total_seconds())


def begin_again(instance: Instance) -> bool:
    """Let the main thread stand before its last stop, with the same keys for effects.

    Returns whether it could be done: not if it was cancelled, as it is when another thread fails.
    """
    main = instance.main
    error = None if main.outcome is None else main.outcome.error
    if error is None or not main.frames or error.is_cancel:
        return False
    # Each frame that the error has left counts as a stop that was passed.
    passed = main.passed - len(main.frames) + (1 if not main.stop else 0)
    instance.threads.clear()
    instance.threads[MAIN] = Thread(main.frames, passed=passed)
    instance.notes = new_notes(instance)
    return True


def revived(state: State, fresh: StateContext, codes: Codes) -> StateContext:
    """Return the context of a child that has ended without a result and is wanted once more.

    It goes on before the stop at which it has failed. One that was cancelled starts over, with
    other keys, since it may have undone what it did.

    Args:
        state: of the child.
        fresh: the child as it would begin, with the same id.
        codes: of the process.
    """
    ctx, passed = StateContext(state), 0
    with contextlib.suppress(MisfitError):
        instance = Instance.of(ctx, codes)
        if begin_again(instance):
            instance.save(ctx)
            revive(ctx)
            return ctx
        passed = instance.main.passed + 1
    again = Instance.of(fresh, codes)
    again.main.passed = passed
    again.save(fresh)
    ctx.current = replace(state, values=fresh.current.values, labels=fresh.current.labels)
    return ctx
