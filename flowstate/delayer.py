"""Turns delays that are due into commits and executions."""

import asyncio
import logging
from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

from msgspec.structs import replace

from flowstate.cancellation import all_cancelled
from flowstate.commands import Execute
from flowstate.driver import DamagedDelay, DelayedState, DelayQuery
from flowstate.engine import Engine
from flowstate.errors import EngineStoppedError, RevisionMismatchError
from flowstate.held_delay import HeldDelay
from flowstate.shares import Shares

__all__ = ["Delayer"]

logger = logging.getLogger("flowstate.delayer")

BATCHES_OF_A_WINDOW = 10
MOST_LOST = 1 / 4  # Of a batch; beyond that it is better to see what others have left.
MOST_REMEMBERED = 10_000
CLOSING_SECONDS = 5.0  # Real ones: leaving must end.

Outcome = Literal["settled", "lost", "left"]
"""Of an attempt to fire a delay: done, or others were faster, or it has to be tried again."""


class Round:
    """What a look at everything that is due has come to so far.

    Attributes:
        tried: ids of delays of the window that were tried.
        damaged: ids of delays that cannot be read.
        pauses: seconds until there is something to do again.
    """

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self.damaged: set[str] = set()
        self.pauses: set[float] = set()


class Delayer:
    """Fires the delays of a store. Any number of them may run, in any number of processes.

    A delay fires by a commit at the revision that it belongs to, so one of them wins, and a
    state that has moved on is left alone. Then the engine executes the state. A delay made with
    ``commit=False`` is claimed for ``lease`` seconds while its flow runs, and fires again if the
    process dies meanwhile. The claim is renewed in time; when that fails until the lease is
    nearly over, the execution is cancelled.

    When many delays are due at once, delayers divide them: each reads a window of the earliest,
    fires it in an order of its own, batch by batch, and looks anew when others were too often
    faster.

    Args:
        engine: executes what fires. Delays to flows that its registry does not have are left
            to an engine that has them.
        poll_interval: seconds until a delay that could not be fired, or not even be read, is
            tried again. Delays that become due are fired at their time, and new ones are noticed
            by the driver's hints.
        batch: how many delays are fired at the same time; ten times as many are read at once.
        lease: seconds.
        rng: where chance comes from; by default it differs from delayer to delayer.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        poll_interval: float = 1.0,
        batch: int = 100,
        lease: float = 60.0,
        rng: Random | None = None,
    ) -> None:
        self._engine = engine
        self._driver = engine.driver
        self._poll_interval = poll_interval
        self._batch = batch
        self._lease = lease
        self._rng = rng or Random()  # noqa: S311 - no secret
        self._shares = Shares(self._rng)
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
                failures = 0
                await self._wait(pause, seen)
            except EngineStoppedError:
                return
            except Exception:
                logger.exception("cannot fire delays")
                failures = min(failures + 1, 10)
                ceiling = min(30.0, self._poll_interval * 2**failures)
                await self._engine.clock.sleep(self._rng.uniform(ceiling / 2, ceiling))

    async def _wait(self, pause: float | None, seen: int) -> None:
        """Wait ``pause`` seconds, or until this process writes a delay."""
        waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._driver.wait_delay(seen))]
        if pause is not None:
            waits.append(asyncio.ensure_future(self._engine.clock.sleep(pause)))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()
        finally:
            await all_cancelled(*waits)

    async def _fire_due(self) -> float | None:
        """Fire all that is due, window by window; return the seconds until there is more to do."""
        query = DelayQuery(limit=BATCHES_OF_A_WINDOW * self._batch)
        round_ = Round()
        while True:
            window = await self._driver.get_delayed(query)
            self._report(window.damaged, round_)
            if not await self._fire_window(window.delayed, round_):
                continue
            if not window.more:
                break
            query = replace(query, after=window.end)
        self._damaged &= round_.damaged  # What is repaired or gone must not be remembered for ever.
        if window.next_due is not None:
            round_.pauses.add(max(0.0, (window.next_due - window.now).total_seconds()))
        return min(round_.pauses, default=None)

    def _report(self, damaged: Sequence[DamagedDelay], round_: Round) -> None:
        """Log each damaged delay once, although every round meets it again."""
        for delay in damaged:
            if delay.due is not None:
                round_.pauses.add(self._poll_interval)
            if delay.id not in self._damaged and len(self._damaged) < MOST_REMEMBERED:
                self._damaged.add(delay.id)
                extra = {"state_id": delay.state_id, "delay_id": delay.id}
                logger.error("cannot read delay %s: %s", delay.id, delay.error, extra=extra)
            if delay.id in self._damaged:
                round_.damaged.add(delay.id)

    async def _fire_window(self, delays: Sequence[DelayedState], round_: Round) -> bool:
        """Fire what was not tried, batch by batch; return False to have it read anew instead."""
        known = [delay for delay in delays if self._knows(delay)]
        if len(known) < len(delays):
            round_.pauses.add(self._poll_interval)
        round_.tried.intersection_update([delay.id for delay in delays])
        todo = self._shares.arrange(delay for delay in known if delay.id not in round_.tried)
        for start in range(0, len(todo), self._batch):
            batch = sorted(todo[start : start + self._batch], key=lambda delay: delay.due)
            outcomes = await self._fire(batch)
            round_.tried.update(delay.id for delay in batch)
            if "left" in outcomes:
                round_.pauses.add(self._poll_interval)
            if not all(delay.commit for delay in batch):
                round_.pauses.add(self._lease)
            lost = [d for d, outcome in zip(batch, outcomes, strict=True) if outcome == "lost"]
            self._shares.learn(batch, lost)
            if len(lost) > MOST_LOST * len(batch) and start + self._batch < len(todo):
                return False
        return True

    async def _fire(self, delays: Sequence[DelayedState]) -> list[Outcome]:
        """Fire delays at the same time."""
        results = await asyncio.gather(*map(self._fire_one, delays), return_exceptions=True)
        outcomes: list[Outcome] = []
        for delay, result in zip(delays, results, strict=True):
            if isinstance(result, EngineStoppedError | asyncio.CancelledError):
                raise result
            if isinstance(result, BaseException):
                extra = {"state_id": delay.state.id, "delay_id": delay.id, "flow": delay.to}
                logger.error("cannot fire delay %s", delay.id, exc_info=result, extra=extra)
                outcomes.append("left")
            else:
                outcomes.append(result)
        return outcomes

    async def _fire_one(self, delay: DelayedState) -> Outcome:
        if not delay.commit:
            return await self._claim(delay)
        firing = asyncio.ensure_future(self._commit(delay))
        try:
            return await asyncio.shield(firing)
        except asyncio.CancelledError:
            # Whoever leaves in between has fired a delay, and nobody would execute it.
            await asyncio.wait([firing], timeout=CLOSING_SECONDS)
            await all_cancelled(firing)
            raise

    async def _commit(self, delay: DelayedState) -> Outcome:
        try:
            ctx = await self._engine.commit_delay(delay)
        except RevisionMismatchError:
            return "lost"  # Or the state has moved on.
        await self._engine.do(Execute(ctx))
        return "settled"

    def _knows(self, delay: DelayedState) -> bool:
        if self._engine.can_execute(delay.to):
            return True
        if delay.to not in self._unknown:
            self._unknown.add(delay.to)
            logger.warning("delays to flow %r are left to an engine that has it", delay.to)
        return False

    async def _claim(self, delay: DelayedState) -> Outcome:
        if len(self._holding) >= self._batch:
            return "left"
        began = self._engine.clock.monotonic()
        until = await self._driver.claim_delay(delay.id, delay.due, self._lease)
        if until is None:
            return "lost"
        held = HeldDelay(self._engine, delay, self._lease, until, began)
        task = asyncio.create_task(held.execute(), name=f"flowstate held {delay.id}")
        self._holding.add(task)
        task.add_done_callback(self._holding.discard)
        return "settled"
