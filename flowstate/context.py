"""The one mutable thing: a working copy of a state, beside what the store has."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from flowstate.data import Data
from flowstate.errors import InvalidInputError
from flowstate.frozen import FrozenDict
from flowstate.state import State, Transition, frozen

if TYPE_CHECKING:
    from flowstate.execution import Execution

__all__ = ["StateContext"]


class StateContext:
    """A state on its way from one revision to the next.

    Commands change it; a commit makes the changes durable. A command that fails leaves it
    exactly as it was. Do not share one context between tasks that run at the same time: take
    a :meth:`copy`.

    Attributes:
        current: the working copy. Frozen: assign a changed one, or use the ``set_`` methods.
        committed: the revision that the store had when this context last met it;
            ``committed.rev`` is what the next commit expects to find.
        transitions: the steps taken since the last commit, oldest first.
        data: blobs by alias, to be stored by ``StoreData`` or filled by ``GetData``.
    """

    __slots__ = (
        "_execution",
        "_sent_at",
        "_stop",
        "_store_id",
        "committed",
        "current",
        "data",
        "transitions",
    )

    def __init__(self, state: State) -> None:
        if not isinstance(state, State):
            raise InvalidInputError("state", f"must be a State, not {type(state).__name__}")
        self.current = state = frozen(state)
        self.committed = state if state.rev else State(state.id)
        self.transitions: tuple[Transition, ...] = ()
        self.data: dict[str, Data] = {}
        self._store_id: str | None = None
        self._execution: Execution | None = None  # That it belongs to.
        self._sent_at: float | None = None  # When its last commit was sent, monotonic.
        self._stop: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"StateContext(current={self.current!r}, committed_rev={self.committed.rev})"

    def copy(self) -> "StateContext":
        """Return an independent context with the same content."""
        return self._duplicate(self.current, self.committed)

    def fork(self, new_id: str) -> "StateContext":
        """Return a context for a new state that starts as a copy of this one's working copy."""
        current = replace(self.current, id=new_id, rev=0, committed_at=None, delayed_until=None)
        twin = self._duplicate(current, State(new_id))
        twin._sent_at = None
        twin._store_id = None  # It was never committed, so nothing of it has been checked yet.
        return twin

    def _duplicate(self, current: State, committed: State) -> "StateContext":
        twin = StateContext(current)
        twin.committed = committed
        twin.transitions = self.transitions
        twin.data = dict(self.data)
        twin._store_id = self._store_id
        twin._stop = self._stop
        twin._sent_at = self._sent_at
        return twin

    def set_label(self, key: str, value: str | None) -> None:
        """Set a label of the working copy, or remove it with ``None``."""
        self.current = replace(self.current, labels=_changed(self.current.labels, key, value))

    def set_annotation(self, key: str, value: str | None) -> None:
        """Set an annotation of the working copy, or remove it with ``None``."""
        annotations = _changed(self.current.annotations, key, value)
        self.current = replace(self.current, annotations=annotations)

    @property
    def resumed(self) -> bool:
        """Whether the last step was a ``Resume``."""
        return self.current.transition.cause == "resume"

    @property
    def delayed(self) -> bool:
        """Whether the last step was a ``Delay`` that fired."""
        return self.current.transition.cause == "delay"

    @property
    def stopping(self) -> bool:
        """Whether the engine that executes this context has begun to stop."""
        return self._stop is not None and self._stop.is_set()

    async def wait_stopping(self) -> None:
        """Return when the engine that executes this context begins to stop.

        Outside an execution it waits until it is cancelled.
        """
        await (self._stop or asyncio.Event()).wait()


def _changed(mapping: Mapping[str, str], key: str, value: str | None) -> Mapping[str, str]:
    changed = {k: v for k, v in mapping.items() if k != key}
    if value is not None:
        changed[key] = value
    return FrozenDict(changed)
