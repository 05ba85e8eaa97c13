"""From the filters that a caller gives to the query that a driver answers."""

from collections.abc import Mapping, Sequence

from flowstate.commands import DelayedPage, GetDelayedStates, GetStates, Labels, Page
from flowstate.driver import DelayedStates, DelayQuery, StateQuery, States
from flowstate.errors import HistoryRewoundError, InvalidInputError
from flowstate.frozen import FrozenDict
from flowstate.limits import (
    MAX_ANNOTATIONS_BYTES,
    MAX_PAGE,
    check_labels,
    check_rev,
    check_text,
    to_utc,
)
from flowstate.state import State, Status

__all__ = ["delay_query", "delayed_page", "label_terms", "matches", "page", "state_query"]


def state_query(command: GetStates) -> StateQuery:
    """Check and normalise the filters.

    Raises:
        InvalidInputError: a bad filter; names it.
    """
    if command.since_rev is not None:
        check_rev("since_rev", command.since_rev)
    if sum((command.since_rev is not None, bool(command.since_latest))) > 1:
        raise InvalidInputError("since_latest", "cannot be combined with since_rev")
    if command.status is not None and not isinstance(command.status, Status):
        raise InvalidInputError("status", f"must be a Status, not {command.status!r}")
    check_rev("gaps_below", command.gaps_below)
    _check_limit(command.limit)
    since, before = command.since_time, command.committed_before
    anywhere = command.since_rev is None or command.latest_only
    return StateQuery(
        labels=label_terms(command.labels),
        after=command.since_rev or 0,
        since_latest=bool(command.since_latest),
        since_time=None if since is None else to_utc("since_time", since),
        committed_before=None if before is None else to_utc("committed_before", before),
        latest_only=bool(command.latest_only),
        status=command.status,
        limit=command.limit,
        gaps_below=None if anywhere else command.gaps_below,
    )


def page(command: GetStates, states: States) -> Page:
    """Return the page for the caller, with the command that goes on from it.

    Raises:
        HistoryRewoundError: the cursor is above the head.
    """
    since = command.since_rev
    if since is not None and since > states.head:
        raise HistoryRewoundError(since, states.head)
    follow = GetStates(
        labels=command.labels,
        since_rev=states.scanned_to,
        since_time=command.since_time,
        latest_only=command.latest_only,
        status=command.status,
        committed_before=command.committed_before,
        limit=command.limit,
        gaps_below=states.floor if since is None else command.gaps_below,
    )
    return Page(states.states, states.more, states.scanned_to, follow)


def label_terms(labels: Labels) -> tuple[FrozenDict[str, str], ...]:
    """Return labels as OR of ANDs; an empty dict anywhere matches every state.

    Raises:
        InvalidInputError: not a dict of strings, or a list of those.
    """
    if isinstance(labels, Mapping):
        alternatives: Sequence[Mapping[str, str]] = [labels]
    elif isinstance(labels, Sequence) and not isinstance(labels, str | bytes):
        alternatives = labels
    else:
        raise InvalidInputError("labels", f"must be a dict or a list, not {type(labels).__name__}")
    for alternative in alternatives:
        check_labels("labels", alternative)
    return tuple(FrozenDict(labels) for labels in alternatives) if all(alternatives) else ()


def matches(query: StateQuery, state: State) -> bool:
    """Return whether a revision passes the filters of ``query``, its cursor left aside."""
    if query.status is not None and state.status is not query.status:
        return False
    if query.since_time is not None or query.committed_before is not None:
        at = state.committed_at
        if at is None:
            return False
        if query.since_time is not None and at < query.since_time:
            return False
        if query.committed_before is not None and at >= query.committed_before:
            return False
    if not query.labels:
        return True
    own = state.labels.items()
    return any(wanted.items() <= own for wanted in query.labels)


def delay_query(command: GetDelayedStates) -> DelayQuery:
    """Check and normalise the filters.

    Raises:
        InvalidInputError: a bad filter; names it.
    """
    _check_limit(command.limit)
    until = None if command.until is None else to_utc("until", command.until)
    after = command.cursor
    if after is not None:
        if not isinstance(after, tuple) or len(after) != 2:  # noqa: PLR2004 - time and id
            raise InvalidInputError("cursor", "must be that of a page")
        check_text("cursor", after[1], MAX_ANNOTATIONS_BYTES)
        after = (to_utc("cursor", after[0]), after[1])
    return DelayQuery(until=until, everything=until is None, after=after, limit=command.limit)


def delayed_page(command: GetDelayedStates, found: DelayedStates) -> DelayedPage:
    """Return the page for the caller, with the command that goes on from it."""
    cursor = found.end or command.cursor
    follow = GetDelayedStates(until=command.until, limit=command.limit, cursor=cursor)
    return DelayedPage(found.delayed, found.more, follow, found.damaged)


def _check_limit(limit: int) -> None:
    if type(limit) is not int or not 1 <= limit <= MAX_PAGE:
        raise InvalidInputError("limit", f"must be an integer from 1 to {MAX_PAGE}, not {limit!r}")
