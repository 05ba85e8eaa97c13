"""Turns delays that are due into commits and executions."""

import asyncio
import logging
import random
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from flowstate.commands import Execute
from flowstate.driver import DamagedDelay, DelayedState, DelayQuery
from flowstate.engine import Engine
from flowstate.errors import DriverError, EngineStoppedError, RevisionMismatchError

__all__ = ["Delayer"]

logger = logging.getLogger("flowstate.delayer")


class Delayer:
    """Fires the delays of a store. Any number of them may run, in any number of processes.

    A delay fires by a commit at the revision that it belongs to, so one of them wins, and a
    state that has moved on is left alone. Then the engine executes the state. A delay made with
    ``commit=False`` is claimed for ``lease`` seconds while its flow runs, and fires again if the
    process dies meanwhile.

    Args:
        engine: executes what fires. Delays to flows that its registry does not have are left
            to an engine that has them.
        poll_interval: seconds until a delay that could not be fired, or not even be read, is
            tried again. Delays that become due are fired at their time, and new ones are noticed
            by the driver's hints.
        batch: how many delays are fired at the same time.
        lease: seconds.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        poll_interval: float = 1.0,
        batch: int = 100,
        lease: float = 60.0,
    ) -> None:
        self._engine = engine
        self._driver = engine.driver
        self._poll_interval = poll_interval
        self._batch = batch
        self._lease = lease
        self._task: asyncio.Task[None] | None = None
        self._holding: set[asyncio.Task[None]] = set()
        self._unknown: set[str] = set()
        self._damaged: set[str] = set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="flowstate delayer")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks = {*self._holding, *([self._task] if self._task else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self) -> None:
        """Look, fire, wait; a failing store is asked again later and later."""
        failures = 0
        while True:
            try:
                seen = await self._driver.wait_delay(-1)
                pause = await self._fire_due()
            except EngineStoppedError:
                return
            except Exception:
                logger.exception("cannot fire delays")
                failures = min(failures + 1, 10)
                ceiling = min(30.0, self._poll_interval * 2**failures)
                jittered = random.uniform(ceiling / 2, ceiling)  # noqa: S311 - no secret
                await self._engine.clock.sleep(jittered)
            else:
                failures = 0
                await self._wait(pause, seen)

    async def _wait(self, pause: float | None, seen: int) -> None:
        """Wait ``pause`` seconds, or until this process writes a delay."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._driver.wait_delay(seen))]
        if pause is not None:
            waits.append(asyncio.ensure_future(self._engine.clock.sleep(pause)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _fire_due(self) -> float | None:
        """Fire all that is due, page by page; return the seconds until there is more to do."""
        query = DelayQuery(limit=self._batch)
        left = claimed = False
        damaged: set[str] = set()
        while True:
            found = await self._driver.get_delayed(query)
            self._report(found.damaged)
            damaged.update(delay.id for delay in found.damaged)
            left |= any(delay.due is not None for delay in found.damaged)
            left |= await self._fire(found.delayed)
            claimed |= not all(delay.commit for delay in found.delayed)
            if not found.more:
                break
            query = replace(query, after=found.end)
        self._damaged &= damaged  # What is repaired or gone must not be remembered for ever.
        pauses = [self._poll_interval] if left else []
        if claimed:
            pauses.append(self._lease)
        if found.next_due is not None:
            pauses.append(max(0.0, (found.next_due - found.now).total_seconds()))
        return min(pauses, default=None)

    def _report(self, damaged: Sequence[DamagedDelay]) -> None:
        """Log each damaged delay once, although every round meets it again."""
        for delay in damaged:
            if delay.id not in self._damaged:
                self._damaged.add(delay.id)
                extra = {"state_id": delay.state_id, "delay_id": delay.id}
                logger.error("cannot read delay %s: %s", delay.id, delay.error, extra=extra)

    async def _fire(self, delayed: Sequence[DelayedState]) -> bool:
        """Fire a page of delays at the same time; return whether one of them has to wait."""
        outcomes = await asyncio.gather(
            *(self._fire_one(delay) for delay in delayed), return_exceptions=True
        )
        for delay, outcome in zip(delayed, outcomes, strict=True):
            if isinstance(outcome, EngineStoppedError | asyncio.CancelledError):
                raise outcome
            if isinstance(outcome, BaseException):
                extra = {"state_id": delay.state.id, "delay_id": delay.id, "flow": delay.to}
                logger.error("cannot fire delay %s", delay.id, exc_info=outcome, extra=extra)
        return not all(outcome is True for outcome in outcomes)

    async def _fire_one(self, delay: DelayedState) -> bool:
        """Fire one delay; return whether that is settled."""
        if not self._knows(delay):
            return False
        if not delay.commit:
            return await self._claim(delay)
        try:
            ctx = await self._engine.commit_delay(delay)
        except RevisionMismatchError:
            return True  # Somebody else fired it, or moved the state on.
        await self._engine.do(Execute(ctx))
        return True

    def _knows(self, delay: DelayedState) -> bool:
        if self._engine.can_execute(delay.to):
            return True
        if delay.to not in self._unknown:
            self._unknown.add(delay.to)
            logger.warning("delays to flow %r are left to an engine that has it", delay.to)
        return False

    async def _claim(self, delay: DelayedState) -> bool:
        if len(self._holding) >= self._batch:
            return False
        until = await self._driver.claim_delay(delay.id, delay.due, self._lease)
        if until is not None:
            task = asyncio.create_task(self._hold(delay, until), name=f"flowstate {delay.id}")
            self._holding.add(task)
            task.add_done_callback(self._holding.discard)
        return True

    async def _hold(self, delay: DelayedState, until: datetime) -> None:
        """Execute a claimed delay, and keep the claim while that lasts."""
        extra = {"state_id": delay.state.id, "delay_id": delay.id, "flow": delay.to}
        renewing = asyncio.create_task(self._renew(delay, until))
        try:
            await self._engine.execute(self._engine.draft_delay(delay))
            await self._driver.drop_delay(delay.id)
        except EngineStoppedError:
            logger.info("delay %s fires again elsewhere", delay.id, extra=extra)
        except Exception:
            logger.exception("delay %s fires again after its lease", delay.id, extra=extra)
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)

    async def _renew(self, delay: DelayedState, until: datetime | None) -> None:
        while until is not None:
            await self._engine.clock.sleep(self._lease / 3)
            try:
                until = await self._driver.claim_delay(delay.id, until, self._lease)
            except DriverError as error:
                extra = {"state_id": delay.state.id, "delay_id": delay.id}
                logger.warning("cannot renew the lease of a delay: %s", error, extra=extra)
