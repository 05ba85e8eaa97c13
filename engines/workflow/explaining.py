"""Explains an instance: where each thread stands, since when, and what it waits for."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from flowstate import Engine, State, StateContext, Status
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.errors import Cancelled, StoredError
from flowstate.engines.kernel.instance import (
    ERROR,
    NOTES,
    OUTCOME,
    PARKED,
    STOP,
    THREADS,
    WORKFLOW,
    Codes,
    Instance,
    Notes,
    Used,
)
from flowstate.engines.kernel.operations import Each, Join, Operation, Until, Wait
from flowstate.engines.kernel.threads import Thread, Threads
from flowstate.engines.kernel.waiting import Asking
from flowstate.engines.workflow.operators import Note, note_of

__all__ = ["Explanation", "Moment", "Standing", "explain", "moments"]


class Standing(Struct, frozen=True, omit_defaults=True):
    """Where a thread of an instance stands.

    Attributes:
        thread: its name.
        does: ``step``, ``pause``, ``wait``, ``until``, ``join``, ``each``, ``go`` or ``ended``.
        stops: from the outermost code to the innermost one, each as ``code:stop``.
        line: of the innermost stop in its source; 0 if it is not known.
        since: the first stored revision in which it stood there.
        waits_for: in words.
        until: when it goes on at the latest.
        failures: of its present step.
        error: the last failure.
        progress: that the step has reported last.
    """

    thread: str
    does: str
    stops: tuple[str, ...] = ()
    line: int = 0
    since: datetime | None = None
    waits_for: str = ""
    until: datetime | None = None
    failures: int = 0
    error: str = ""
    progress: Any = None

    def __str__(self) -> str:
        at = f" at {' > '.join(self.stops)}" if self.stops else ""
        line = f" (line {self.line})" if self.line else ""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S}" if self.since else ""
        text = f"{self.thread}: {self.does}{at}{line}{since}"
        if self.waits_for:
            text += f", waits for {self.waits_for}"
        if self.until:
            text += f", until {self.until:%Y-%m-%d %H:%M:%S}"
        if self.progress is not None:
            text += f", progress: {self.progress}"
        return f"{text}, {self.failures} failures, the last: {self.error}" if self.error else text


class Explanation(Struct, frozen=True, omit_defaults=True):
    """Where an instance stands; ``str`` makes lines of it.

    Attributes:
        id: of the instance.
        workflow: its name.
        status: ``running``, ``waiting``, ``paused`` by an operator, ``parked`` because the code
            does not fit, ``done``, ``failed``, ``cancelled``, or ``ended`` by force.
        threads: where each of them stands.
        why: it is parked, or has failed.
        note: of the last change by an operator.
    """

    id: str
    workflow: str
    status: str
    threads: tuple[Standing, ...] = ()
    why: str = ""
    note: Note | None = None

    def __str__(self) -> str:
        why = f": {self.why.removesuffix(': ')}" if self.why else ""  # An error without a message.
        head = f"{self.id}: {self.workflow}, {self.status}{why}"
        return "\n".join([head, *(f"  {each}" for each in self.threads)])


class Moment(Struct, frozen=True, omit_defaults=True):
    """A revision of an instance.

    Attributes:
        rev: what it can be forked from.
        at: when it was committed.
        status: of the state.
        stop: of the main thread.
        cause: what made the step.
        note: of the operator who has made it.
    """

    rev: int
    at: datetime | None
    status: Status
    stop: str = ""
    cause: str = ""
    note: Note | None = None


async def moments(engine: Engine, id: str) -> AsyncIterator[Moment]:
    """Iterate over the revisions of an instance that are stored."""
    before: Note | None = None
    async for state in engine.history(id):
        note = note_of(state)
        stop = state.labels.get(STOP, "")
        new = note if note != before else None
        yield Moment(state.rev, state.committed_at, state.status, stop, state.transition.cause, new)
        before = note


async def explain(engine: Engine, codes: Codes, id: str) -> Explanation:
    """Explain an instance.

    Raises:
        StateNotFoundError: there is no such instance.
    """
    state = await engine.get_state(id)
    threads: Threads = state.get(Threads, THREADS, default={})
    since = await _since(engine, id, threads)
    asked, used = _operations(state, codes), _used(state, codes)
    error: StoredError | None = state.get(StoredError, ERROR, default=None)
    return Explanation(
        id,
        state.labels.get(WORKFLOW, ""),
        _status(state),
        tuple(_standing(name, threads, used, since, asked) for name in threads),
        state.get(str, PARKED, default="") if error is None else error.text,
        note_of(state),
    )


async def _since(engine: Engine, id: str, threads: Threads) -> dict[str, datetime | None]:
    """Return when each thread has come to where it stands."""
    places = {name: _place(thread) for name, thread in threads.items()}
    found: dict[str, datetime | None] = {}
    async for state in engine.history(id):
        past: Threads = state.get(Threads, THREADS, default={})
        for name, place in places.items():
            if name not in past or _place(past[name]) != place:
                found.pop(name, None)
            else:
                found.setdefault(name, state.committed_at)
    return found


def _place(thread: Thread) -> tuple[int, int, str]:
    return (thread.passed, len(thread.frames), thread.stop)


def _status(state: State) -> str:
    if state.status is Status.ENDED or OUTCOME in state.labels:
        return state.labels.get(OUTCOME, "ended")
    if PARKED in state.labels:
        return "parked"
    if state.get(Notes, NOTES, default=Notes()).paused:
        return "paused"
    return "waiting" if state.status is Status.PAUSED else "running"


def _operations(state: State, codes: Codes) -> Mapping[str, Operation]:
    """Return what the threads wait for, as far as the codes here can tell."""
    found: dict[str, Operation] = {}
    try:
        instance = Instance.of(StateContext(state), codes)
    except MisfitError:
        return found
    asking = Asking(instance)
    for name, thread in instance.threads.items():
        if thread.does not in ("go", "ended"):
            with contextlib.suppress(Exception, Cancelled):  # Of the user's arguments.
                found[name] = asking.ask(name)
    return found


def _used(state: State, codes: Codes) -> Used:
    try:
        return codes.used_by(codes.of(state))
    except MisfitError:
        return Used()


def _standing(
    name: str,
    threads: Threads,
    used: Used,
    since: Mapping[str, datetime | None],
    asked: Mapping[str, Operation],
) -> Standing:
    thread = threads[name]
    line = 0
    if thread.frames and thread.frames[-1].code in used:
        code = used[thread.frames[-1].code]
        line = code.stops[thread.stop].line if thread.stop in code.stops else 0
    return Standing(
        name,
        thread.does,
        tuple(f"{each.code}:{each.stop}" for each in thread.frames),
        line,
        since.get(name),
        _words(asked.get(name), thread, [each for each in threads.values() if each.parent == name]),
        thread.at,
        thread.failures,
        thread.text,
        msgspec.json.decode(thread.progress),
    )


def _words(operation: Operation | None, thread: Thread, branches: list[Thread]) -> str:
    match operation:
        case Wait(sources=()):
            return "a time"
        case Wait(sources=sources):
            names = [
                getattr(each, "name", getattr(each, "__name__", str(each))) for each in sources
            ]
            return " or ".join(map(str, names))
        case Until():
            return "a condition of the data"
        case Join():
            running = sum(each.does != "ended" for each in branches)
            return f"{running} of {len(branches)} branches"
        case Each() if (children := thread.children) is not None:
            return f"{children.total - children.done} of {children.total} children"
    return ""
