"""Threads that wait: for messages, and for times."""

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Raw

from flowstate.engines.kernel.asking import Asking
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.errors import stored
from flowstate.engines.kernel.instance import RESERVED
from flowstate.engines.kernel.operations import Handler, Wait
from flowstate.engines.kernel.outcomes import decoded, message_name
from flowstate.engines.kernel.threads import MAIN, NOTHING, Ended, Thread
from flowstate.errors import InvalidInputError

__all__ = ["Waiting"]

logger = logging.getLogger("flowstate.engines")

MOST_NAMES = 98  # Of messages that an instance waits for; the store takes 100.


class Waiting(Asking):
    """The part of the progress of an instance that waits."""

    __slots__ = ()

    def _wait(self, name: str, thread: Thread, operation: Wait) -> None:
        if taken := RESERVED.intersection(map(message_name, operation.sources)):
            raise InvalidInputError("sources", f"cannot be called {', '.join(sorted(taken))}")
        thread.does = "wait"
        self.is_listening = self.is_listening or bool(operation.sources)
        if operation.timeout is not None:
            thread.at = self.later(operation.timeout.total_seconds())
        kept = self.instance.notes.kept
        for message in [*kept]:
            if thread.does == "wait" and self._is_taken_by(name, operation, *message):
                kept.remove(message)

    def names(self) -> list[str]:
        """Return the names of the messages that threads wait for.

        Raises:
            MisfitError: there are too many.
        """
        names: dict[str, None] = {}
        for name, _ in self._doing("wait"):
            operation = self.ask(name)
            for source in operation.sources if isinstance(operation, Wait) else ():
                message = message_name(source)
                names[message] = None
                if name != MAIN:
                    names[f"{message}/{name}"] = None
        if len(names) > MOST_NAMES:
            raise MisfitError(f"it waits for {len(names)} kinds of messages; {MOST_NAMES} is most")
        return [*names]

    def take(self, message: str, raw: Raw) -> None:
        """Give a message to the first thread that waits for it; keep it if there is none."""
        self.instance.is_changed = True
        for name, _ in self._doing("wait"):
            operation = self.ask(name)
            if isinstance(operation, Wait) and self._is_taken_by(name, operation, message, raw):
                return
        self.instance.notes.kept.append((message, raw))

    def answer(self, message: str, raw: Raw) -> Raw:
        """Give a request to the first thread that waits for it, and return the answer.

        Raises:
            LookupError: none does.
            Exception: what handling it raises; the thread still waits.
        """
        for name, _ in self._doing("wait"):
            operation = self.ask(name)
            if isinstance(operation, Wait) and (source := _source(name, operation, message)):
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
        except Exception as error:  # noqa: BLE001 - of the user's handler
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
        """Let a thread go on with a message."""
        kind = message.partition("/")[0]
        self.finish(name, Ended(Raw(msgspec.json.encode((kind, raw)))))

    def next_at(self) -> datetime | None:
        """Return when a thread goes on although nothing happens."""
        return min(self._times(), default=None)

    def _times(self) -> Iterator[datetime]:
        if self.instance.notes.deadline is not None:
            yield self.instance.notes.deadline
        for thread in self.instance.threads.values():
            if thread.at is not None:
                yield thread.at

    def tick(self, now: datetime) -> None:
        """Let go on what has waited for a time that has come."""
        notes = self.instance.notes
        due = [name for name, each in self.instance.threads.items() if each.at and each.at <= now]
        for name in due:
            self._come(name)
        if notes.deadline is not None and notes.deadline <= now:
            notes.deadline = None
            self.interrupt(MAIN, "timeout")

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

    def interrupt(self, name: str, owed: Literal["cancel", "timeout"]) -> None:
        """Let an error be raised at the stop of a thread; the same one only once."""
        raise NotImplementedError


def _source(thread: str, wait: Wait, message: str) -> Any:
    """Return from which source of a thread's wait a message is; ``None``: it is for others."""
    kind, _, to = message.partition("/")
    if to not in ("", thread):
        return None
    return next((each for each in wait.sources if message_name(each) == kind), None)
