"""What an engine is asked: states, pages, counts, watches, and waiting for a state."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Unpack

from flowstate.commands import (
    DelayedPage,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Labels,
    Page,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.driver import DamagedRevision
from flowstate.errors import InvalidInputError
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import check_id
from flowstate.ground.options import check_seconds
from flowstate.ground.tasks import first
from flowstate.log.log_tail import revisions
from flowstate.log.reading import check_status
from flowstate.log.watch import Watch
from flowstate.runtime import Filters, LogFilters, Runtime
from flowstate.state import State, Status

__all__ = ["Looking"]

Reached = Callable[[State], object]


class Looking:
    """The part of an engine that reads."""

    __slots__ = ()

    def _open(self) -> Runtime:
        raise NotImplementedError

    def _here(self) -> Runtime:
        raise NotImplementedError

    async def get_state(
        self, id: str | None = None, rev: int | None = None, *, labels: Labels = EMPTY
    ) -> State:
        """Do :class:`GetState`, which says what is raised."""
        return await self._here().do(GetState(id, rev, labels))

    async def get_data(self, ctx: StateContext, alias: str) -> Data:
        """Do :class:`GetData`, which says what is raised."""
        return await self._here().do(GetData(ctx, alias))

    async def get_states(self, *, limit: int = 100, **filters: Unpack[Filters]) -> Page:
        """Do :class:`GetStates`, which says what is raised.

        Args:
            limit: at most so many states.
            filters: see :class:`Filters`.
        """
        return await self._here().do(GetStates(limit=limit, **filters))

    async def get_delayed_states(
        self, *, until: datetime | None = None, limit: int = 100
    ) -> DelayedPage:
        """Do :class:`GetDelayedStates`, which says what is raised."""
        return await self._here().do(GetDelayedStates(until, limit))

    async def states(self, **filters: Unpack[Filters]) -> AsyncIterator[State]:
        """Iterate over all pages of :class:`GetStates`, up to the head.

        Args:
            filters: see :class:`Filters`.

        Raises:
            DamagedRevisionError: the next revision cannot be read; all before it were given. Go
                on behind it with ``since_rev=error.rev``.
        """
        page = await self.get_states(**filters)
        while True:
            for revision in revisions(page):
                if isinstance(revision, DamagedRevision):
                    raise revision.as_error()
                yield revision
            if not page.more:
                return
            page = await self._here().do(page.next)

    def history(self, id: str) -> AsyncIterator[State]:
        """Iterate over the revisions of one state that are stored, the oldest first.

        The cost follows their number, not the log. Of a state that was forgotten and began again,
        they are those of before, too, until they are compacted. Of an unknown one there are none.

        Raises:
            InvalidInputError: no proper id.
            DamagedRevisionError: as for :meth:`states`.
        """
        return self.states(id=id)

    async def count(self, *, labels: Labels = EMPTY, status: Status | None = None) -> int:
        """Return how many states there are, by their latest revisions.

        A store counts a single label or status in an index; more conditions may cost it a look at
        each state with one of them. Mailboxes count as well, as paused states.

        Args:
            labels: as of :class:`GetStates`.
            status: only this status.

        Raises:
            InvalidInputError: a bad filter; names it.
        """
        return await self._here().reader.count(labels, status)

    async def in_flow(self, flow: str) -> AsyncIterator[State]:
        """Iterate over the states that are in a flow and have not ended, in no special order.

        The registry need not have the flow, so this finds what nothing here can execute. The cost
        follows the answer. A state that is committed meanwhile can come twice, the second time
        with a higher revision.

        Args:
            flow: its id; the empty string finds states that were never sent to a flow.

        Raises:
            InvalidInputError: no flow id.
            CodecError: some of the states cannot be read; raised after all others were given.
        """
        async for state in self._here().reader.in_flow(flow):
            yield state

    def watch(self, **filters: Unpack[LogFilters]) -> Watch:
        """Return a watch: every matching revision, once, in order, from the log and then live.

        Args:
            filters: see :class:`Filters`.

        Raises:
            InvalidInputError: a bad filter; names it.
            EngineStoppedError: the engine is not open.
        """
        return self._open().watch(GetStates(**filters))

    async def wait_for(
        self,
        id: str,
        *,
        status: Status | None = None,
        until: Reached | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - by the clock of the engine
    ) -> State:
        """Return the first revision of a state that is as wanted: the latest one, or a later one.

        A state that does not exist yet is waited for. Each waiter costs the store one read, and
        each commit one look into a dict, however many wait.

        Args:
            id: of the state.
            status: what the state has to be. Either this or ``until``.
            until: is called with each revision, in order, until it returns something true.
            timeout: seconds by the engine's clock; with 0 only what is stored already counts.

        Raises:
            TimeoutError: no revision was as wanted in time.
            InvalidInputError: a bad argument; names it.
            DamagedRevisionError: a revision cannot be read, so it may be the one that is wanted.
            EngineStoppedError: the engine is not open, or stops meanwhile.
            DriverError: the store failed.
        """
        runtime, id, reached = self._here(), check_id("id", id), _condition(status, until)
        # It begins at the latest revision, so one read tells the present and what follows on it.
        watch = runtime.watch(GetStates(id=id, since_latest=True))
        if timeout is None:
            return await _first_of(watch, reached)
        check_seconds("timeout", timeout)
        if timeout:
            found = await first(_first_of(watch, reached), runtime.clock.sleep(timeout))
        else:
            found = await runtime.driver.get_state(id)
        if found is None or not (timeout or reached(found)):
            raise TimeoutError(f"{id!r} was not as wanted within {timeout:g} seconds")
        return found

    async def head(self) -> int:
        """Return the highest revision in the store; 0 when it is empty."""
        return await self._here().reader.head()


def _condition(status: Status | None, until: Reached | None) -> Reached:
    if (status is None) == (until is None):
        raise InvalidInputError("until", "is needed, or a status; not both")
    if until is None:
        check_status(status)
        return lambda state: state.status is status
    if not callable(until):
        raise InvalidInputError("until", f"must be a function, not {type(until).__name__}")
    return until


async def _first_of(watch: Watch, reached: Reached) -> State:
    async with watch as states:
        state = await anext(states)
        if state.transition.cause == "forget":
            state = await anext(states)  # What was forgotten before is not there any more.
        while not reached(state):
            state = await anext(states)
        return state
