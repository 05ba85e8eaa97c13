"""Keeps a store bounded: forgets what ended long ago, and compacts the log."""

import asyncio
import contextlib
import logging
import random
from datetime import datetime, timedelta
from typing import Any, Self

import attrs
from msgspec import Struct

from flowstate.commands import Labels
from flowstate.driver import DueQuery
from flowstate.engine import Engine
from flowstate.errors import EngineStoppedError, InvalidInputError, LeaseLostError
from flowstate.frozen import EMPTY
from flowstate.limits import MAX_STATES_PER_COMMIT
from flowstate.options import count, has, optional, seconds
from flowstate.recovery.lease import SHORTEST_SECONDS, Lease
from flowstate.recovery_rules import LONGEST
from flowstate.tasks import cancel_and_wait, first, spawn

__all__ = ["Retention", "RetentionStats"]

logger = logging.getLogger("flowstate.recovery")

MOST_AT_ONCE = 10_000  # States between two looks whether the lease is still held.
MAX_DOUBLINGS = 6


class RetentionStats(Struct, frozen=True):
    """What a retention has done since it was made.

    Attributes:
        passes: how many times it has looked at the whole store.
        forgotten: states.
        compacted: revisions.
    """

    passes: int = 0
    forgotten: int = 0
    compacted: int = 0


def _is_duration(_: object, field: Any, value: object) -> None:
    if not isinstance(value, timedelta) or value < timedelta(0):
        raise InvalidInputError(field.name.lstrip("_"), "must be a timedelta, not below 0")


@attrs.define(eq=False, repr=False)
class Retention:
    """Forgets states that ended long ago, and compacts the log behind that.

    Use it as ``async with``, in any number of processes: one of them works at a time. It works
    in small batches, so commits of others wait for little. What is forgotten is gone for good,
    and its id may begin again.

    Args:
        engine: open until the retention is left.
        keep: how long a state stays after it has ended.
        labels: only these states are forgotten, as in :class:`flowstate.GetStates`; several
            retentions with names of their own can have different rules.
        history: how long the revisions of living states stay; those that are older and not the
            latest of their state are removed. ``None``: as long as ``keep``.
        name: of the lease.
        every: seconds between two passes.
        batch: how many states are forgotten by one commit, at most 128.
        lease_seconds: after which a silent process is replaced.
        rng: draws the pauses after failures.

    Raises:
        InvalidInputError: a bad option; names it.
    """

    _engine: Engine = attrs.field(validator=has("an Engine", "do", "driver", "clock"))
    _keep: timedelta = attrs.field(validator=_is_duration)
    _labels: Labels = attrs.field(default=EMPTY, kw_only=True)
    _history: timedelta | None = attrs.field(
        default=None, kw_only=True, validator=optional(_is_duration)
    )
    _name: str = attrs.field(default="retention", kw_only=True)
    _every: float = attrs.field(default=60.0, kw_only=True, validator=seconds(0.001))
    _batch: int = attrs.field(
        default=MAX_STATES_PER_COMMIT, kw_only=True, validator=count(1, MAX_STATES_PER_COMMIT)
    )
    _lease_seconds: float = attrs.field(
        default=15.0, kw_only=True, validator=seconds(SHORTEST_SECONDS, LONGEST)
    )
    _rng: random.Random | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a random.Random", "uniform"))
    )
    _chance: random.Random = attrs.field(init=False)
    _lease: Lease = attrs.field(init=False)
    _stats: RetentionStats = attrs.field(init=False, factory=RetentionStats)
    _task: "asyncio.Task[None] | None" = attrs.field(init=False, default=None)

    async def __aenter__(self) -> Self:
        self._engine.check_open()
        # Drawn here: processes that were forked after this object was made must differ.
        self._chance = self._rng or random.Random()  # noqa: S311 - no secret
        self._lease = Lease(self._engine, self._name, seconds=self._lease_seconds, rng=self._chance)
        await self._lease.__aenter__()
        self._task = spawn(self._run(), f"flowstate {self._name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if self._task is not None:
                await cancel_and_wait(self._task)
        finally:
            await self._lease.__aexit__(*exc_info)

    def stats(self) -> RetentionStats:
        """Return what it has done since it was made, in this process."""
        return self._stats

    async def run_once(self) -> RetentionStats:
        """Do one pass now, whether or not this process holds the lease; return what it did."""
        now = await self._store_now()
        forgotten = 0
        while True:
            some = await self._engine.prune(
                ended_before=now - self._keep,
                labels=self._labels,
                limit=MOST_AT_ONCE,
                batch=self._batch,
            )
            forgotten += some
            if some < MOST_AT_ONCE:
                break
        floor = await self._first_since(now - (self._history or self._keep))
        return RetentionStats(1, forgotten, await self._engine.compact(floor))

    async def _store_now(self) -> datetime:
        page = await self._engine.driver.get_due(DueQuery("delay", flows=(), limit=1))
        return page.now

    async def _first_since(self, time: datetime) -> int:
        """Return the first revision that was committed at or after a time, or the head."""
        page = await self._engine.get_states(since_time=time, limit=1)
        revs = [each.rev for each in (*page.states, *page.damaged)]
        return min(revs, default=page.cursor)

    async def _run(self) -> None:
        """Do pass after pass while the lease is held; a failing store is asked later and later."""
        failures = 0
        with contextlib.suppress(EngineStoppedError, LeaseLostError):
            while True:
                await self._lease.wait_held()
                try:
                    await first(self._pass(), self._lease.wait_lost())
                    failures = 0
                except (EngineStoppedError, LeaseLostError):
                    raise
                except Exception as error:  # Whatever it is, the store has to stay bounded.
                    logger.warning("cannot remove what is old: %s", error, exc_info=error)
                    failures = min(failures + 1, MAX_DOUBLINGS)
                pause = self._every * 2**failures
                await self._engine.clock.sleep(
                    self._chance.uniform(pause / 2, pause) if failures else pause, background=True
                )

    async def _pass(self) -> None:
        done = await self.run_once()
        old = self._stats
        self._stats = RetentionStats(
            old.passes + 1, old.forgotten + done.forgotten, old.compacted + done.compacted
        )
        if done.forgotten or done.compacted:
            logger.info("forgot %d states, compacted %d revisions", done.forgotten, done.compacted)
