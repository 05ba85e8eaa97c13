"""What operators do to the stored form of an instance. Nothing is written in here."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from flowstate import InvalidInputError, State, StateContext, Status, encoded
from flowstate.engines.kernel.code import Code, Frame, MisfitError
from flowstate.engines.kernel.fitting import misfit
from flowstate.engines.kernel.instance import (
    ANSWERS,
    DATA,
    NOTES,
    ORIGIN,
    OUTCOME,
    PARENT,
    PARKED,
    THREADS,
    VERSION,
    WORKFLOW,
    Codes,
    Instance,
    Notes,
    Used,
)
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.starting import begin_again, new_notes, revive
from flowstate.engines.kernel.threads import Thread, Threads
from flowstate.engines.kernel.values import kept

__all__ = ["Note", "OPERATOR", "edit", "forked", "goto", "move", "note_of", "retry"]

OPERATOR = "operator"  # The annotation that says who has changed an instance last.
ASKED = frozenset({"step", "pause", "wait", "until", "each"})  # Doing what can be asked for again.


class Note(Struct, frozen=True, omit_defaults=True):
    """Who has changed an instance, and why.

    Attributes:
        did: what it was: ``edit``, ``goto``, ``retry``, ``migrate`` or ``fork``.
        after: the revision that was changed.
        by: who it was.
        why: for people.
        of: the instance of which this is a fork.
    """

    did: Literal["edit", "goto", "retry", "migrate", "fork"]
    after: int
    by: str = ""
    why: str = ""
    of: str = ""


def note_of(state: State) -> Note | None:
    """Return the note of the last change by an operator."""
    text = state.annotations.get(OPERATOR)
    return None if text is None else msgspec.json.decode(text, type=Note)


def edit(
    ctx: StateContext,
    codes: Codes,
    change: Callable[[Any], Any] | None,
    names: Mapping[str, Any],
    thread: str,
    *,
    raw: bool,
) -> None:
    """Change the data of an instance, and names of a thread."""
    instance = _opened(ctx, codes, raw=raw)
    if change is not None:
        made = change(instance.data)
        instance.data = instance.data if made is None else made
        try:
            decoded(instance.code.data, encoded(DATA, instance.data))
        except msgspec.MsgspecError as error:
            raise InvalidInputError(DATA, f"is not of its type: {error}") from error
    if names:
        held = _thread(instance, thread)
        *outer, frame = held.frames
        held.frames = (*outer, _with_names(instance.codes, frame, names))
    instance.save(ctx)


def _with_names(used: Used, frame: Frame, names: Mapping[str, Any]) -> Frame:
    """Return a frame with other values of some names."""
    known = used[frame.code].stops.get(frame.stop)
    if known is not None and (unknown := sorted(names.keys() - known.names.keys())):
        has = ", ".join(known.names) or "none"
        raise InvalidInputError("names", f"{unknown[0]!r} is not alive there; these are: {has}")
    new = {name: kept(f"names[{name!r}]", value) for name, value in names.items()}
    return _checked(used, msgspec.structs.replace(frame, names={**frame.names, **new}))


def _checked(used: Used, frame: Frame) -> Frame:
    try:
        used[frame.code].check(frame)
    except MisfitError as error:
        raise InvalidInputError("names", str(error)) from error
    return frame


def goto(
    ctx: StateContext,
    codes: Codes,
    stop: str,
    names: Mapping[str, Any],
    *,
    place: Mapping[str, Any],
    thread: str,
) -> None:
    """Let a thread stand at another stop, of the code that it is in or of what has called that."""
    instance = _opened(ctx, codes)
    held = _thread(instance, thread)
    frames = list(held.frames)
    used = instance.codes
    while frames and stop not in used[frames[-1].code].stops:
        frames.pop()
    if not frames:
        stops = ", ".join(name for each in held.frames for name in used[each.code].stops)
        raise InvalidInputError("stop", f"there is no {stop!r}; these are: {stops}")
    code = used[frames[-1].code]
    other = {each for one in code.stops.values() for each in one.levels}
    other -= set(code.stops[stop].levels)
    left = {key: raw for key, raw in frames[-1].place.items() if key not in other}
    new = {key: kept(f"place[{key!r}]", value) for key, value in place.items()}
    alive = frames[-1].names.items()
    known = {*code.stops[stop].names, *getattr(code, "renamed", ())}
    frame = msgspec.structs.replace(
        frames[-1],
        stop=stop,
        names={name: raw for name, raw in alive if name in known},
        place={**left, **new},
    )
    frames[-1] = _with_names(used, frame, names)
    _drop_branches(instance, thread)
    instance.threads[thread] = Thread(
        frames, passed=held.passed + 1, parent=held.parent, index=held.index
    )
    instance.notes.cancelled = False
    revive(ctx)
    instance.save(ctx)


def _drop_branches(instance: Instance, name: str) -> None:
    for each in [key for key, held in instance.threads.items() if held.parent == name]:
        _drop_branches(instance, each)
        del instance.threads[each]


def retry(ctx: StateContext, codes: Codes) -> None:
    """Try at once what waits for its next attempt; what has ended by an error, at its last stop."""
    instance = _opened(ctx, codes)
    if OUTCOME not in ctx.current.labels:
        paused = [each for each in instance.threads.values() if each.does == "pause"]
        if not paused:
            raise InvalidInputError("id", "has no step that waits for its next attempt")
        for each in paused:
            each.does, each.at, each.failures = "step", None, 0
    else:
        if not begin_again(instance):
            reason = "was cancelled, or a thread has failed that is not there any more: fork it"
            raise InvalidInputError("id", reason)
        revive(ctx)
    instance.save(ctx)


def move(ctx: StateContext, codes: Codes, to: Code) -> None:
    """Let a live instance go on with another version of its workflow.

    Raises:
        InvalidInputError: it has ended.
        MisfitError: it does not fit.
    """
    if OUTCOME in ctx.current.labels or ctx.current.status is Status.ENDED:
        raise InvalidInputError("id", "has ended")
    ctx.set_label(VERSION, str(to.version) if to.version else None)
    if why := misfit(ctx.current, codes):
        raise MisfitError(why)


def forked(state: State, codes: Codes, new_id: str) -> StateContext:
    """Return the context of a new instance that stands where another one stood.

    It asks again for what that waited for: its waits start over, and its children are its own.
    """
    ctx = StateContext(state).fork(new_id)
    instance = _opened(ctx, codes)
    notes, instance.notes = instance.notes, new_notes(instance.code)
    instance.notes.kept, instance.notes.failure = notes.kept, notes.failure
    for held in instance.threads.values():
        held.owed, held.told = "", False
        if held.does in ASKED or (not held.parent and held.does == "ended"):
            held.does, held.at, held.outcome, held.children = "go", None, None, None
            held.failures, held.text = 0, ""
    for name in (ORIGIN, ANSWERS, PARKED):
        ctx.remove(name)
    for label in (PARENT, PARKED):
        ctx.set_label(label, None)
    revive(ctx)
    instance.save(ctx)
    return ctx


def _opened(ctx: StateContext, codes: Codes, *, raw: bool = False) -> Instance:
    """Return the instance that is stored in a state.

    Raises:
        InvalidInputError: it is none, or it is over.
        MisfitError: it cannot be decoded.
    """
    state = ctx.current
    if WORKFLOW not in state.labels:
        raise InvalidInputError("id", "is no instance of a workflow")
    if THREADS not in state.values:
        raise InvalidInputError("id", "has ended, so it stands nowhere: fork an earlier revision")
    if OUTCOME in state.labels and state.status is Status.ACTIVE:
        raise InvalidInputError("id", "is just ending")
    if not raw:
        return Instance.of(ctx, codes)
    code = codes.of(state)
    threads, notes = ctx.get(Threads, THREADS), ctx.get(Notes, NOTES, default=Notes())
    return Instance(state.id, code, codes.used_by(code), ctx.get(Any, DATA), threads, notes)


def _thread(instance: Instance, name: str) -> Thread:
    held = instance.threads.get(name)
    if held is None or not held.frames:
        known = ", ".join(key for key, each in instance.threads.items() if each.frames)
        raise InvalidInputError("thread", f"there is no {name!r} with code; these are: {known}")
    return held
