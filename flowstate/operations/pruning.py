"""Pruning: lets the store forget many ended states, in commits of bounded size."""

import logging
from collections.abc import Sequence
from datetime import datetime

from flowstate.commands import Commit, Forget, GetStates, Labels
from flowstate.context import StateContext
from flowstate.errors import InvalidInputError, RevisionMismatchError
from flowstate.ground.limits import MAX_STATES_PER_COMMIT, to_utc
from flowstate.ground.options import check_count
from flowstate.mailboxes.mailbox import MAILBOX_PREFIX, mailbox_id
from flowstate.runtime import Runtime
from flowstate.state import State, Status

__all__ = ["prune"]

logger = logging.getLogger("flowstate.engine")


async def prune(
    runtime: Runtime, ended_before: datetime | None, labels: Labels, limit: int | None, batch: int
) -> int:
    """Do ``Engine.prune``, which says what is promised."""
    check_count("batch", batch, 1, MAX_STATES_PER_COMMIT)
    if limit is not None:
        check_count("limit", limit, 0)
    before = None if ended_before is None else to_utc("ended_before", ended_before)
    query = GetStates(
        labels, latest_only=True, status=Status.ENDED, committed_before=before, limit=batch
    )
    count = 0
    while limit is None or count < limit:
        page = await runtime.reader.get_states(query)
        for damaged in page.damaged:
            _log(damaged.id, damaged.rev, damaged.error)
        # A mailbox goes with its state.
        states = [state for state in page.states if not state.id.startswith(MAILBOX_PREFIX)]
        left = len(states) if limit is None else limit - count
        count += await _forget(runtime, states[:left])
        if not page.more:
            break
        query = page.next
    return count


async def _forget(runtime: Runtime, states: Sequence[State]) -> int:
    """Forget states, apart from those that have moved on; return how many."""
    while states:
        try:
            await runtime.committer.commit(
                Commit(*[Forget(StateContext(state)) for state in states])
            )
        except RevisionMismatchError as lost:
            kept = [
                state for state in states if {state.id, mailbox_id(state.id)}.isdisjoint(lost.ids)
            ]
            if len(kept) == len(states):
                raise
            states = kept
        except InvalidInputError as error:
            if len(states) == 1:
                _log(states[0].id, states[0].rev, error)
                return 0
            # Too many for one commit, with their mailboxes; or one of them cannot be stored.
            half = len(states) // 2
            return await _forget(runtime, states[:half]) + await _forget(runtime, states[half:])
        else:
            return len(states)
    return 0


def _log(id: str, rev: int, why: object) -> None:
    logger.warning("%r is not forgotten: %s", id, why, extra={"state_id": id, "rev": rev})
