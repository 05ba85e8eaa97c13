"""Finishes what crashes interrupted: executes stalled states again, and ends those beyond help."""

import asyncio
import contextlib
import logging
import math
import random
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, Self

import attrs
from msgspec import Struct
from msgspec.structs import replace

from flowstate.commands import Commit, Retry
from flowstate.context import StateContext
from flowstate.delayer import OTHERS_EVERY, is_new
from flowstate.driver import DuePage, DueQuery, Liveness, Seen
from flowstate.engine import Engine
from flowstate.errors import (
    EngineStoppedError,
    FlowstateError,
    InvalidInputError,
    LeaseLostError,
    RevisionMismatchError,
)
from flowstate.executions.execution import Note, read_note
from flowstate.executions.pool import Slot
from flowstate.ground.limits import check_id
from flowstate.ground.options import check_seconds, count, has, optional, seconds
from flowstate.ground.tasks import cancel_and_wait, first, shielded, spawn
from flowstate.log.log_tail import change_of_head
from flowstate.recovery.dead import end_by_force
from flowstate.recovery.lease import SHORTEST_SECONDS, Lease, lease_id
from flowstate.recovery.policy import (
    attempt,
    attempt_annotations,
    decide,
    max_attempts,
)
from flowstate.recovery.scanning import ScanSchedule
from flowstate.recovery.throttle import AttemptLimiter, EngineFullError, Outcome
from flowstate.state import State

__all__ = ["Recoverer", "Stats", "lease_name"]

logger = logging.getLogger("flowstate.recovery")

COUNTED = ("added", "retried", "completed", "failed", "dropped", "taken_over")
PAGE = 100
# The store's time is no timer of this process, and an engine that stops hands over at any time:
# a part of the time until the next state stalls, from 5 seconds to a minute.
PART_OF_WAIT = 1 / 24
SHORTEST_LOOK = 5.0
MAX_DOUBLINGS = 6
FRESH_SECONDS = 2.0


def lease_name(group: str) -> str:
    """Return the name of the lease for which the recoverers of a group compete."""
    return f"recovery.{group}"


def _check_group(_: object, field: Any, value: str) -> None:
    check_id(field.name.lstrip("_"), value)
    check_id(field.name.lstrip("_"), lease_id(lease_name(value)))


def _check_lease(_: object, __: object, value: object) -> None:
    check_seconds("lease", value, SHORTEST_SECONDS)


