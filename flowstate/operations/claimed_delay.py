"""A delay that is claimed instead of committed, while its flow runs."""

import asyncio
import contextlib
import logging
from typing import Any

import attrs

from flowstate.context import StateContext
from flowstate.driver import Claim, DelayedState, Drop
from flowstate.engine import Engine
from flowstate.errors import (
    ClaimLostError,
    CommitUnknownError,
    DriverError,
    EngineStoppedError,
    FlowstateError,
)
from flowstate.executions.tenure import Tenure
from flowstate.ground.tasks import cancel_and_wait, spawn

__all__ = ["ClaimedDelay", "log_delay"]

logger = logging.getLogger("flowstate.delayer")


# state  means                                           left by
# held   its flow runs, and no other process fires it    flow over → done; tenure over, or claim
#                                                        refused → lost; claim refused, because
#                                                        the state has moved on → free
# free   the flow has moved the state on, and the delay  flow over → done
#        went with that; heartbeats keep the state
# lost   others may fire it: its flow is cancelled       flow over → done, without a drop
# done   dropped, handed over by a stop or after a lost race, or it fires again after the lease
@attrs.define(eq=False)
class ClaimedDelay:
    """A delay that is claimed instead of committed, while its flow runs.

    The claim ends by the clock of the store. Here it is measured from before the store was asked,
    so it ends here first.
    """

    _engine: Engine
    _delay: DelayedState
    _ctx: StateContext
    _holder: str
    _tenure: Tenure

    async def execute(self) -> None:
        """Execute the delayed state and drop the delay; cancel that when the claim is lost."""
        executing = spawn(self._execute(), f"flowstate {self._delay.id}")
        renewing = spawn(self._renew(), f"flowstate renewal {self._delay.id}")
        ending = spawn(self._end(), f"flowstate tenure {self._delay.id}")
        tasks: list[asyncio.Task[Any]] = [executing, renewing, ending]
        try:
            await asyncio.wait(tasks, return_when="FIRST_COMPLETED")
            # A renewal that is on its way is not waited for: its reply may never come.
            is_lost = ending.done() or (renewing.done() and not renewing.result())
            if is_lost and not executing.done():
                what = "delay %s is cancelled and fires again: claim lost"
                log_delay(self._delay, logging.ERROR, what)
                executing.cancel()
            await asyncio.wait([executing])
        finally:
            await cancel_and_wait(*tasks)

    async def _execute(self) -> None:
        try:
            if await self._engine.execute_delay(self._ctx):
                await self._drop()
            else:
                await self._fire_again()
        except asyncio.CancelledError:
            await self._hand_over()
            raise
        except EngineStoppedError:
            log_delay(self._delay, logging.INFO, "delay %s fires again elsewhere")
            await self._hand_over()
        except Exception as error:  # noqa: BLE001 - of the flow, or of the store
            log_delay(self._delay, logging.ERROR, "delay %s fires again after its lease", error)

    async def _hand_over(self) -> None:
        """Let others fire it at once, instead of after the lease (best effort)."""
        with contextlib.suppress(FlowstateError):
            flow = self._engine.flows.runnable(self._ctx.current.transition.to)
            if not flow.blocking:  # Else it goes on in its thread.
                await self._release()

    async def _fire_again(self) -> None:
        """Let it fire again after a lost race, if it is still there (best effort).

        The flow may lose the next race as well, if it is one against itself: so not at once.
        """
        log_delay(self._delay, logging.INFO, "delay %s fires again, if it is left: race lost")
        await self._sleep_until(self._tenure.retry_at(self._now()))
        with contextlib.suppress(FlowstateError):
            await self._release()

    async def _release(self) -> None:
        await self._engine.claim(Claim(self._delay.id, self._holder, 0.0))

    async def _drop(self) -> None:
        while True:
            try:
                return await self._engine.drop(Drop(self._delay.id, self._holder))
            except (CommitUnknownError, DriverError) as error:
                log_delay(
                    self._delay, logging.WARNING, "cannot drop delay %s, and tries again", error
                )
            await self._sleep_until(self._tenure.retry_at(self._now()))

    async def _end(self) -> None:
        while self._now() < self._tenure.valid_until:
            await self._sleep_until(self._tenure.valid_until)

    async def _renew(self) -> bool:
        """Renew the claim until it is refused; return whether the flow needs none any more."""
        at = self._tenure.renew_at
        while True:
            await self._sleep_until(at)
            sent_at = self._now()
            try:
                if not await self._renew_once():
                    state = await self._engine.driver.get_state(self._delay.state.id)
                    return (state.rev if state else 0) != self._delay.state.rev
            except Exception as error:  # noqa: BLE001 - the next attempt finds out
                log_delay(self._delay, logging.WARNING, "cannot renew the claim of delay %s", error)
                at = self._tenure.retry_at(self._now())
            else:
                self._tenure = self._tenure.renewed(sent_at)
                at = self._tenure.renew_at

    async def _renew_once(self) -> bool:
        try:
            await self._engine.claim(Claim(self._delay.id, self._holder, self._tenure.seconds))
        except ClaimLostError:
            return False
        return True

    async def _sleep_until(self, at: float) -> None:
        await self._engine.clock.sleep(at - self._now(), background=True)

    def _now(self) -> float:
        return self._engine.clock.monotonic()


def log_delay(
    delay: DelayedState, level: int, message: str, error: BaseException | None = None
) -> None:
    """Log what became of a delay, whose id the message takes."""
    extra = {"state_id": delay.state.id, "delay_id": delay.id, "flow": delay.to}
    logger.log(level, message, delay.id, extra=extra, exc_info=error)
