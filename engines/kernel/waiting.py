"""Threads where they stand: what each wants there, and what messages and times do to it."""

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any, Literal

import attrs
import msgspec
from msgspec import Raw

from flowstate import InvalidInputError, RetryPolicy
from flowstate.engines.kernel.code import Frame, MisfitError
from flowstate.engines.kernel.errors import Cancelled, stored
from flowstate.engines.kernel.instance import RESERVED, Instance
from flowstate.engines.kernel.operations import Call, Go, Handler, Join, Operation, Wait
from flowstate.engines.kernel.outcomes import decoded, message_name, source_of
from flowstate.engines.kernel.outside import Outside
from flowstate.engines.kernel.threads import MAIN, NOTHING, Ended, Thread
from flowstate.engines.kernel.values import kept

__all__ = ["Asking", "Waiting"]

logger = logging.getLogger("flowstate.engines")

NO_TIME = timedelta(0)
MOST_NAMES = 98  # Of messages that an instance waits for; the store takes 100.
FIRST_LOOK, LONGEST_LOOK = 60.0, 86_400.0  # Seconds between looks at others, which grow.


@attrs.define(eq=False)
class Asking:
    """Asks threads what they want at their stops, and remembers it while they stand there.

    Attributes:
        instance: is only read.
    """

    instance: Instance
    _asked: dict[str, Operation] = attrs.field(init=False, factory=dict)

    def ask(self, name: str) -> Operation:
        """Return what a thread wants at its stop."""
        operation = self._asked.get(name)
        if operation is None:
            thread = self.instance.threads[name]
            if thread.frames:
                frame = thread.frames[-1]
                operation = self.instance.codes[frame.code].ask(frame, self.instance.data)
            else:
                operation = self._branch(thread)
            self._asked[name] = operation
        return operation

    def _branch(self, thread: Thread) -> Operation:
        """Return the operation that is a branch of a join."""
        join = self.ask(thread.parent)
        if not isinstance(join, Join) or thread.index >= len(join.branches):
            raise MisfitError(f"stop {join.name!r} has no branch {thread.index} any more")
        return join.branches[thread.index]