def _check_rate(_: object, field: Any, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise InvalidInputError(field.name.lstrip("_"), "must be a number above 0")


class Stats(Struct, frozen=True):
    """Counts of decisions.

    Attributes:
        is_leading: whether this process recovers just now.
        added: states that were found stalled for the first time since their progress.
        retried: attempts that were committed, and given to the engine.
        completed: attempts, and what was taken over, that ended without an error.
        failed: attempts, and what was taken over, whose flow raised, or that were stopped.
        dropped: states that were ended by force.
        skipped: what was left alone, by reason. States, each revision once: ``"delayed"`` (no
            delayer has fired an overdue delay), ``"moved on"``, ``"not leading"``, ``"damaged"``,
            ``"refused"`` (it has no room for an attempt's notes). Flows, each once:
            ``"unknown flow"`` (states stand still in it, and it is not registered here).
        taken_over: executions that engines handed over when they stopped; these are no attempts.
    """

    is_leading: bool
    added: int
    retried: int
    completed: int
    failed: int
    dropped: int
    skipped: Mapping[str, int]
    taken_over: int = 0


@attrs.define(eq=False)
class Recoverer:
    """Executes states again that made no progress for too long; an async context manager.

    Run one with every engine: one of them leads, the others stand by. A state that is active,
    neither delayed nor kept alive by an engine, and has not been committed for its ``retry_after``
    is executed again by the leader's engine, oldest first; after ``max_attempts`` of that it is
    ended by force (see :func:`flowstate.recovery.dead_states`). The attempt is committed before
    it runs. What an engine hands over when it stops is executed at once, and is no attempt.

    Args:
        engine: executes what is recovered; open until the recoverer is left. States in flows that
            its registry does not have are left alone, and cost nothing.
        group: recoverers of one group elect one leader. Processes with other flows use another
            group, since the leader of theirs is the one that knows them.
        lease: seconds after which a silent leader is replaced.
        poll_interval: seconds between two scans while others commit. When there are no commits,
            it scans when the next state stalls, and every few seconds.
        max_running: how many attempts are on their way at once. Those that have run for half a
            minute no longer count, so that long flows do not hold up the others.
        rate: attempts begun in a second, at most.
        rng: for jitter.

    Raises:
        InvalidInputError: a bad option; names it.
    """

    _engine: Engine = attrs.field(validator=has("an Engine", "driver", "clock", "flows"))
    _group: str = attrs.field(default="default", kw_only=True, validator=_check_group)
    _lease_seconds: float = attrs.field(
        alias="lease", default=15.0, kw_only=True, validator=_check_lease
    )
    _poll_interval: float = attrs.field(default=1.0, kw_only=True, validator=seconds(0.001))
    _max_running: int = attrs.field(default=100, kw_only=True, validator=count(1))
    _rate: float = attrs.field(default=100.0, kw_only=True, validator=_check_rate)
    _rng: random.Random | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a random.Random", "uniform"))
    )
    _lease: Lease = attrs.field(init=False)
    _limiter: AttemptLimiter = attrs.field(init=False)
    _seen: Seen = attrs.field(init=False, factory=Seen)
    _again_at: float = attrs.field(init=False, default=math.inf)
    _chance: random.Random = attrs.field(init=False)
    _done: Counter[str] = attrs.field(init=False, factory=Counter)
    _left_alone: Counter[str] = attrs.field(init=False, factory=Counter)
    _skipped: dict[str, None] = attrs.field(init=False, factory=dict)
    _others_at: float = attrs.field(init=False, default=0.0)
    _task: asyncio.Task[None] | None = attrs.field(init=False, default=None)

    async def __aenter__(self) -> Self:
        self._engine.check_open()
        # Drawn here: processes that were forked after this object was made must differ.
        self._chance = self._rng or random.Random()  # noqa: S311 - no secret
        self._limiter = AttemptLimiter(self._engine, self._max_running, self._rate, self._chance)
        self._others_at = self._engine.clock.monotonic()
        self._lease = Lease(
            self._engine,
            lease_name(self._group),
            seconds=self._lease_seconds,
            poll_interval=self._poll_interval,
            rng=self._chance,
        )
        await self._lease.__aenter__()
        self._task = spawn(self._run(), "flowstate recoverer")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if self._task is not None:
                await cancel_and_wait(self._task)
        finally:
            await self._lease.__aexit__(*exc_info)

    @property
    def is_leading(self) -> bool:
        """Whether this process recovers just now."""
        return self._task is not None and self._lease.is_held

    @property
    def leader(self) -> str:
        """The engine that recovers, as this process knows; empty when none does."""
        return "" if self._task is None else self._lease.holder

    def stats(self) -> Stats:
        """Return what this recoverer has done since it was made."""
        counts = {name: self._done[name] for name in COUNTED}
        return Stats(is_leading=self.is_leading, skipped=dict(self._left_alone), **counts)

    async def _run(self) -> None:
        with contextlib.suppress(EngineStoppedError):
            while True:
                await self._lease.wait_held()
                await first(self._lead(), self._lease.wait_lost())

    async def _lead(self) -> None:
        """Recover, scan after scan; a failing store is asked again later and later."""
        clock, failures, self._seen = self._engine.clock, 0, Seen()
        schedule = ScanSchedule(self._poll_interval)
        # A crash of everything lets all processes begin at the same time.
        await clock.sleep(self._chance.uniform(0, self._poll_interval / 2))
        while True:
            try:
                if self._seen == Seen():
                    self._seen = await self._engine.driver.changed(self._seen)
                page, is_done = await self._scan(schedule.begin(clock.monotonic()))
                failures, now = 0, clock.monotonic()
                schedule.end(now, page.now, is_done=is_done, again_at=self._again_at)
                await self._pause(page, schedule.pause(now))
            except EngineStoppedError:
                raise
            except LeaseLostError:
                return
            except Exception as error:  # Whatever it is, recovery must go on.
                exc_info = None if isinstance(error, FlowstateError) else error
                logger.warning("cannot look for stalled states: %s", error, exc_info=exc_info)
                failures = min(failures + 1, MAX_DOUBLINGS)
                ceiling = self._poll_interval * 2**failures
                await clock.sleep(self._chance.uniform(ceiling / 2, ceiling))

    async def _scan(self, since: datetime | None) -> tuple[DuePage, bool]:
        """Deal with everything that has stalled since, page by page.

        Returns the last page, and whether nothing has to be tried again.
        """
        self._again_at = math.inf
        flows = tuple(filter(self._engine.can_execute, self._engine.flows))
        after = None if since is None else (since, "")
        now = self._engine.clock.monotonic()
        others = now >= self._others_at
        if others:
            self._others_at = now + OTHERS_EVERY
        query = DueQuery("stall", flows=flows, after=after, limit=PAGE, others=others)
        is_done = True
        while True:
            head = self._seen.head
            page = await self._engine.driver.get_due(query)
            self._lease.looks.add(self._engine.clock.monotonic(), page.now, head)
            self._report(page)
            recovering = [self._recover(stalled.state) for stalled in page.due]
            for outcome in await asyncio.gather(*recovering, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
                is_done = is_done and outcome
            if not page.more:
                return page, is_done
            query = replace(query, after=page.end, others=False)

    def _report(self, page: DuePage) -> None:
        for damaged in page.damaged:
            self._skip(damaged.id, 0, "damaged", damaged.error)
        for flow in page.others:
            if is_new(self._skipped, f"flow {flow}"):
                self._left_alone["unknown flow"] += 1
                message = "states in flow %r are not recovered: unknown flow here"
                logger.info(message, flow, extra={"flow": flow, "reason": "unknown flow"})

    async def _pause(self, page: DuePage, longest: float) -> None:
        """Wait until the next state stalls, or one that was committed meanwhile may."""
        pause, is_idle = longest, page.next_at is None and self._again_at == math.inf
        if page.next_at is not None:
            left = max(0.0, (page.next_at - page.now).total_seconds())
            pause = min(longest, left, max(SHORTEST_LOOK, left * PART_OF_WAIT))
        sleep = self._engine.clock.sleep(pause, background=is_idle)
        await first(self._change(), sleep)

    async def _change(self) -> None:
        """Return a while after something was committed."""
        with contextlib.suppress(Exception):  # Then it scans in a while, as it would anyway.
            self._seen = await change_of_head(self._engine.driver, self._seen)
        await self._engine.clock.sleep(self._poll_interval)

    async def _look(self, state: State) -> Liveness | None:
        """Return what is known of a state; ``None`` if it has moved on, or may be alive after all.

        It must have stalled by the clock of the store, and by that of this process: the engine that
        executes it relies on the store having heard of it for no longer than that, by its own.
        """
        asked_at = self._engine.clock.monotonic()
        # All of a page are asked for together.
        found = await self._engine.heartbeats.get_liveness(state.id)
        if found is None or found.rev != state.rev or found.stalls_at is None:
            return None
        if found.stalls_at > found.now:
            return None
        if read_note(found.note).handed_over:
            return found
        seen_at = self._engine.clock.monotonic()
        at = self._lease.looks.recoverable_at(state, found, seen_at)
        if at <= asked_at:
            return found
        self._again_at = min(self._again_at, at)
        return None

    async def _recover(self, state: State) -> bool:
        """Deal with one state; whatever goes wrong with it holds up no other.

        Returns whether that is all that can be done for it now.
        """
        flow = state.transition.to
        extra = {"state_id": state.id, "rev": state.rev, "flow": flow, "attempt": attempt(state)}
        try:
            looked_at = self._engine.clock.monotonic()
            found = await self._look(state)
            if found is not None and self._engine.can_execute(flow):
                await self._decide(state, found, looked_at)
        except RevisionMismatchError as lost:
            reason = "moved on"
            if self._lease.id in lost.ids:
                reason = "not leading"
                self._lease.give_up()
            self._skip(state.id, state.rev, reason, str(lost))
        except (EngineStoppedError, LeaseLostError):
            raise
        except InvalidInputError as error:  # It has no room for what an attempt notes in it.
            self._skip(state.id, state.rev, "refused", str(error))
        except Exception:
            logger.exception("cannot recover %r", state.id, extra=extra)
            return False
        return True

    async def _decide(self, state: State, found: Liveness, looked_at: float) -> None:
        note = read_note(found.note)
        if found.delay_due is not None:
            why = f"it has a delay, due at {found.delay_due}, that no delayer has fired"
            self._skip(state.id, state.rev, "delayed", why)
        elif decide(state, handed_over=note.handed_over) == "drop":
            await self._drop(state, note.error)
        else:
            await self._execute(state, found, looked_at)

    async def _execute(self, state: State, found: Liveness | None, looked_at: float) -> None:
        """Begin an attempt when it has its turn.

        That may have been long in coming, and a heartbeat may have come meanwhile. An answer of
        the last seconds is good enough: the commit of the attempt is judged by the revision, and
        an execution whose heartbeat came late finds out by itself that it has been replaced.
        """
        try:
            async with self._limiter.turn() as slot:
                if self._engine.clock.monotonic() - looked_at >= FRESH_SECONDS:
                    found = await self._look(state)
                if found is not None:
                    # Cancelled in between, it would have counted an attempt that never runs.
                    await shielded(self._begin(state, read_note(found.note), slot))
        except EngineFullError:
            if self.is_leading:
                logger.warning("gives up leading: its engine has long had no room for attempts")
                self._lease.give_up()

    async def _begin(self, state: State, note: Note, slot: Slot) -> None:
        ctx = StateContext(state)
        notes = {} if note.handed_over else attempt_annotations(state, self._chance)
        await self._engine.do(Commit(self._lease.check(), Retry(ctx, notes)))
        begun, id, flow = ctx.committed, repr(state.id), state.transition.to
        if note.handed_over:
            self._done["taken_over"] += 1
            self._log(
                begun, logging.INFO, f"{id} goes on in flow {flow!r}: handed over by {note.engine}"
            )
        else:
            self._done["added"] += attempt(begun) == 1
            self._done["retried"] += 1
            of = f"attempt {attempt(begun)} of {max_attempts(begun)}"
            self._log(begun, logging.INFO, f"{id} stalled in flow {flow!r}: {of}")
        outcome = await self._engine.begin(ctx, slot)
        outcome.add_done_callback(partial(self._ended, begun))
        self._limiter.add(outcome)

    def _ended(self, state: State, outcome: Outcome) -> None:
        error = None if outcome.cancelled() else outcome.result()
        what = "completed" if error is None else "failed"
        self._done[what] += 1
        self._log(state, logging.INFO, f"attempt {attempt(state)} of {state.id!r} {what}")

    async def _drop(self, state: State, error: str) -> None:
        number = attempt(state)
        reason = f"made no progress in {number} attempt{'s' if number != 1 else ''}"
        await end_by_force(self._engine, state, reason, error, self._lease.check())
        self._done["dropped"] += 1
        why = f"{reason}: {error}" if error else reason
        self._log(state, logging.ERROR, f"{state.id!r} ended by force: {why}")

    def _log(self, state: State, level: int, what: str) -> None:
        extra = {"state_id": state.id, "rev": state.rev, "attempt": attempt(state)}
        logger.log(level, "%s", what, extra=extra)

    def _skip(self, id: str, rev: int, reason: str, why: str) -> None:
        """Count and log once what every pass meets again."""
        if is_new(self._skipped, f"{rev} {id}"):
            self._left_alone[reason] += 1
            extra = {"state_id": id, "rev": rev, "reason": reason}
            logger.info("%r is not recovered: %s: %s", id, reason, why, extra=extra)
