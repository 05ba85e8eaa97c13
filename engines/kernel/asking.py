"""Asks threads what they want at their stops, and remembers it while they stand there."""

from collections import deque
from collections.abc import Callable
from datetime import datetime
from random import Random

import attrs

from flowstate.engines.kernel.code import Code, Frame, MisfitError
from flowstate.engines.kernel.instance import Instance
from flowstate.engines.kernel.operations import Call, Go, Join, Operation
from flowstate.engines.kernel.threads import Ended, Thread
from flowstate.retrying import RetryPolicy
from flowstate.values import encoded

__all__ = ["Asking"]


@attrs.define(eq=False)
class Asking:
    """The part of the progress of an instance that asks.

    Attributes:
        instance: is changed.
        later: returns the time so many seconds from now.
        rng: draws pauses.
        retry: of steps for which nothing else says it.
        to_start: threads whose step is to run, in order.
        to_stop: threads whose step runs and is not wanted any more.
        is_listening: a thread has begun to wait, perhaps for a message that is there already.
    """

    instance: Instance
    later: Callable[[float], datetime]
    rng: Random
    retry: RetryPolicy | None = None
    to_start: dict[str, None] = attrs.Factory(dict)
    to_stop: set[str] = attrs.Factory(set)
    is_listening: bool = False
    _ready: deque[str] = attrs.Factory(deque)
    _asked: dict[str, Operation] = attrs.Factory(dict)

    def _again(self, name: str, thread: Thread) -> None:
        """Let a thread ask at its stop."""
        thread.does, thread.at = "go", None
        self._asked.pop(name, None)
        self.to_start.pop(name, None)
        self._ready.append(name)

    def ask(self, name: str) -> Operation:
        """Return what a thread wants at its stop."""
        operation = self._asked.get(name)
        if operation is None:
            thread = self.instance.threads[name]
            operation = self._asked[name] = (
                self._code(thread.frames[-1]).ask(thread.frames[-1], self.instance.data)
                if thread.frames
                else self._branch(thread)
            )
        return operation

    def _branch(self, thread: Thread) -> Operation:
        """Return the operation that is a branch of a join."""
        join = self.ask(thread.parent)
        if not isinstance(join, Join) or thread.index >= len(join.branches):
            raise MisfitError(f"stop {join.name!r} has no branch {thread.index} any more")
        return join.branches[thread.index]

    def _code(self, frame: Frame) -> Code:
        return self.instance.codes[frame.code]

    def first_frame(self, operation: Call | Go) -> Frame:
        """Return the frame of code that begins."""
        code = operation.code
        self.instance.codes.add(code)
        args = operation.args.items()
        return Frame(code.name, names={key: encoded(key, value) for key, value in args})

    def _doing(self, does: str) -> list[tuple[str, Thread]]:
        return [each for each in self.instance.threads.items() if each[1].does == does]

    def _forget(self, name: str) -> None:
        del self.instance.threads[name]
        self._asked.pop(name, None)

    def finish(self, name: str, ended: Ended) -> None:
        """Give the stop of a thread its outcome."""
        raise NotImplementedError