@attrs.define(eq=False)
class Waiting(Asking, ABC):
    """The part of the progress of an instance that waits.

    Attributes:
        instance: is changed.
        later: returns the time so many seconds from now.
        rng: draws pauses.
        retry: of steps for which nothing else says it.
        to_start: threads whose step is to run, in order.
        to_stop: threads whose step runs and is not wanted any more.
        to_look: threads whose children may have ended and told nothing.
        is_listening: a thread has begun to wait, perhaps for a message that is there already.
        is_looking: there may be something new outside that a thread waits for.
    """

    later: Callable[[float], datetime]
    rng: Random
    retry: RetryPolicy | None
    to_start: dict[str, None] = attrs.field(init=False, factory=dict)
    to_stop: set[str] = attrs.field(init=False, factory=set)
    to_look: set[str] = attrs.field(init=False, factory=set)
    is_listening: bool = attrs.field(init=False, default=False)
    is_looking: bool = attrs.field(init=False, default=True)
    _ready: deque[str] = attrs.field(init=False, factory=deque)

    @abstractmethod
    def finish(self, name: str, ended: Ended) -> None:
        """Give the stop of a thread its outcome."""

    @abstractmethod
    def interrupt(self, name: str, owed: Literal["cancel", "timeout"]) -> None:
        """Let an error be raised at the stop of a thread; the same one only once."""

    def first_frame(self, operation: Call | Go) -> Frame:
        """Return the frame of code that begins."""
        code = operation.code
        self.instance.codes.add(code)
        args = operation.args.items()
        return Frame(code.name, names={key: kept(key, value) for key, value in args})

    def _doing(self, does: str) -> list[tuple[str, Thread]]:
        return [each for each in self.instance.threads.items() if each[1].does == does]

    def _again(self, name: str, thread: Thread) -> None:
        """Let a thread ask at its stop."""
        thread.does, thread.at = "go", None
        self._asked.pop(name, None)
        self.to_start.pop(name, None)
        self._ready.append(name)

    def _wait(self, name: str, thread: Thread, operation: Wait) -> None:
        if taken := RESERVED.intersection(map(message_name, operation.sources)):
            raise InvalidInputError("sources", f"cannot be called {', '.join(sorted(taken))}")
        if not operation.sources and operation.timeout == NO_TIME:
            self.finish(name, Ended())
            return
        thread.does = "wait"
        messages = [each for each in operation.sources if not isinstance(each, Outside)]
        self.is_listening = self.is_listening or bool(messages)
        self.is_looking, thread.since, thread.looks = True, None, 0
        if operation.timeout is not None:
            thread.at = self.later(operation.timeout.total_seconds())
        kept = self.instance.notes.kept
        for message in [*kept]:
            if thread.does == "wait" and self._is_taken_by(name, operation, *message):
                kept.remove(message)

    def waits(self) -> Iterator[tuple[str, Wait]]:
        """Iterate over the threads that wait, and what for."""
        for name, _ in self._doing("wait"):
            operation = self.ask(name)
            assert isinstance(operation, Wait)  # noqa: S101 - see Progress.resume
            yield name, operation

    def names(self) -> list[str]:
        """Return the names of the messages that threads wait for.

        Raises:
            MisfitError: there are too many.
        """
        names: dict[str, None] = {}
        for thread, wait in self.waits():
            messages = [each for each in wait.sources if not isinstance(each, Outside)]
            for message in map(message_name, messages):
                names[message] = None
                if thread != MAIN:
                    names[f"{message}/{thread}"] = None
        if len(names) > MOST_NAMES:
            raise MisfitError(f"it waits for {len(names)} kinds of messages; {MOST_NAMES} is most")
        return [*names]

    def take(self, message: str, raw: Raw) -> None:
        """Give a message to the first thread that waits for it; keep it if there is none."""
        self.instance.is_changed = True
        if not any(self._is_taken_by(*each, message, raw) for each in self.waits()):
            self.instance.notes.kept.append((message, raw))

    def answer(self, message: str, raw: Raw) -> Raw:
        """Give a request to the first thread that waits for it, and return the answer.

        Raises:
            LookupError: none does.
            Exception: what handling it raises; the thread still waits.
        """
        for name, wait in self.waits():
            if source := _source(name, wait, message):
                answer = self._handle(source, raw)
                self._give(name, message, raw)
                return answer
        code = self.instance.code.name
        raise LookupError(f"{code!r} has no update {message!r}, and does not wait for that now")

    def _is_taken_by(self, name: str, wait: Wait, message: str, raw: Raw) -> bool:
        """Give a message to a thread, if it waits for that; one that is of no use is dropped."""
        if (source := _source(name, wait, message)) is None:
            return False
        try:
            self._handle(source, raw)
        except (Exception, Cancelled) as error:  # noqa: BLE001 - of the user's handler
            extra = {"state_id": self.instance.id}
            text = "%r does not count a message %r: %s"
            logger.warning(text, self.instance.id, message, error, extra=extra)
        else:
            self._give(name, message, raw)
        return True

    def _handle(self, source: Any, raw: Raw) -> Raw:
        """Return the answer to a message, or nothing if only its type has to be right."""
        if isinstance(source, Handler):
            return self.instance.change(source.update, raw)
        decoded(source, raw)
        return NOTHING

    def _give(self, name: str, message: str, raw: Raw) -> None:
        kind = message.partition("/")[0]
        self.finish(name, Ended(Raw(msgspec.json.encode((kind, raw)))))

    def next_at(self) -> datetime | None:
        """Return when a thread goes on although nothing happens."""
        times = [
            self.instance.notes.deadline,
            *(each.at for each in self.instance.threads.values()),
            *(each.look_at for each in self.instance.threads.values()),
        ]
        return min((at for at in times if at is not None), default=None)

    def tick(self, now: datetime) -> None:
        """Let go on what has waited for a time that has come."""
        notes = self.instance.notes
        due = [name for name, each in self.instance.threads.items() if each.at and each.at <= now]
        for name in due:
            self._come(name)
        for name, thread in self.instance.threads.items():
            if thread.look_at and thread.look_at <= now:
                self.look_later(thread)
                self.to_look.add(name)
                self.is_looking = True
        if notes.deadline is not None and notes.deadline <= now:
            notes.deadline = None
            self.interrupt(MAIN, "timeout")

    def look_later(self, thread: Thread) -> None:
        """Let a thread look after a time whether others have ended and told nothing."""
        thread.look_at = self.later(min(FIRST_LOOK * 2 ** min(thread.looks, 11), LONGEST_LOOK))
        thread.looks += 1
        self.instance.is_changed = True

    def _come(self, name: str) -> None:
        """Let a thread go on whose time has come, unless another one has ended it just now."""
        thread = self.instance.threads.get(name)
        if thread is None or thread.at is None:
            return
        if thread.does == "pause":
            thread.does, thread.at = "step", None
            self._asked.pop(name, None)
            self.to_start[name] = None
        elif thread.does == "wait":
            wait = self.ask(name)
            is_sleep = isinstance(wait, Wait) and not wait.sources
            self.finish(name, Ended() if is_sleep else Ended(error=stored(TimeoutError())))


def _source(thread: str, wait: Wait, message: str) -> Any:
    """Return from which source of a thread's wait a message is; ``None``: it is for others."""
    kind, _, to = message.partition("/")
    return source_of(wait, kind) if to in ("", thread) else None
