"""What a running flow is told, and which states are executed in this process.

Every engine that moves a state on tells all engines of its store in the process, in whichever event
loop they run. Other processes find out from the answer to the next heartbeat.
"""

import asyncio
import contextlib
import os
import threading
import weakref
from asyncio import _get_running_loop
from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from flowstate.state import State

__all__ = ["Executed", "Executing", "Notice", "executed_in"]

_lock = threading.Lock()


# A Struct is made without a call of Python code, and one is made for every execution. It knows
# nothing of the execution, so that the two need no garbage collector.
class Notice(Struct, eq=False):
    """What those who execute a context tell its flow, which may run in a thread.

    Attributes:
        stop: set when the engine begins to stop; ``None`` outside an engine.
        is_given_up: nothing waits any longer for the call in a thread, which should end.
        is_superseded: others have moved the state on.
    """

    stop: asyncio.Event | None = None
    is_given_up: bool = False
    is_superseded: bool = False
    _superseded: asyncio.Event | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the flow should end soon."""
        return self.is_given_up or (self.stop is not None and self.stop.is_set())

    def supersede(self) -> None:
        """Tell that others have moved the state on; in the event loop of the flow."""
        self.is_superseded = True
        if self._superseded is not None:
            self._superseded.set()

    async def wait_superseded(self) -> None:
        """Return when others move the state on."""
        if not self.is_superseded:
            self._superseded = self._superseded or asyncio.Event()
            await self._superseded.wait()


class Executing(Protocol):
    """An execution, as those who move its state on see it."""

    id: str
    loop: asyncio.AbstractEventLoop | None
    others: "Executed | None"
    is_over: bool

    def is_behind(self, rev: int) -> bool:
        """Return whether what it has committed is older than this revision of its state."""

    def moved_on(self, rev: int) -> None:
        """Note that this process has given its state this revision, for others."""


class Executed:
    """The executions of one store in this process, by the ids of their states.

    To enter and to leave take no lock, since every execution does both; each is one operation of a
    dict. Only where a state is executed twice at the same time, more is to be done.

    Attributes:
        by_id: empty when nothing is executed, which a commit asks first.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Executing | tuple[Executing, ...]] = {}

    def add(self, execution: Executing) -> None:
        """Let an execution be told from now on."""
        if self.by_id.setdefault(execution.id, execution) is not execution:
            with _lock:
                self._put(execution.id, (*self._of(execution.id), execution))

    def remove(self, execution: Executing) -> None:
        """Tell an execution no more."""
        found = self.by_id.pop(execution.id, execution)
        if found is not execution:
            with _lock:
                before = found if isinstance(found, tuple) else (found,)
                others = (*before, *self._of(execution.id))
                self._put(execution.id, [each for each in others if each is not execution])

    def is_behind(self, state: State) -> bool:
        """Return whether an older revision of a state is executed."""
        return any(each.is_behind(state.rev) for each in self._of(state.id))

    def _of(self, id: str) -> tuple[Executing, ...]:
        found = self.by_id.get(id, ())
        return found if isinstance(found, tuple) else (found,)

    def _put(self, id: str, executions: Iterable[Executing]) -> None:
        """Note the executions of a state, apart from those that have left meanwhile."""
        left = tuple(dict.fromkeys(each for each in executions if not each.is_over))
        for each in left:
            each.others = self
        if left:
            self.by_id[id] = left
        else:
            self.by_id.pop(id, None)

    def tell(self, state: State) -> None:
        """Tell those who execute an older revision of a state that it was moved on."""
        for execution in self._of(state.id):
            if execution.loop is None or execution.loop is _get_running_loop():
                execution.moved_on(state.rev)
            else:
                with contextlib.suppress(RuntimeError):  # Its loop has closed meanwhile.
                    execution.loop.call_soon_threadsafe(execution.moved_on, state.rev)


_stores: weakref.WeakValueDictionary[str, Executed] = weakref.WeakValueDictionary()


def executed_in(store_id: str) -> Executed:
    """Return what is executed in a store by this process."""
    with _lock:
        found = _stores.get(store_id)
        if found is None:
            found = _stores[store_id] = Executed()
        return found


def _forked() -> None:
    _stores.clear()  # That is what the parent executes.
    _lock.release()


if hasattr(os, "register_at_fork"):  # Not on Windows.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_forked)
