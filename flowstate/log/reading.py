"""Reads: from the filters of a caller to the query of a driver, and back to a page."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from flowstate.commands import (
    DelayedPage,
    GetDelayedStates,
    GetState,
    GetStates,
    Labels,
    Page,
)
from flowstate.driver import DamagedDelay, Driver, DueKind, DueQuery, StateQuery
from flowstate.errors import (
    CodecError,
    HistoryRewoundError,
    InvalidInputError,
    StateNotFoundError,
)
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import (
    MAX_ALTERNATIVES,
    MAX_ANNOTATIONS_BYTES,
    MAX_ID_BYTES,
    MAX_PAGE,
    MAX_PAGE_BYTES,
    MAX_REV,
    check_id,
    check_labels,
    check_rev,
    check_text,
    to_utc,
)
from flowstate.ground.options import check_count, check_flag
from flowstate.state import State, Status

__all__ = ["Reader", "check_status", "label_terms", "matches", "state_query"]

KINDS_OF_STATES: tuple[DueKind, ...] = ("stall", "idle")  # All that have not ended are one.


class Reader:
    """Reads states and delays from an open driver.

    Every method raises :class:`flowstate.InvalidInputError`, which names the field, for a filter
    that is refused, and :class:`flowstate.DriverError` when the store fails.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def head(self) -> int:
        """Return the highest revision in the store; 0 when it is empty."""
        return (await self._driver.get_states(StateQuery(after=MAX_REV, limit=1))).head

    async def get_state(self, command: GetState) -> State:
        """Read one state."""
        if command.id is None:
            return await self._get_newest(command)
        id = check_id("id", command.id)
        if label_terms(command.labels):
            raise InvalidInputError("labels", "cannot be combined with an id")
        if command.rev is not None:
            check_rev("rev", command.rev)
        found = await self._driver.get_state(id, command.rev)
        if found is None:
            which = "" if command.rev is None else f" with revision {command.rev}"
            raise StateNotFoundError(f"there is no state {id!r}{which}")
        return found

    async def _get_newest(self, command: GetState) -> State:
        labels = label_terms(command.labels)
        if not labels or command.rev is not None:
            raise InvalidInputError("id", "is needed, or labels without a revision")
        query = StateQuery(labels=labels, since_latest=True, limit=1)
        found = await self._driver.get_states(query)
        if found.damaged:
            raise found.damaged[-1].as_error()
        if not found.states:
            raise StateNotFoundError("there is no state with these labels")
        return found.states[0]

    async def get_states(self, command: GetStates) -> Page:
        """Read a page of revisions; those that cannot be read are named in ``damaged``."""
        found = await self._driver.get_states(state_query(command))
        since = command.since_rev
        if since is not None and since > found.head:
            raise HistoryRewoundError(since, found.head)
        gaps_below = found.floor if since is None else command.gaps_below
        follow = replace(
            command, since_rev=found.scanned_to, since_latest=False, gaps_below=gaps_below
        )
        return Page(found.states, found.more, found.scanned_to, follow, found.damaged)

    async def get_delayed(self, command: GetDelayedStates) -> DelayedPage:
        """Read a page of delays; those that cannot be read are named in ``damaged``."""
        check_count("limit", command.limit, 1, MAX_PAGE)
        until = None if command.until is None else to_utc("until", command.until)
        query = DueQuery(
            kind="delay",
            until=until,
            everything=until is None,
            after=_checked_cursor(command.cursor),
            limit=command.limit,
        )
        found = await self._driver.get_due(query)
        follow = replace(command, cursor=found.end or command.cursor)
        return DelayedPage(found.due, found.more, follow, found.damaged)

    async def count(self, labels: Labels, status: Status | None) -> int:
        """Count states by their latest revisions."""
        check_status(status)
        query = StateQuery(labels=label_terms(labels), status=status, latest_only=True)
        return await self._driver.count(query)

    async def in_flow(self, flow: str) -> AsyncIterator[State]:
        """Iterate over the states that are in a flow and have not ended."""
        flow, damaged = check_text("flow", flow, MAX_ID_BYTES), list[DamagedDelay]()
        for kind in KINDS_OF_STATES:
            query, more = DueQuery(kind, flows=(flow,), everything=True), True
            while more:
                page = await self._driver.get_due(query)
                damaged += page.damaged
                for each in page.due:
                    yield each.state
                query, more = replace(query, after=page.end or query.after), page.more
        if damaged:
            bad = f"{damaged[0].state_id!r}: {damaged[0].error}"
            raise CodecError(f"{len(damaged)} states cannot be read, the first of them is {bad}")


