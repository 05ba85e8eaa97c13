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
from flowstate.errors import EngineStoppedError, InvalidInputError
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import MAX_STATES_PER_COMMIT, check_id
from flowstate.ground.options import count, has, optional, seconds
from flowstate.ground.tasks import cancel_and_wait, first, spawn
from flowstate.log.reading import label_terms
from flowstate.recovery.lease import SHORTEST_SECONDS, Lease, lease_id
from flowstate.recovery_rules import LONGEST

__all__ = ["Retention", "RetentionStats"]

logger = logging.getLogger("flowstate.recovery")

MOST_AT_ONCE = 10_000  # States that are forgotten before the next compaction.
MAX_DOUBLINGS = 6
NOTHING = timedelta(0)


class RetentionStats(Struct, frozen=True):
    """What a retention has done since it was made.

    Attributes:
        passes: how many times it came to an end of what there was to do.
        forgotten: states.
        compacted: revisions.
        failures: how many times the store failed.
    """

    passes: int = 0
    forgotten: int = 0
    compacted: int = 0
    failures: int = 0


def _is_duration(_: object, field: Any, value: Any) -> None:
    if not isinstance(value, timedelta) or value < NOTHING:
        raise InvalidInputError(field.name.lstrip("_"), "must be a timedelta, not below 0")


def _is_name(_: object, __: object, value: str) -> None:
    check_id("name", value)
    check_id("name", lease_id(value))


@attrs.define(eq=False, repr=False)
class Retention:
    """Forgets states that ended long ago, and compacts the log.

    Use it as ``async with``, in any number of processes: one of them works at a time. It works
    in small batches, so commits of others wait for little. What is forgotten is gone for good,
    and its id may begin again.

    A pass begins ``every`` seconds after the one before began, or at once if that took longer.

    Args:
        engine: open until the retention is left.
        keep: how long a state stays after it has ended.
        labels: only these states are forgotten, as in :class:`flowstate.GetStates`. Several
            retentions can have different rules, with a ``name`` for each.
        history: how long revisions stay that are not the latest of their state; also that
            of a forgotten one. Give consumers and watches time to read them. ``None``: as long
            as ``keep``. The shortest ``history`` of a store's retentions counts.
        name: of the lease.
        every: seconds.
        batch: how many states are forgotten by one commit, at most 128.
        lease: seconds after which a silent process is replaced.
        rng: draws the pauses after failures.

    Raises:
        InvalidInputError: a bad option; names it.
    """

    _engine: Engine = attrs.field(validator=has("an Engine", "do", "driver", "clock"))
    _keep: timedelta = attrs.field(validator=_is_duration)
    _labels: Labels = attrs.field(
        default=EMPTY, kw_only=True, validator=lambda _, __, value: [*label_terms(value)]
    )
    _history: timedelta | None = attrs.field(
        default=None, kw_only=True, validator=optional(_is_duration)
    )
    _name: str = attrs.field(default="retention", kw_only=True, validator=_is_name)
    _every: float = attrs.field(default=60.0, kw_only=True, validator=seconds(0.001))
    _batch: int = attrs.field(
        default=MAX_STATES_PER_COMMIT, kw_only=True, validator=count(1, MAX_STATES_PER_COMMIT)
    )
    _lease: float = attrs.field(
        default=15.0, kw_only=True, validator=seconds(SHORTEST_SECONDS, LONGEST)
    )
    _rng: random.Random | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a random.Random", "uniform"))
    )
    _chance: random.Random = attrs.field(init=False)
    _passes: int = attrs.field(init=False, default=0)
    _forgotten: int = attrs.field(init=False, default=0)
    _compacted: int = attrs.field(init=False, default=0)
    _failures: int = attrs.field(init=False, default=0)
    _task: "asyncio.Task[None] | None" = attrs.field(init=False, default=None)

    async def __aenter__(self) -> Self:
        self._engine.check_open()
        # Drawn here: processes that were forked after this object was made must differ.
        self._chance = self._rng or random.Random()  # noqa: S311 - no secret
        lease = Lease(self._engine, self._name, seconds=self._lease, rng=self._chance)
        self._task = spawn(self._run(lease), f"flowstate {self._name}")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None

    def stats(self) -> RetentionStats:
        """Return what it has done since it was made, in this process."""
        return RetentionStats(self._passes, self._forgotten, self._compacted, self._failures)

    async def run_once(self) -> RetentionStats:
        """Do a pass now, whether or not this process holds the lease; return what it did.

        Raises:
            CommitUnknownError: it could not be found out whether a commit happened. Nothing is
                lost by that: the next pass goes on.
            DriverError: the store failed.
            EngineStoppedError: the engine is not open.
        """
        before = self.stats()
        more = True
        while more:
            more = await self._forget_some()
            await self._compact()
        self._passes += 1
        after = self.stats()
        return RetentionStats(
            after.passes - before.passes,
            after.forgotten - before.forgotten,
            after.compacted - before.compacted,
        )

    async def _forget_some(self) -> bool:
        """Forget some of what is old enough; return whether there may be more."""
        forgotten = await self._engine.prune(
            ended_before=await self._store_now() - self._keep,
            labels=self._labels,
            limit=MOST_AT_ONCE,
            batch=self._batch,
        )
        self._forgotten += forgotten
        return forgotten == MOST_AT_ONCE

    async def _compact(self) -> None:
        """Remove revisions that are older than the history."""
        history = self._keep if self._history is None else self._history
        page = await self._engine.get_states(since_time=await self._store_now() - history, limit=1)
        revs = [state.rev for state in page.states] + [bad.rev for bad in page.damaged]
        self._compacted += await self._engine.compact(min(revs, default=page.cursor))

    async def _store_now(self) -> datetime:
        page = await self._engine.driver.get_due(DueQuery("delay", flows=(), limit=1))
        return page.now

    async def _run(self, lease: Lease) -> None:
        """Do pass after pass while the lease is held; a failing store is asked later and later."""
        clock, failures = self._engine.clock, 0
        with contextlib.suppress(EngineStoppedError):
            async with lease:
                while True:
                    await lease.wait_held()
                    began = clock.monotonic()
                    try:
                        await first(self._pass(), lease.wait_lost())
                        failures = 0
                    except EngineStoppedError:
                        raise
                    except Exception as error:  # Whatever it is, the store has to stay bounded.
                        failures = min(failures + 1, MAX_DOUBLINGS)
                        self._failures += 1
                        logger.warning("cannot remove what is old: %s", error, exc_info=error)
                    await clock.sleep(
                        self._pause(failures, clock.monotonic() - began), background=True
                    )

    def _pause(self, failures: int, took: float) -> float:
        """Return how many seconds the next pass has to wait."""
        if failures:
            longest = self._every * 2**failures
            return self._chance.uniform(longest / 2, longest)
        return max(0.0, self._every - took)

    async def _pass(self) -> None:
        done = await self.run_once()
        if done.forgotten or done.compacted:
            logger.info("forgot %d states, compacted %d revisions", done.forgotten, done.compacted)
