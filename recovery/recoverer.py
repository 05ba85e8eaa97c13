"""Finishes what crashes interrupted: executes stalled states again, and ends those beyond help."""

import asyncio
import contextlib
import logging
import random
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Self

from flowstate.cancellation import all_cancelled, to_the_end
from flowstate.commands import Commit, Retry
from flowstate.context import StateContext
from flowstate.driver import Liveness, StalledQuery, StalledStates
from flowstate.engine import Engine
from flowstate.errors import (
    EngineStoppedError,
    FlowstateError,
    InvalidInputError,
    LeaseLostError,
    RevisionMismatchError,
)
from flowstate.execution import read_note
from flowstate.executions import Place
from flowstate.limits import check_id
from flowstate.recovery.admission import Admission, EngineFullError, Outcome
from flowstate.recovery.dead import end_by_force
from flowstate.recovery.lease import Lease, check_seconds
from flowstate.recovery.looks import Looks
from flowstate.recovery.policy import attempt, attempt_annotations, decide, max_attempts
from flowstate.recovery.stats import Counts, Stats
from flowstate.state import State

__all__ = ["Recoverer", "lease_name"]

logger = logging.getLogger("flowstate.recovery")

PAGE = 100
REMEMBERED = 10_000


def lease_name(group: str) -> str:
    """Return the name of the lease for which the recoverers of a group compete."""
    return f"recovery.{group}"


