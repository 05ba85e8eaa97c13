"""Instances that begin, or go on although they have ended: what their states are then."""

import contextlib
from collections.abc import Mapping
from typing import Any

import attrs
from msgspec.structs import replace

from flowstate import InvalidInputError, State, StateContext, encoded
from flowstate.engines.kernel.code import At, Code, Frame, MisfitError
from flowstate.engines.kernel.instance import (
    DATA,
    ERROR,
    ORIGIN,
    OUTCOME,
    PARENT,
    PARKED,
    STOP,
    VERSION,
    WORKFLOW,
    Codes,
    Instance,
    Notes,
    Used,
)
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.outside import AWAITS, OF_EVENTS
from flowstate.engines.kernel.threads import MAIN, Thread
from flowstate.engines.kernel.values import kept
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import check_id
from flowstate.recovery import set_retry_after

__all__ = ["Origin", "begin_again", "flow_of", "new_instance", "new_notes", "revive", "revived"]

NO_CODES = Used()
OWN_LABELS = frozenset({WORKFLOW, VERSION, STOP, OUTCOME, PARENT, PARKED})
TOPICS = (AWAITS, OF_EVENTS)


def flow_of(name: str) -> str:
    """Return the id of the flow that runs the instances of a workflow."""
    return f"workflow.{name}"


@attrs.frozen
class Origin:
    """Where the child of another instance comes from; the stored form.

    Attributes:
        parent: the id of the instance.
        thread: the one that waits for its children.
        passed: how many stops that had passed.
        abandoned: it goes on when the parent is cancelled.
    """

    parent: str
    thread: str
    passed: int
    abandoned: bool = False


def new_instance(
    code: Code,
    id: str,
    data: Any,
    args: Mapping[str, Any],
    *,
    labels: Mapping[str, str] = EMPTY,
    origin: Origin | None = None,
) -> StateContext:
    """Return the context of a new instance, to be sent to its flow.

    The code runs to its first stop already, so that no further commit is needed before the first
    step.

    Raises:
        InvalidInputError: JSON cannot hold the data or an argument, or they are not of their type;
            or the id is too long, or the engine sets a label.
    """
    check_id("id", id)
    own = _own(code, data)
    if code.options.labels is not None:
        labels = {**labels, **code.options.labels(own)}
    if taken := [each for each in labels if each in OWN_LABELS or each.startswith(TOPICS)]:
        raise InvalidInputError("labels", f"cannot have {taken[0]!r}, which the engine sets")
    ctx = StateContext(State(id, labels={**labels, WORKFLOW: code.name}))
    names = {key: kept(f"args[{key!r}]", value) for key, value in args.items()}
    instance = Instance(id, code, NO_CODES, own, {MAIN: Thread((Frame(code.name, names=names),))})
    instance.notes = new_notes(code)
    if code.options.retry_after is not None:
        set_retry_after(ctx, code.options.retry_after)
    reached = code.begin(instance.main.frames[0], instance.data)
    if isinstance(reached, At):
        instance.main.frames = (reached.frame,)
    else:  # It ends in its first turn, which begins once more.
        instance.data = _own(code, data)
    instance.save(ctx)
    if origin is not None:
        ctx.set_label(PARENT, origin.parent)
        ctx.put(origin, ORIGIN)
    return ctx


def _own(code: Code, data: Any) -> Any:
    """Return the data as a decode gives it, apart from what the caller has."""
    raw = encoded(DATA, data)
    try:
        return decoded(code.data, raw)
    except ValueError as error:
        name = getattr(code.data, "__name__", str(code.data))
        raise InvalidInputError(DATA, f"is not of the type {name}: {error}") from error


def new_notes(code: Code) -> Notes:
    """Return the notes of an instance that begins, perhaps once more."""
    timeout = code.options.timeout
    return Notes(timeout=None if timeout is None else timeout.total_seconds())


def revive(ctx: StateContext) -> None:
    """Take from a state what says that its instance has ended."""
    ctx.remove(ERROR)
    ctx.set_label(OUTCOME, None)


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
    again = instance.code.options.again
    if again is not None:
        frame, back = again(main.frames[-1])
        main.frames, passed = (*main.frames[:-1], frame), passed - back
    instance.threads.clear()
    instance.threads[MAIN] = Thread(main.frames, passed=passed)
    passed, instance.notes = instance.notes.passed, new_notes(instance.code)
    instance.notes.passed = passed
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
        passed = max(instance.main.passed + 1, instance.notes.passed)
    again = Instance.of(fresh, codes)
    again.main.passed = again.notes.passed = passed
    again.save(fresh)
    ctx.current = replace(state, values=fresh.current.values, labels=fresh.current.labels)
    return ctx
