"""Keeps the states that an engine executes from being recovered by others meanwhile.

Most executions are over, or have committed, long before their state would stall, and cost the
store nothing. The others are kept alive by heartbeats, many with one write. An execution for which
no heartbeat got through is stopped before others may take it over.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence

from msgspec.structs import replace

from flowstate.clock import Clock
from flowstate.driver import Driver, Heartbeat, Liveness
from flowstate.errors import (
    EngineStoppedError,
    FlowstateError,
    RevisionMismatchError,
    StoreBusyError,
)
from flowstate.execution import Execution, Note
from flowstate.gathering import Gathering
from flowstate.state import State

__all__ = ["Keeper"]

logger = logging.getLogger("flowstate.engine")

SAFE = 1 / 3  # Parts of the time that a state may stand still.
TRY_AGAIN_AFTER = 1 / 12
BATCH = 500
MOST_FAILURES = 1_000
MOST_RENEWALS = 2  # One after the other, each acknowledged too late.
CLOSING_SECONDS = 1.0
SHORTEST_PAUSE = 0.001
LONGEST_PAUSE = 3600.0


class Keeper:
    """Sends heartbeats for the executions of one engine.

    Args:
        driver: of the engine.
        clock: of the engine.
        name: of the engine.
        renew: commits a state as it is, and returns its new revision.
    """

    def __init__(
        self,
        driver: Driver,
        clock: Clock,
        name: str,
        renew: Callable[[State], Awaitable[State]],
    ) -> None:
        self._driver = driver
        # Many executions are confirmed at once, of all that a worker has found in a page, say.
        self._livenesses = Gathering(driver.get_liveness_of, str, BATCH)
        self._beats = Gathering(driver.beat, _id_of, BATCH)
        self._renew = renew
        self._clock = clock
        self._name = name
        self._executions: dict[Execution, None] = {}
        self._failures: dict[str, Heartbeat] = {}
        self._task: asyncio.Task[None] | None = None
        self._sleep: asyncio.Task[None] | None = None
        self._wake_at = 0.0
        self._is_closed = False
        self._beating: asyncio.Task[None] | None = None

    @property
    def executions(self) -> Iterable[Execution]:
        """Those that run or wait now."""
        return self._executions

    def add(self, execution: Execution) -> None:
        """Keep an execution alive from now on."""
        self._executions[execution] = None
        if self._is_closed:
            return  # The engine is about to refuse it.
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="flowstate keeper")
        else:
            self.look_again(execution)

    def look_again(self, execution: Execution) -> None:
        """Look at an execution that has changed, if nothing else is due before."""
        if execution.fresh_until < self._wake_at:
            self._wake()

    def remove(self, execution: Execution) -> None:
        """Keep it no longer."""
        self._executions.pop(execution, None)
        execution.leave()  # Else the two would wait for the garbage collector.

    async def confirm(self, execution: Execution, *, renewals: int = MOST_RENEWALS) -> bool:
        """Make sure that nobody takes over what is about to be executed.

        Returns whether the state is still what it was. Costs a read when the state was not
        committed by this process a moment ago, and a write when it was not committed by anybody a
        moment ago. One that has stalled, or is about to, gets a new revision, since a heartbeat
        could come between another engine's look at it and the commit by which that one takes it
        over.

        Raises:
            DriverError: the store failed.
            EngineStoppedError: the engine has closed meanwhile, so nobody would keep it alive.
        """
        is_ours = await self._is_confirmed(execution, renewals)
        if is_ours and self._is_closed:
            raise EngineStoppedError("the engine has stopped")
        return is_ours

    async def _is_confirmed(self, execution: Execution, renewals: int) -> bool:
        now = self._clock.monotonic()
        seconds, state = execution.seconds, execution.ctx.committed
        is_fresh = now < execution.fresh_until
        if is_fresh or seconds is None:  # The latter: it was let go before it began.
            return is_fresh
        liveness = await self._get_liveness(state.id)
        if liveness is None or liveness.rev != state.rev:
            return self._moved_on(execution)
        if self._is_fresh(execution, liveness, now):
            return True
        is_doubtful = execution.is_doubtful or _until_it_stalls(liveness) < seconds * SAFE
        if liveness.delay_due is not None or not is_doubtful:
            if not await self._beat_for(self._heartbeat(execution, now)):
                return self._moved_on(execution)
            in_time = self._clock.monotonic() - now < seconds * SAFE
            if in_time or liveness.delay_due is not None or liveness.stalls_at is None:
                execution.heard(now)
                self._wake()
                return True
        return await self._renewed(execution, renewals)

    def _is_fresh(self, execution: Execution, liveness: Liveness, asked_at: float) -> bool:
        """Return whether somebody has committed it, or sent a heartbeat, a moment ago."""
        seconds, left = execution.seconds, _until_it_stalls(liveness)
        is_known = liveness.delay_due is None and liveness.stalls_at is not None
        # A heartbeat that is on its way is no reason for doubt before it has come.
        is_doubtful = execution.is_doubtful and liveness.beat_at is not None
        if seconds is None or is_doubtful or not is_known:
            return False
        # At the earliest: the store told what is left after it was asked.
        execution.heard(asked_at - max(0.0, seconds - left))
        if self._clock.monotonic() >= execution.fresh_until:
            return False
        self._wake()
        return True

    async def _get_liveness(self, id: str) -> Liveness | None:
        if self._driver.batch_limit == 1:
            return await self._driver.get_liveness(id)
        return await self._livenesses.ask(id)

    async def _beat_for(self, heartbeat: Heartbeat) -> bool:
        """Send a heartbeat; return whether its revision is the latest."""
        if self._driver.batch_limit > 1:
            return await self._beats.ask(heartbeat)
        (is_latest,) = await self._driver.beat([heartbeat])
        return is_latest

    async def _renewed(self, execution: Execution, renewals: int) -> bool:
        """Give a state a new revision, the same otherwise; return whether nobody was faster."""
        ctx, now = execution.ctx, self._clock.monotonic()
        if not renewals:
            extra = {"state_id": ctx.committed.id, "rev": ctx.committed.rev}
            message = "%r stalls sooner than the store replies, and is left to recovery"
            logger.warning(message, ctx.committed.id, extra=extra)
            return self._moved_on(execution)
        stored = await self._driver.get_state(ctx.committed.id, ctx.committed.rev)
        try:
            renewed = None if stored is None else await self._renew(stored)
        except RevisionMismatchError:
            renewed = None
        if renewed is None:
            return self._moved_on(execution)
        changed = ctx.current is not ctx.committed
        at = renewed.committed_at
        ctx.current = replace(ctx.current, rev=renewed.rev, committed_at=at) if changed else renewed
        ctx.committed, ctx._sent_at = renewed, now
        execution.is_doubtful = False
        execution.follow(ctx, now)
        if execution.is_late(self._clock.monotonic()):
            # The reply was so late that others may have it.
            return await self.confirm(execution, renewals=renewals - 1)
        self._wake()
        return True

    def _moved_on(self, execution: Execution) -> bool:
        execution.let_go()
        return False

    def note_failure(self, execution: Execution, error: BaseException) -> None:
        """Let others know why an execution failed, if the store will have it."""
        state = execution.ctx.committed
        if execution.seconds is None or len(self._failures) >= MOST_FAILURES:
            return
        note = Note.of_failure(self._name, error).encode()
        self._failures[state.id] = Heartbeat(state.id, state.rev, None, note)
        self._wake()

    async def close(self) -> None:
        """Stop, once what failed is noted; and with it what still runs, since others may now."""
        for execution in list(self._executions):
            if execution.task is not asyncio.current_task():
                self._lose(execution)
        self._is_closed = True
        if self._failures and self._beating is None:
            self._start_beating([])
        if self._beating is not None:
            await asyncio.wait([self._beating], timeout=CLOSING_SECONDS)
        tasks = {task for task in (self._task, self._sleep, self._beating) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        stopped = EngineStoppedError("the engine has stopped")
        await self._livenesses.close(stopped)
        await self._beats.close(stopped)

    def _wake(self) -> None:
        self._wake_at = 0.0
        if self._sleep is not None:
            self._sleep.cancel()

    async def _run(self) -> None:
        while self._executions or self._failures:
            now = self._clock.monotonic()
            self._wake_at = self._look(now)
            pause = min(max(self._wake_at - now, SHORTEST_PAUSE), LONGEST_PAUSE)
            self._sleep = asyncio.ensure_future(self._clock.sleep(pause, background=True))
            await asyncio.wait([self._sleep])
        self._task = None

    def _look(self, now: float) -> float:
        """Stop what is lost, begin to send heartbeats, and return when to look again."""
        for execution in list(self._executions):
            execution.follow(execution.ctx, now)
            if now >= execution.stop_at:
                self._lose(execution)
        alive = [execution for execution in self._executions if execution.may_beat(now)]
        due = [execution for execution in alive if now >= execution.beat_at]
        for execution in due:
            execution.try_again_at = now + (execution.seconds or 0.0) * TRY_AGAIN_AFTER
        if (due or self._failures) and self._beating is None:
            self._start_beating(due)
        times = (min(each.beat_at, each.stop_at) for each in alive)
        return min(times, default=math.inf)

    def _lose(self, execution: Execution) -> None:
        execution.is_lost = execution.task is not None
        execution.let_go()
        if execution.task is not None:
            execution.task.cancel()

    def _start_beating(self, due: Sequence[Execution]) -> None:
        failures = list(self._failures.values())
        self._failures.clear()
        self._beating = asyncio.create_task(self._beat(due, failures), name="flowstate heartbeats")

    async def _beat(self, due: Sequence[Execution], failures: Sequence[Heartbeat]) -> None:
        now = self._clock.monotonic()
        try:
            newest: dict[str, Execution] = {}
            for execution in sorted(due, key=lambda each: each.ctx.committed.rev):
                newest[execution.ctx.committed.id] = execution
            known = list(newest.values())
            for start in range(0, len(known), BATCH):
                await self._beat_each(known[start : start + BATCH], now)
            noted = [each for each in failures if each.id not in newest]
            for start in range(0, len(noted), BATCH):
                await self._driver.beat(noted[start : start + BATCH])
        except Exception as error:  # noqa: BLE001 - whatever it is, the next ones must go out
            self._warn(error)
        finally:
            self._beating = None
            self._wake()

    async def _beat_each(self, executions: Sequence[Execution], now: float) -> None:
        """Beat for many at once; one that nobody may touch must not take the others with it."""
        try:
            await self._beat_some(executions, now)
        except StoreBusyError:
            if len(executions) == 1:
                raise
            each = (self._beat_some([execution], now) for execution in executions)
            for outcome in await asyncio.gather(*each, return_exceptions=True):
                if isinstance(outcome, FlowstateError):
                    self._warn(outcome)
                elif isinstance(outcome, BaseException):
                    raise outcome from None

    def _warn(self, error: Exception) -> None:
        logger.warning("cannot send heartbeats: %s", error, extra={"engine": self._name})

    async def _beat_some(self, executions: Sequence[Execution], now: float) -> None:
        contexts = [(each, each.ctx.committed) for each in executions]
        heartbeats = [self._heartbeat(each, now) for each in executions]
        for execution in executions:
            execution.is_doubtful = True
        answers = await self._driver.beat(heartbeats)
        replied_at = self._clock.monotonic()
        for (execution, state), is_latest in zip(contexts, answers, strict=True):
            if execution.ctx.committed is not state:
                continue  # It has moved on by itself meanwhile.
            if is_latest and execution.may_beat(replied_at):
                execution.is_doubtful = False
                execution.heard(now)
            elif not is_latest:
                execution.let_go()  # Somebody else has moved it on; it will lose its race.

    def _heartbeat(self, execution: Execution, now: float) -> Heartbeat:
        state = execution.ctx.committed
        note = Note(self._name, round(now - execution.began, 3)).encode()
        return Heartbeat(state.id, state.rev, execution.seconds, note)


def _id_of(heartbeat: Heartbeat) -> str:
    return heartbeat.id


def _until_it_stalls(liveness: Liveness) -> float:
    """Return the seconds; the store's clock tells both times."""
    if liveness.stalls_at is None:
        return math.inf
    return (liveness.stalls_at - liveness.now).total_seconds()
