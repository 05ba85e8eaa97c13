"""Turns: callers of one process that change the same state do it one after the other.

Without them they would read at the same time, and all but one would lose the race and read again.
Callers of different processes still race, and the store decides.
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextvars import ContextVar
from random import Random
from typing import Any, TypeVar

import attrs

from flowstate.errors import InvalidCommandError, RevisionMismatchError, StoreUnavailableError
from flowstate.ground.tasks import note_outcome
from flowstate.state import State

__all__ = ["Backoff", "Line", "Place", "Turns", "forget_turns", "turns_of"]

T = TypeVar("T")
FIRST_PAUSE = 0.001  # Seconds.
LONGEST_PAUSE = 0.05
MAX_DOUBLINGS = 10


# state    means                                           left by
# waiting  others are before it                            its turn → leading; taken; left
# leading  it changes the state                            it leaves the line
# taken    the one that leads does its work as well        told the result; given back → waiting
# left     its caller was cancelled                        at once, or when it is not taken any more
@attrs.define(eq=False)
class Place:
    """The place of one caller in a line.

    Attributes:
        told: ``None`` when it is its turn; else what its work has come to, done by another one.
        is_taken: whether the one that leads does its work as well.
        is_left: whether its caller was cancelled.
    """

    told: "asyncio.Future[Any]" = attrs.field(
        init=False, factory=lambda: asyncio.get_running_loop().create_future()
    )
    is_taken: bool = attrs.field(init=False, default=False)
    is_left: bool = attrs.field(init=False, default=False)


@attrs.define(eq=False)
class Line:
    """Those who want to change one state, in the order of their coming.

    Attributes:
        state: what the last one has left: the latest revision, unless others have committed since;
            ``None`` when that is not known.
        waiting: the places of those whose turn has not come.
        awaited: the lines in which the one that leads this one waits meanwhile.
    """

    state: State | None = None
    waiting: dict[Place, None] = attrs.Factory(dict)
    awaited: "list[Line]" = attrs.Factory(list)

    def waits_for(self, held: "Collection[Line]") -> bool:
        """Return whether the one that leads waits for one of these lines, if through others."""
        left, seen = [self], set[Line]()
        while left:
            line = left.pop()
            if line in held:
                return True
            if line not in seen:
                seen.add(line)
                left += line.awaited
        return False

    def fail(self, error: StoreUnavailableError) -> None:
        """Tell all who wait that the store cannot be reached.

        Else each of them would wait for the store as long, one after the other.
        """
        for place in [*self.waiting]:
            self.tell(place, error)

    def tell(self, place: Place, result: Any) -> None:
        """Let one stop waiting: see :attr:`Place.told`."""
        del self.waiting[place]
        if isinstance(result, Exception):
            place.told.set_exception(result)
        else:
            place.told.set_result(result)

    def give_back(self, place: Place) -> None:
        """Let one whose work was taken do it itself, when its turn comes."""
        place.is_taken = False
        if place.is_left:
            del self.waiting[place]
            place.told.cancel()


class Turns:
    """Whose turn it is to change which state, among the callers in one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: dict[str, Line] = {}

    @contextlib.asynccontextmanager
    async def take(self, id: str) -> AsyncIterator[Line]:
        """Wait for the turn to change a state, and hold it.

        Raises:
            InvalidCommandError: the caller holds it already, and would wait for itself.
        """
        async with self.share(id, Place()) as line:
            assert line is not None  # noqa: S101 - no other one knows that place
            try:
                yield line
            except StoreUnavailableError as error:
                line.fail(error)
                raise

    @contextlib.asynccontextmanager
    async def share(self, id: str, place: Place) -> AsyncIterator[Line | None]:
        """Do as :meth:`take`, but let another one do the work of ``place`` together with its own.

        Then it gives ``None``, or raises what that raised. Where to wait would never end, because
        the one that leads waits for the caller, it races instead: the store decides.
        """
        line, held = self._lines.get(id), _held.get()
        if line is None:
            line = self._lines[id] = Line()
        elif line in held:
            raise InvalidCommandError("id", f"{id!r} is being changed by the caller already")
        elif held and line.waits_for(held):
            line = Line()
        elif not await self._has_turn(id, line, place):
            yield None
            return
        _held.set((*held, line))
        try:
            yield line
        finally:
            _held.set(held)
            self._leave(id, line)

    async def _has_turn(self, id: str, line: Line, place: Place) -> bool:
        line.waiting[place] = None
        held = _held.get()
        for each in held:
            each.awaited.append(line)
        try:
            await asyncio.wait([place.told])
        except asyncio.CancelledError:
            await self._cancelled(id, line, place)
            raise
        finally:
            for each in held:
                each.awaited.remove(line)
        return place.told.result() is None

    async def _cancelled(self, id: str, line: Line, place: Place) -> None:
        place.is_left, told = True, place.told
        told.add_done_callback(note_outcome)
        if place.is_taken:  # It may be done by now, as a commit that is on its way may.
            await asyncio.wait([told])
        if not told.done():
            del line.waiting[place]
        elif not told.cancelled() and told.exception() is None and told.result() is None:
            self._leave(id, line)  # Its turn came in the same moment.

    def _leave(self, id: str, line: Line) -> None:
        if line.waiting:
            line.tell(next(iter(line.waiting)), None)
        elif self._lines.get(id) is line:  # Else it raced.
            del self._lines[id]


_held: ContextVar[tuple[Line, ...]] = ContextVar("flowstate_turns", default=())


def forget_turns() -> None:
    """Let the current task wait for turns like any other, since none of their holders awaits it."""
    _held.set(())


class Backoff:
    """Pauses of those who lose races: by chance, so that they end, and longer and longer."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]], rng: Random) -> None:
        self._sleep = sleep
        self._rng = rng

    async def pause(self, lost: int) -> None:
        """Wait before another attempt; ``lost`` were lost already, apart from the last one."""
        if lost:
            ceiling = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(lost, MAX_DOUBLINGS))
            await self._sleep(self._rng.uniform(0.0, ceiling))

    async def until_won(self, attempt: Callable[[int], Awaitable[T]]) -> T:
        """Return what an attempt returns that loses no race; it is told how many were lost."""
        lost = 0
        while True:
            try:
                return await attempt(lost)
            except RevisionMismatchError:
                await self.pause(lost)
            lost += 1


def turns_of(store_id: str) -> Turns:
    """Return the turns at a store for the running event loop; all callers share them."""
    # Turns keep their loop alive, so its id means it while they are here.
    key = store_id, id(asyncio.get_running_loop())
    turns = _turns[key] = _turns.get(key) or Turns()
    return turns


_turns: "weakref.WeakValueDictionary[tuple[str, int], Turns]" = weakref.WeakValueDictionary()