class Recoverer:
    """Executes states again that made no progress for too long; an async context manager.

    Run one beside every engine: one of them leads, the others stand by. A state that is active,
    neither delayed nor kept alive by an engine, and has not been committed for its ``retry_after``
    is executed again by the leader's engine, oldest first; after ``max_attempts`` of that it is
    ended by force (see :func:`flowstate.recovery.dead_states`). The attempt is committed before
    it runs.

    Args:
        engine: executes what is recovered; open until the recoverer is left. States in flows that
            its registry does not have are left alone.
        group: recoverers of one group elect one leader. Processes with other flows use another
            group, since the leader of theirs is the one that knows them.
        lease: seconds after which a silent leader is replaced.
        poll_interval: seconds between two looks while others commit; when nobody does, it looks
            when the next state stalls.
        max_running: how many attempts are on their way at once. Those that have run for half a
            minute no longer count, so that long flows do not hold up the others.
        rate: attempts begun in a second, at most.
        rng: for jitter.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        group: str = "default",
        lease: float = 15.0,
        poll_interval: float = 1.0,
        max_running: int = 100,
        rate: float = 100.0,
        rng: random.Random | None = None,
    ) -> None:
        if type(max_running) is not int or max_running < 1:
            raise InvalidInputError("max_running", f"must be at least 1, not {max_running!r}")
        if not isinstance(rate, int | float) or not rate > 0:
            raise InvalidInputError("rate", f"must be above 0, not {rate!r}")
        check_id("group", group)
        check_seconds("lease", lease)
        self._engine = engine
        self._driver = engine.driver
        self._clock = engine.clock
        self._poll_interval = poll_interval
        self._rng = rng or random.Random()  # noqa: S311 - no secret
        self._lease = Lease(
            engine,
            lease_name(group),
            seconds=lease,
            poll_interval=poll_interval,
            rng=self._rng,
        )
        self._admission = Admission(engine, engine.clock, max_running, rate, self._rng)
        self._counts = Counts()
        self._skipped: dict[tuple[str, int], None] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._lease.__aenter__()
        self._task = asyncio.create_task(self._run(), name="flowstate recoverer")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._task is not None:
                await all_cancelled(self._task)
        finally:
            await self._lease.__aexit__(exc_type, exc, traceback)

    @property
    def is_leading(self) -> bool:
        """Whether this process recovers just now."""
        return self._lease.is_held

    @property
    def leader(self) -> str:
        """The engine that recovers, as this process knows; empty when none does."""
        return self._lease.holder

    def stats(self) -> Stats:
        """Return what this recoverer has done since it was made."""
        return self._counts.stats(is_leading=self.is_leading)

    async def _run(self) -> None:
        while True:
            await self._lease.wait_held()
            leading = asyncio.create_task(self._lead(), name="flowstate recovery")
            lost = asyncio.create_task(self._lease.wait_lost())
            try:
                await asyncio.wait([leading, lost], return_when=asyncio.FIRST_COMPLETED)
            finally:
                await all_cancelled(leading, lost)
            if not leading.cancelled() and isinstance(leading.exception(), EngineStoppedError):
                return

    async def _lead(self) -> None:
        """Recover, pass after pass; a failing store is asked again later and later."""
        failures = 0
        looks = Looks(self._poll_interval, self._clock.monotonic())
        # A crash of everything lets everybody begin at the same time.
        await self._clock.sleep(self._rng.uniform(0, self._poll_interval / 2))
        while True:
            try:
                head = await self._driver.head()
                began = self._clock.monotonic()
                found, is_done = await self._pass(looks.since(began))
            except EngineStoppedError:
                raise
            except LeaseLostError:
                return
            except Exception as error:  # Whatever it is, recovery must go on.
                exc_info = None if isinstance(error, FlowstateError) else error
                logger.warning("cannot look for stalled states: %s", error, exc_info=exc_info)
                failures = min(failures + 1, 6)
                ceiling = self._poll_interval * 2**failures
                await self._clock.sleep(self._rng.uniform(ceiling / 2, ceiling))
                continue
            failures = 0
            now = self._clock.monotonic()
            looks.done(began, now, found.now, is_done=is_done)
            await self._pause(found, head, looks.pause(now))

    async def _pass(self, since: datetime | None) -> tuple[StalledStates, bool]:
        """Deal with everything that has stalled since, page by page.

        Returns the last page, and whether nothing has to be tried again.
        """
        end = None if since is None else (since, "")
        is_done = True
        while True:
            found = await self._driver.get_stalled(StalledQuery(end, PAGE))
            for damaged in found.damaged:
                self._skip(damaged.id, damaged.rev, "damaged", damaged.error)
            outcomes = await asyncio.gather(
                *(self._recover(state) for state in found.states), return_exceptions=True
            )
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
                is_done = is_done and outcome
            if not found.more:
                return found, is_done
            end = found.end

    async def _pause(self, found: StalledStates, head: int, longest: float) -> None:
        """Wait until the next state stalls, or one that was committed meanwhile may."""
        waits = [
            asyncio.ensure_future(self._changed(head)),
            asyncio.ensure_future(self._clock.sleep(longest, background=True)),
        ]
        if found.next_at is not None:
            left = max(0.0, (found.next_at - found.now).total_seconds())
            waits.append(asyncio.ensure_future(self._clock.sleep(left)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await all_cancelled(*waits)

    async def _changed(self, head: int) -> None:
        with contextlib.suppress(Exception):  # Then it looks in a while, as it would anyway.
            await self._driver.wait(head)
        await self._clock.sleep(self._poll_interval)

    async def _recover(self, state: State) -> bool:
        """Deal with one state; whatever goes wrong with it holds up no other.

        Returns whether that is all that can be done for it now.
        """
        flow = state.transition.to
        extra = {"state_id": state.id, "rev": state.rev, "flow": flow, "attempt": attempt(state)}
        try:
            decision = decide(state, is_known=self._engine.can_execute(flow))
            if decision == "unknown flow":
                self._skip(state.id, state.rev, decision, f"no flow {flow!r} here")
                return True
            liveness = await self._stalled(state)
            if liveness is None:
                return True
            if liveness.delay_due is not None:
                why = f"it has a delay, due at {liveness.delay_due}, that no delayer has fired"
                self._skip(state.id, state.rev, "delayed", why)
            elif decision == "drop":
                await self._drop(state, read_note(liveness.note).error)
            else:
                await self._retry(state)
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

    async def _retry(self, state: State) -> None:
        try:
            async with self._admission.turn() as place:
                if await self._stalled(state) is not None:  # Its turn may have been long in coming.
                    # Whoever is cancelled in between has counted an attempt that nobody runs.
                    await to_the_end(self._begin(state, place))
        except EngineFullError:
            if self.is_leading:
                logger.warning("gives up leading: its engine has long had no room for attempts")
                self._lease.give_up()

    async def _stalled(self, state: State) -> Liveness | None:
        """Return what is known of a state; ``None`` when it has moved on, or is alive after all."""
        found = await self._driver.get_liveness(state.id)
        if found is None or found.rev != state.rev:
            return None
        return None if found.stalls_at is None or found.stalls_at > found.now else found

    async def _begin(self, state: State, place: Place) -> None:
        ctx = StateContext(state)
        annotations = attempt_annotations(state, self._rng)
        await self._engine.do(Commit(self._lease.check(), Retry(ctx, annotations)))
        number = attempt(ctx.committed)
        extra = {"state_id": state.id, "rev": ctx.committed.rev, "attempt": number}
        if number == 1:
            self._counts.done["added"] += 1
        self._counts.done["retried"] += 1
        logger.info(
            "%r stalled in flow %r: attempt %d of %d",
            state.id,
            state.transition.to,
            number,
            max_attempts(state),
            extra=extra,
        )
        outcome = await self._engine.start(ctx, place)
        outcome.add_done_callback(partial(self._ended, ctx.committed))
        self._admission.add(outcome)

    def _ended(self, state: State, outcome: Outcome) -> None:
        error = None if outcome.cancelled() else outcome.result()
        what = "completed" if error is None else "failed"
        self._counts.done[what] += 1
        extra = {"state_id": state.id, "rev": state.rev, "attempt": attempt(state)}
        logger.info("attempt %d of %r %s", attempt(state), state.id, what, extra=extra)

    async def _drop(self, state: State, error: str) -> None:
        number = attempt(state)
        reason = f"made no progress in {number} attempt{'s' if number != 1 else ''}"
        await end_by_force(self._engine, state, reason, error, self._lease.check())
        self._counts.done["dropped"] += 1
        extra = {"state_id": state.id, "rev": state.rev, "attempt": attempt(state)}
        logger.error("%r ended by force: %s: %s", state.id, reason, error, extra=extra)

    def _skip(self, id: str, rev: int, reason: str, why: str) -> None:
        """Count and log once what every pass meets again."""
        if (id, rev) in self._skipped:
            return
        self._skipped[id, rev] = None
        if len(self._skipped) > REMEMBERED:
            del self._skipped[next(iter(self._skipped))]
        self._counts.skipped[reason] += 1
        extra = {"state_id": id, "rev": rev, "reason": reason}
        logger.info("%r is not recovered: %s: %s", id, reason, why, extra=extra)
