"""An instance: its data, its threads, and what is noted about it; how they are stored."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from random import Random
from typing import Any

import attrs
import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from flowstate import (
    InvalidInputError,
    RetryPolicy,
    State,
    StateContext,
    ValueDecodeError,
    ValueNotFoundError,
    encoded,
)
from flowstate.engines.kernel.code import Code, MisfitError, Update
from flowstate.engines.kernel.errors import StoredError
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.outside import AWAITS, topic_label
from flowstate.engines.kernel.steps import MakeTransaction
from flowstate.engines.kernel.threads import MAIN, Thread, Threads
from flowstate.engines.kernel.values import kept
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import MAX_VALUES_BYTES

__all__ = [
    "ANSWERS",
    "Codes",
    "DATA",
    "ERROR",
    "Instance",
    "MOST_ANSWER",
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
    "Used",
    "VERSION",
    "WORKFLOW",
]

DATA, THREADS, NOTES = "data", "threads", "notes"  # Values of the state of an instance.
RESULT, ERROR, ANSWERS, ORIGIN = "result", "error", "answers", "origin"
WORKFLOW, VERSION, STOP = "workflow", "version", "stop"  # Labels.
OUTCOME, PARENT, PARKED = "outcome", "parent", "parked"
# All other values of the state are messages that were delivered to it, by their names.
RESERVED = frozenset({DATA, THREADS, NOTES, RESULT, ERROR, ANSWERS, ORIGIN, PARKED})

# Bytes of the data after an update, and of an answer: the rest of the state has room next to them.
MOST_DATA, MOST_ANSWER = MAX_VALUES_BYTES // 4 * 3, MAX_VALUES_BYTES // 8

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
        seen: events that waits were given, their times, and until when such a wait may find them.
        looks: how often it was set aside in a row, since it does not fit.
        began: its first revision, as soon as it waits for what was published since then.
        passed: more stops than any thread that has ended had passed.
    """

    paused: bool = False
    cancelled: bool = False
    timeout: float | None = None
    deadline: datetime | None = None
    failure: StoredError | None = None
    kept: list[tuple[str, Raw]] = msgspec.field(default_factory=list)
    seen: dict[str, tuple[datetime, datetime]] = msgspec.field(default_factory=dict)
    looks: int = 0
    passed: int = 0
    began: int = 0


def _noted(notes: Notes) -> Raw | None:
    raw = _encode(notes)
    return None if raw == NO_NOTES else Raw(raw)


class Used(dict[str, Code]):
    """What the frames of an instance name: the code of its workflow, and all that this uses."""

    @classmethod
    def by(cls, code: Code) -> "Used":
        """Return a workflow with all that it uses.

        Raises:
            InvalidInputError: two of its helpers have one name. Those of its children may have it.
        """
        used, own, others = cls({code.name: code}), [code], list[Code]()
        for each in own:
            others += (found for found in each.uses.values() if found.data is not None)
            helpers = [found for found in each.uses.values() if found.data is None]
            own += (found for found in helpers if found.name not in used)
            for found in helpers:
                used.add(found)
        for found in others:
            if found.name not in used:
                used[found.name] = found
                others += found.uses.values()
        return used

    def add(self, code: Code) -> None:
        """Let frames name a code.

        Raises:
            InvalidInputError: they name another one so.
        """
        if self.setdefault(code.name, code) is not code:
            raise InvalidInputError("codes", f"two are called {code.name!r}; rename one of them")

    def __missing__(self, name: str) -> Code:
        raise MisfitError(f"there is no code {name!r} here")


