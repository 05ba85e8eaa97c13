"""Which states are executed in this process, so that a flow is told when others move its state on.

Every engine of a store tells those of all its engines in the process, in whichever event loop they
run. Other processes find out from the answer to the next heartbeat.
"""

import contextlib
import os
import threading
import weakref
from asyncio import _get_running_loop
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flowstate.state import State

if TYPE_CHECKING:
    from flowstate.execution import Execution

__all__ = ["Executed", "executed_in"]

_lock = threading.Lock()


class Executed:
    """The executions of one store in this process, by the ids of their states.

    To enter and to leave take no lock, since every execution does both; each is one operation of a
    dict. Only where a state is executed twice at the same time, more is to be done.

    Attributes:
        by_id: empty when nothing is executed, which a commit asks first.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, Execution | tuple[Execution, ...]] = {}

    def add(self, execution: "Execution") -> None:
        """Let an execution be told from now on."""
        if self.by_id.setdefault(execution.id, execution) is not execution:
            with _lock:
                self._put(execution.id, (*self._of(execution.id), execution))

    def remove(self, execution: "Execution") -> None:
        """Tell an execution no more."""
        found = self.by_id.pop(execution.id, execution)
        if found is not execution:
            with _lock:
                before = found if isinstance(found, tuple) else (found,)
                others = (*before, *self._of(execution.id))
                self._put(execution.id, [each for each in others if each is not execution])

    def is_behind(self, state: State) -> bool:
        """Return whether an older revision of a state is executed."""
        return any(each.ctx.committed.rev < state.rev for each in self._of(state.id))

    def _of(self, id: str) -> "tuple[Execution, ...]":
        found = self.by_id.get(id, ())
        return found if isinstance(found, tuple) else (found,)

    def _put(self, id: str, executions: "Iterable[Execution]") -> None:
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


_stores: "weakref.WeakValueDictionary[str, Executed]" = weakref.WeakValueDictionary()


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
