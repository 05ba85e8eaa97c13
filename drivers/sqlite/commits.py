"""Batches of commits: each is stored by one transaction, or fails alone."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime

from flowstate.driver import Verdict, Writes
from flowstate.drivers.sqlite.file import File, OutcomeUnknownError
from flowstate.drivers.sqlite.writer import Batch
from flowstate.errors import (
    CommitUnknownError,
    FlowstateError,
    StoreBusyError,
    StoreReadOnlyError,
)

__all__ = ["commit"]

Judged = tuple[Batch, list[Verdict]]


def commit(file: File, batch: Sequence[Writes], now: Callable[[], datetime]) -> list[Verdict]:
    """Judge and store a batch.

    When it fails its halves are tried: a commit that makes the whole batch fail, say by being
    too large for the disk, must not take the others with it.
    """
    try:
        return _commit(file, batch, now)
    except (StoreBusyError, StoreReadOnlyError) as error:
        return [error for _ in batch]
    except FlowstateError as error:
        if len(batch) == 1:
            return [error]
    middle = len(batch) // 2
    return [*commit(file, batch[:middle], now), *commit(file, batch[middle:], now)]


def _commit(file: File, batch: Sequence[Writes], now: Callable[[], datetime]) -> list[Verdict]:
    def judge(connection: sqlite3.Connection) -> Judged:
        pending = Batch(connection, batch, now())
        verdicts = [pending.judge(writes) for writes in batch]
        pending.rows.flush(connection)
        return pending, verdicts

    try:
        _, verdicts = file.write(judge, lambda judged, fresh: judged[0].rows.is_stored(fresh))
    except OutcomeUnknownError:
        return [CommitUnknownError(writes.token) for writes in batch]
    return verdicts