class Codes:
    """The workflows of a process, by name and version; and how their steps are run.

    Those that they use are among them.

    Args:
        codes: of workflows.
        retry: of steps for which neither they nor their workflow say it; ``None``: they fail at
            once.
        transaction: makes a transaction of the store for each step that wants one.
        rng: draws pauses.

    Raises:
        InvalidInputError: two workflows have one name and one version.
    """

    def __init__(
        self,
        codes: Iterable[Code] = (),
        *,
        retry: RetryPolicy | None = None,
        transaction: MakeTransaction | None = None,
        rng: Random | None = None,
    ) -> None:
        self.retry, self.transaction = retry, transaction
        self.rng = rng or Random()  # noqa: S311 - no secret
        self._newest = Used()
        self._versions: dict[str, dict[str, Code]] = {}
        self._used: dict[Code, Used] = {}
        for code in codes:
            self._add(code)

    def _add(self, code: Code) -> None:
        versions = self._versions.setdefault(code.name, {})
        if versions.setdefault(str(code.version), code) is not code:
            reason = f"two workflows {code.name!r} have the version {code.version}"
            raise InvalidInputError("codes", f"{reason}; give the newer one a higher version=")
        self._newest[code.name] = max(versions.values(), key=lambda each: each.version)
        self._used[code] = used = Used.by(code)
        for each in used.values():
            if each.data is not None and each not in self._used:
                self._add(each)

    def __getitem__(self, name: str) -> Code:
        return self._newest[name]

    def __iter__(self) -> Iterator[Code]:
        return iter(self._newest.values())

    def __contains__(self, name: str) -> bool:
        return name in self._newest

    def versions(self, name: str) -> list[Code]:
        """Return all that is here of a workflow; all else gives the newest version."""
        return [*self._versions.get(name, {}).values()]

    def of(self, state: State) -> Code:
        """Return the version with which an instance goes on: its own, or else the newest.

        Raises:
            MisfitError: the workflow is not here, or a newer version has stored the instance.
        """
        newest = self[state.labels.get(WORKFLOW, "")]
        version = state.labels.get(VERSION, "0")
        code = self._versions[newest.name].get(version)
        if code is None and version.isdecimal() and int(version) > newest.version:
            text = f"version {version} has stored this, and here is {newest.version}"
            raise MisfitError(f"{newest.name}: {text}")
        return code or newest

    def used_by(self, code: Code) -> Used:
        """Return a workflow with all that it uses."""
        return self._used[code]


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
    codes: Used
    data: Any
    threads: Threads
    notes: Notes = attrs.Factory(Notes)
    is_changed: bool = False

    @classmethod
    def of(cls, ctx: StateContext, codes: Codes) -> "Instance":
        """Return the instance that is stored in a state.

        Raises:
            MisfitError: it cannot be decoded, or its code is not here.
        """
        code = codes.of(ctx.current)
        try:
            data = ctx.get(code.data, DATA)
            threads = ctx.get(Threads, THREADS)
            notes = ctx.get(Notes, NOTES) if NOTES in ctx.current.values else Notes()
        except (ValueDecodeError, ValueNotFoundError) as error:
            raise MisfitError(str(error)) from error
        instance = cls(ctx.current.id, code, codes.used_by(code), data, threads, notes)
        instance._begin_revision()
        return instance

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
        before = encoded(DATA, self.data)
        data = decoded(self.code.data, before)
        answer = kept("answer", update.call(data, decoded(update.takes, request)))
        size = len(bytes(encoded(DATA, data)))
        if size > max(MOST_DATA, len(bytes(before))):
            raise InvalidInputError(DATA, f"an update can make it {MOST_DATA} bytes, not {size}")
        if len(bytes(answer)) > MOST_ANSWER:
            raise InvalidInputError("answer", f"must be at most {MOST_ANSWER} bytes")
        self.data, self.is_changed = data, True
        return answer

    def save(self, ctx: StateContext) -> None:
        """Put it into the working copy of its state.

        Raises:
            InvalidInputError: JSON cannot hold its data.
        """
        values = {
            DATA: encoded(DATA, self.data, ctx.current.values.get(DATA)),
            THREADS: Raw(_encode(self.threads)),
            NOTES: _noted(self.notes),
        }
        version = str(self.code.version) if self.code.version else None
        labels = {STOP: self.main.stop or None, VERSION: version}
        change(ctx, values, labels | self._topic_labels(ctx))
        self._begin_revision()
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
        values[DATA] = encoded(DATA, self.data, ctx.current.values.get(DATA))
        if error is None:
            values[RESULT], kind = outcome.gave, "done"
        else:  # An operator can try again from where it stood.
            values[ERROR], values[THREADS] = Raw(_encode(error)), Raw(_encode(self.threads))
            values[NOTES] = _noted(Notes(passed=self.notes.passed))
            kind = "cancelled" if error.is_cancel else "failed"
        labels = {STOP: self.main.stop or None, OUTCOME: kind}
        change(ctx, values, labels | self._topic_labels(ctx))

    def _begin_revision(self) -> None:
        if self.code.options.new_revision is not None:
            self.code.options.new_revision(self.data)

    def _topic_labels(self, ctx: StateContext) -> dict[str, str | None]:
        """Return labels by which those are found that wait, and the removal of older ones."""
        labels: dict[str, str | None] = {
            key: None for key in ctx.current.labels if key.startswith(AWAITS)
        }
        for thread in self.threads.values():
            if thread.topics and thread.does == "wait":
                labels.update(topic_label(AWAITS, each) for each in thread.topics)
        return labels

    def branches(self, name: str) -> Threads:
        """Return the branches that a thread waits for, in their order."""
        return {key: each for key, each in self.threads.items() if each.parent == name}


def change(
    ctx: StateContext, values: Mapping[str, Raw | None], labels: Mapping[str, str | None]
) -> None:
    """Put values and labels into a working copy, all at once; ``None`` removes one."""
    current = ctx.current
    own: Any = {**current.values, **values}
    after: Any = {**current.labels, **labels}
    for made in (own, after):
        for name in [name for name, each in made.items() if each is None]:
            del made[name]
    ctx.current = replace(current, labels=FrozenDict(after), values=FrozenDict(own))
