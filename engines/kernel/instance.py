"""An instance: its data, its threads, and what is noted about it; how they are stored."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import attrs
import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from flowstate.context import StateContext
from flowstate.engines.kernel.code import Code, Frame, MisfitError, Update
from flowstate.engines.kernel.errors import Cancelled, StoredError, restored
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.threads import MAIN, Thread, Threads
from flowstate.errors import ValueDecodeError, ValueNotFoundError
from flowstate.frozen import FrozenDict
from flowstate.values import encoded

__all__ = [
    "ANSWERS",
    "Codes",
    "DATA",
    "ERROR",
    "Instance",
    "NOTES",
    "Notes",
    "ORIGIN",
    "OUTCOME",
    "PARENT",
    "PARKED",
    "RESERVED",
    "RESULT",
    "STOP",
    "THREADS",
    "WORKFLOW",
]

DATA, THREADS, NOTES = "data", "threads", "notes"  # Values of the state of an instance.
RESULT, ERROR, ANSWERS, ORIGIN = "result", "error", "answers", "origin"
WORKFLOW, STOP, OUTCOME, PARENT, PARKED = (
    "workflow",
    "stop",
    "outcome",
    "parent",
    "parked",
)  # Labels.
# All other values of the state are messages that were delivered to it, by their names.
RESERVED = frozenset({DATA, THREADS, NOTES, RESULT, ERROR, ANSWERS, ORIGIN, PARKED})

_encode = msgspec.json.Encoder().encode
NO_NOTES = b"{}"


class Notes(Struct, omit_defaults=True):
    """What is noted about an instance as a whole.

    Attributes:
        paused: by an operator: no step begins, and no message but a control message is taken.
        cancelled: its threads were told.
        timeout: seconds that it may take, until its first turn makes the deadline of it.
        deadline: when it has taken too long.
        failure: what a thread has raised that no other one waits for.
        kept: messages that were delivered and that no thread waits for any more.
    """

    paused: bool = False
    cancelled: bool = False
    timeout: float | None = None
    deadline: datetime | None = None
    failure: StoredError | None = None
    kept: list[tuple[str, Raw]] = msgspec.field(default_factory=list)


class Codes:
    """What frames name: codes, with all that they use."""

    def __init__(self, codes: Iterable[Code] = ()) -> None:
        self._codes: dict[str, Code] = {}
        for code in codes:
            self.add(code)

    def add(self, code: Code) -> None:
        """Let frames name a code, and all that it uses."""
        if self._codes.get(code.name) is not code:
            self._codes[code.name] = code
            for used in code.uses.values():
                self.add(used)

    def __getitem__(self, name: str) -> Code:
        code = self._codes.get(name)
        if code is None:
            raise MisfitError(f"there is no code {name!r} here")
        return code

    def __iter__(self) -> Iterator[Code]:
        return iter(self._codes.values())

    def __contains__(self, name: str) -> bool:
        return name in self._codes

    def of(self, frame: Frame) -> Code:
        """Return the code of a frame."""
        return self[frame.code]


@attrs.define(eq=False)
class Instance:
    """What is stored of an instance, decoded once for each turn.

    Attributes:
        id: of its state.
        code: of its main thread.
        codes: what its frames name.
        data: shared by all threads, changed in place.
        threads: by name, the oldest first.
        notes: about all of it.
        is_changed: whether it is not as it was committed last.
    """

    id: str
    code: Code
    codes: Codes
    data: Any
    threads: Threads
    notes: Notes = attrs.Factory(Notes)
    is_changed: bool = False

    @classmethod
    def of(cls, ctx: StateContext, code: Code, codes: Codes) -> "Instance":
        """Return the instance that is stored in a state.

        Raises:
            MisfitError: it cannot be decoded.
        """
        try:
            data = ctx.get(code.data, DATA)
            threads = ctx.get(Threads, THREADS)
            notes = ctx.get(Notes, NOTES) if NOTES in ctx.current.values else Notes()
        except (ValueDecodeError, ValueNotFoundError) as error:
            raise MisfitError(str(error)) from error
        return cls(ctx.current.id, code, codes, data, threads, notes)

    @property
    def main(self) -> Thread:
        """The thread with which it began."""
        return self.threads[MAIN]

    @property
    def is_over(self) -> bool:
        """Whether no thread has anything left to do."""
        return self.main.does == "ended" and len(self.threads) == 1

    def change(self, update: Update, request: Raw) -> Raw:
        """Change the data as an update says, and return its answer.

        Raises:
            Exception: what the update raises, or says of a request that is not of its type; the
                data is as it was.
        """
        data = decoded(self.code.data, encoded(DATA, self.data))
        answer = encoded("answer", update.call(data, decoded(update.takes, request)))
        encoded(DATA, data)
        self.data, self.is_changed = data, True
        return answer

    def save(self, ctx: StateContext) -> None:
        """Put it into the working copy of its state.

        Raises:
            InvalidInputError: JSON cannot hold its data.
        """
        notes = _encode(self.notes)
        values = {
            DATA: encoded(DATA, self.data),
            THREADS: Raw(_encode(self.threads)),
            NOTES: None if notes == NO_NOTES else Raw(notes),
        }
        change(ctx, values, {STOP: self.main.stop or None})
        self.is_changed = False

    def end(self, ctx: StateContext) -> None:
        """Put its outcome into the working copy of its state; it is over.

        Raises:
            InvalidInputError: JSON cannot hold its data.
        """
        outcome = self.main.outcome
        assert outcome is not None  # noqa: S101 - it is over
        error = self.notes.failure or outcome.error
        values: dict[str, Raw | None] = {NOTES: None, THREADS: None}
        values[DATA] = encoded(DATA, self.data)
        if error is None:
            values[RESULT], kind = outcome.gave, "done"
        else:  # An operator can try again from where it stood.
            values[ERROR], values[THREADS] = Raw(_encode(error)), Raw(_encode(self.threads))
            kind = "cancelled" if isinstance(restored(error), Cancelled) else "failed"
        change(ctx, values, {STOP: self.main.stop or None, OUTCOME: kind})

    def branches(self, name: str) -> list[Thread]:
        """Return the branches that a thread waits for."""
        return [thread for thread in self.threads.values() if thread.parent == name]


def change(
    ctx: StateContext, values: Mapping[str, Raw | None], labels: Mapping[str, str | None]
) -> None:
    """Put values and labels into a working copy, all at once; ``None`` removes one."""
    current = ctx.current
    own: Any = {**current.values, **values}
    kept = {name: raw for name, raw in own.items() if raw is not None}
    before = current.labels
    if any(before.get(key) != text for key, text in labels.items()):
        all_labels: Any = {**before, **labels}
        before = FrozenDict({key: text for key, text in all_labels.items() if text is not None})
    ctx.current = replace(current, labels=before, values=FrozenDict(kept))