def _checked_cursor(cursor: Any) -> tuple[datetime, str] | None:
    if cursor is None:
        return None
    if type(cursor) is not tuple or len(cursor) != 2:  # noqa: PLR2004 - time and id
        raise InvalidInputError("cursor", "must be that of a page")
    at, id = cursor
    return to_utc("cursor", at), check_text("cursor", id, MAX_ANNOTATIONS_BYTES)


def state_query(command: GetStates) -> StateQuery:
    """Check the filters and put them into the form for drivers."""
    if command.since_rev is not None:
        check_rev("since_rev", command.since_rev)
    check_flag("since_latest", command.since_latest)
    check_flag("latest_only", command.latest_only)
    if command.since_rev is not None and command.since_latest:
        raise InvalidInputError("since_latest", "cannot be combined with since_rev")
    check_status(command.status)
    check_rev("gaps_below", command.gaps_below)
    check_count("limit", command.limit, 1, MAX_PAGE)
    since, before = command.since_time, command.committed_before
    anywhere = command.since_rev is None or command.latest_only
    return StateQuery(
        labels=label_terms(command.labels),
        after=command.since_rev or 0,
        since_latest=command.since_latest,
        since_time=None if since is None else to_utc("since_time", since),
        committed_before=None if before is None else to_utc("committed_before", before),
        latest_only=command.latest_only,
        status=command.status,
        limit=command.limit,
        max_bytes=MAX_PAGE_BYTES,
        gaps_below=None if anywhere else command.gaps_below,
        id=None if command.id is None else check_id("id", command.id),
    )


def check_status(status: Status | None) -> None:
    """Refuse what is neither a status nor ``None``."""
    if status is not None and type(status) is not Status:
        raise InvalidInputError("status", f"must be a Status, not {type(status).__name__}")


def label_terms(labels: Labels) -> tuple[FrozenDict[str, str], ...]:
    """Return labels as OR of ANDs; an empty dict anywhere matches every state."""
    if type(labels) is FrozenDict and not labels:
        return ()
    alternatives = _alternatives(labels)
    if len(alternatives) > MAX_ALTERNATIVES:
        limit = f"at most {MAX_ALTERNATIVES} alternatives, not {len(alternatives)}"
        raise InvalidInputError("labels", f"must be {limit}")
    terms = tuple(check_labels("labels", alternative) for alternative in alternatives)
    return terms if all(terms) else ()


def _alternatives(labels: Any) -> Sequence[Any]:
    try:
        if isinstance(labels, Mapping):
            return (labels,)
        if isinstance(labels, Sequence) and not isinstance(labels, str | bytes):
            return tuple(labels)
    except Exception as error:
        reason = f"cannot be read: {type(error).__name__}"
        raise InvalidInputError("labels", reason) from error
    raise InvalidInputError("labels", f"must be a dict or a list, not {type(labels).__name__}")


def matches(query: StateQuery, state: State) -> bool:
    """Return whether a revision passes the filters of ``query``, its cursor left aside."""
    if query.id is not None and state.id != query.id:
        return False
    if query.status is not None and state.status is not query.status:
        return False
    is_timed = query.since_time is not None or query.committed_before is not None
    if is_timed and not _is_in_time(query, state.committed_at):
        return False
    if not query.labels:
        return True
    own = state.labels.items()
    return any(wanted.items() <= own for wanted in query.labels)


def _is_in_time(query: StateQuery, at: datetime | None) -> bool:
    if at is None or (query.since_time is not None and at < query.since_time):
        return False
    return query.committed_before is None or at < query.committed_before
