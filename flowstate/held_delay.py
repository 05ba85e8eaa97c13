"""Executes a delay that was claimed instead of committed, and keeps the claim while that lasts."""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import Literal

from msgspec.structs import replace

from flowstate.backoff import Backoff
from flowstate.cancellation import all_cancelled
from flowstate.driver import DelayedState, DelayQuery
from flowstate.engine import Engine
from flowstate.errors import DriverError, EngineStoppedError

__all__ = ["HeldDelay"]

logger = logging.getLogger("flowstate.delayer")

# Parts of a lease.
RENEW_AFTER = 1 / 3
TRY_AGAIN_AFTER = 1 / 12
STOP_BEFORE_END = 1 / 10  # So that an execution that is cancelled is over before others begin.
PAGE = 1_000

Standing = Literal["held", "gone", "lost"]
"""Of a claim: it is ours, or the delay is gone and needs none, or others may take it over."""


class HeldDelay:
    """A delay that nobody else may fire before its lease ends.

    The lease ends by the clock of the store. Here it is measured by the monotonic clock from
    before the store was asked, so it ends here first.

    Args:
        engine: executes it.
        delay: as it was before it was claimed.
        lease: seconds.
        until: when the lease ends.
        began: when the store was asked, by the monotonic clock.
    """

    def __init__(
        self, engine: Engine, delay: DelayedState, lease: float, until: datetime, began: float
    ) -> None:
        self._engine = engine
        self._driver = engine.driver
        self._clock = engine.clock
        self._delay = delay
        self._lease = lease
        self._until = until
        self._ends = began + lease
        self._extra = {"state_id": delay.state.id, "delay_id": delay.id, "flow": delay.to}

    async def execute(self) -> None:
        """Execute the delayed state and drop the delay; cancel that when the lease is lost."""
        executing = asyncio.create_task(self._execute(), name=f"flowstate {self._delay.id}")
        renewing = asyncio.create_task(self._renew(), name=f"flowstate renewal {self._delay.id}")
        ending = asyncio.create_task(self._end(), name=f"flowstate lease {self._delay.id}")
        tasks = [executing, renewing, ending]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # A renewal that is on its way is not waited for: its reply may never come.
            lost = ending.done() or (renewing.done() and renewing.result() == "lost")
            if lost and not executing.done():
                message = "delay %s is cancelled, since its lease is lost, and fires again"
                logger.error(message, self._delay.id, extra=self._extra)
                executing.cancel()
            await asyncio.wait([executing])
        finally:
            await all_cancelled(*tasks)

    async def _execute(self) -> None:
        try:
            await self._engine.execute(self._engine.draft_delay(self._delay))
            await self._drop()
        except EngineStoppedError:
            logger.info("delay %s fires again elsewhere", self._delay.id, extra=self._extra)
        except Exception:
            message = "delay %s fires again after its lease"
            logger.exception(message, self._delay.id, extra=self._extra)

    async def _drop(self) -> None:
        backoff = Backoff(self._clock, self._lease)
        while True:
            try:
                await self._driver.drop_delay(self._delay.id)
            except DriverError:
                if not await backoff.pause():
                    raise
            else:
                return

    async def _end(self) -> None:
        """Return shortly before the lease ends."""
        margin = STOP_BEFORE_END * self._lease
        while (left := self._ends - margin - self._clock.monotonic()) > 0:
            await self._clock.sleep(left, background=True)

    async def _renew(self) -> Standing:
        """Renew the lease again and again; return when that has come to an end."""
        pause = RENEW_AFTER
        while True:
            await self._clock.sleep(pause * self._lease, background=True)
            try:
                standing = await self._renew_once()
            except Exception as error:
                # The lease may have been renewed all the same; the next attempt finds that out.
                message = "cannot renew the lease of delay %s: %s"
                logger.warning(message, self._delay.id, error, extra=self._extra, exc_info=True)
                pause = TRY_AGAIN_AFTER
                continue
            if standing != "held":
                return standing
            pause = RENEW_AFTER

    async def _renew_once(self) -> Standing:
        began = self._clock.monotonic()
        until = await self._driver.claim_delay(self._delay.id, self._until, self._lease)
        if until is None:
            return await self._find()
        self._until, self._ends = until, began + self._lease
        return "held"

    async def _find(self) -> Standing:
        """Find out why the delay is not due when it was.

        Nobody else can have claimed it before the lease ended. So if that is still to come, what
        has moved the delay was a renewal of ours, whose reply was lost.
        """
        state = await self._driver.get_state(self._delay.state.id)
        if (state.rev if state else 0) != self._delay.state.rev:
            return "gone"
        upto = self._until + timedelta(seconds=self._lease)
        query = DelayQuery(until=upto, after=(self._until, self._delay.id), limit=PAGE)
        while True:
            began = self._clock.monotonic()
            page = await self._driver.get_delayed(query)
            if page.now >= self._until:
                return "lost"
            for delay in page.delayed:
                if delay.id == self._delay.id:
                    self._until = delay.due
                    self._ends = began + (delay.due - page.now).total_seconds()
                    return "held"
            if not page.more:
                return "gone"
            query = replace(query, after=page.end)
