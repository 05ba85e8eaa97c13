"""Turns delays and timers that are due into commits and executions."""

import asyncio
import logging
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random
from typing import Literal, Self
from zlib import crc32

import attrs
from msgspec.structs import replace

from flowstate.clock import longest_sleep
from flowstate.commands import Execute
from flowstate.driver import Claim, DelayedState, Drop, DuePage, DueQuery, Seen
from flowstate.engine import Engine
from flowstate.errors import (
    ClaimLostError,
    EngineStoppedError,
    RevisionMismatchError,
)
from flowstate.executions.tenure import Tenure
from flowstate.ground.options import count, has, optional, seconds
from flowstate.ground.tasks import cancel_and_wait, first, shielded, spawn
from flowstate.operations.claimed_delay import ClaimedDelay, log_delay
from flowstate.timers import timer_to_fire

__all__ = ["Delayer", "OTHERS_EVERY", "has_delayer", "is_new"]

logger = logging.getLogger("flowstate.delayer")

WINDOW = 10  # Batches.
MOST_LOST = 1 / 4  # Of a batch; beyond that it is better to see what others have left.
MOST_RACES = 16  # That a timer loses in a row, before it is tried again later.
REMEMBERED = 10_000
OTHERS_EVERY = 60.0
SHARES = 64
CLOSING_SECONDS = 5.0  # Real ones: leaving must end.

Outcome = Literal["settled", "lost", "left"]
"""Of an attempt to fire a delay: done, or others were faster, or it has to be tried again."""

_running: "weakref.WeakSet[Delayer]" = weakref.WeakSet()


def has_delayer(engine: Engine) -> bool:
    """Return whether a delayer fires delays in this engine."""
    return any(delayer._engine is engine for delayer in _running)


def is_new(seen: dict[str, None], key: str) -> bool:
    """Return whether a key is met for the first time, as far as the newest 10,000 are known."""
    if key in seen:
        return False
    seen[key] = None
    if len(seen) > REMEMBERED:
        del seen[next(iter(seen))]
    return True


@attrs.define(eq=False)
class Sweep:
    """What a look at everything that is due has come to so far.

    Attributes:
        tried: ids of delays of the window that were tried.
        pauses: seconds until there is something to do again.
    """

    tried: set[str] = attrs.field(factory=set)
    pauses: set[float] = attrs.field(factory=set)


class FiringOrder:
    """In which order one delayer fires what is due at the same time.

    Every state belongs to one of 64 shares, the same for every delayer. Each delayer begins with
    other shares, and puts those at the end in which others were faster. So each soon has shares
    to itself, and helps with those of the others when nothing is left in its own.
    """

    def __init__(self, rng: Random) -> None:
        self._order = rng.sample(range(SHARES), SHARES)

    def arrange(self, delays: Iterable[DelayedState]) -> list[DelayedState]:
        """Return delays in the order to fire them in; those of one state stay in theirs."""
        places = {share: place for place, share in enumerate(self._order)}
        return sorted(delays, key=lambda delay: places[_share_of(delay)])

    def learn(self, delays: Sequence[DelayedState], lost: Sequence[DelayedState]) -> None:
        """Put the shares at the end of which more was lost to others than not."""
        counts = Counter(map(_share_of, delays))
        losses = Counter(map(_share_of, lost))
        self._order.sort(key=lambda share: 2 * losses[share] > counts[share])


def _share_of(delay: DelayedState) -> int:
    return crc32(delay.state.id.encode(errors="replace")) % SHARES


@attrs.define(eq=False)
class Delayer:
    """Fires the delays and timers of a store. Any number of them may run, in any processes.

    A delay fires by a commit at the revision that it belongs to, so one of them wins, and a
    state that has moved on is left alone. Then the engine executes the state. A delay made with
    ``commit=False`` is claimed for ``lease`` seconds while its flow runs, and fires again if the
    process dies meanwhile. The claim is renewed in time; when that fails until the lease is
    nearly over, the execution is cancelled.

    A timer fires by a commit at the latest revision. When other commits of the state are faster,
    it is tried again at once at their revision, unless that has no such timer any more.

    When many delays are due at once, delayers divide them: each reads a window of the earliest,
    fires it in an order of its own, batch by batch, and reads again when others were too often
    faster. Delays to flows that the registry does not have are left to an engine that has them,
    and cost nothing.

    Args:
        engine: executes what fires.
        poll_interval: seconds until a delay that could not be fired, or not even be read, is
            tried again. Delays that become due are fired at their time, and the driver tells of
            new ones.
        batch: how many delays are fired at the same time; ten times as many are read at once.
        lease: seconds for which a delay with ``commit=False`` is claimed.
        rng: where chance comes from; by default it differs from delayer to delayer.

    Raises:
        InvalidInputError: a bad option; names it.
    """

    _engine: Engine = attrs.field(validator=has("an Engine", "driver", "clock", "flows"))
    _poll_interval: float = attrs.field(default=1.0, kw_only=True, validator=seconds(0.001))
    _batch: int = attrs.field(default=100, kw_only=True, validator=count(1, 10_000))
    _lease: float = attrs.field(default=60.0, kw_only=True, validator=seconds(0.05))
    _rng: Random | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a random.Random", "sample", "uniform"))
    )
    _chance: Random = attrs.field(init=False)
    _order: FiringOrder = attrs.field(init=False)
    _holder: str = attrs.field(init=False)
    _began: float = attrs.field(init=False, default=0.0)
    _others_at: float = attrs.field(init=False, default=0.0)
    _task: asyncio.Task[None] | None = attrs.field(init=False, default=None)
    _claimed: dict[str, asyncio.Task[None]] = attrs.field(init=False, factory=dict)
    _reported: dict[str, None] = attrs.field(init=False, factory=dict)
    _lost: dict[str, None] = attrs.field(init=False, factory=dict)

    async def __aenter__(self) -> Self:
        self._engine.check_open()
        # Drawn here: processes that were forked after this object was made must differ.
        self._chance = self._rng or Random()  # noqa: S311 - no secret
        self._order = FiringOrder(self._chance)
        self._holder = f"{self._engine.name}.{self._chance.getrandbits(64):016x}"
        self._began = self._others_at = self._engine.clock.monotonic()
        self._task = spawn(self._run(), "flowstate delayer")
        _running.add(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        _running.discard(self)
        tasks = [*self._claimed.values(), *([self._task] if self._task else [])]
        await cancel_and_wait(*tasks, seconds=CLOSING_SECONDS)

    async def _run(self) -> None:
        """Look, fire, wait; a failing store is asked again later and later."""
        failures, seen = 0, Seen()
        while True:
            try:
                if seen == Seen():
                    seen = await self._engine.driver.changed(seen)
                pause = await self._sweep()
                failures = 0
                seen = await self._wait(pause, seen)
            except EngineStoppedError:
                return
            except Exception:
                logger.exception("cannot fire delays")
                failures = min(failures + 1, 10)
                ceiling = min(30.0, self._poll_interval * 2**failures)
                await self._engine.clock.sleep(self._chance.uniform(ceiling / 2, ceiling))

    async def _wait(self, pause: float | None, seen: Seen) -> Seen:
        """Wait ``pause`` seconds, or until a delay is written; return what the store has."""
        clock = self._engine.clock
        # A flow may be registered meanwhile; and the store's time is no timer of this process.
        longest = min(longest_sleep(clock), max(OTHERS_EVERY, clock.monotonic() - self._began))
        left = longest if pause is None else min(pause, longest)
        sleep = clock.sleep(left, background=pause is None)
        return await first(self._new_delays(seen), sleep) or seen

    async def _new_delays(self, seen: Seen) -> Seen:
        due = seen.due
        while seen.due == due:
            seen = await self._engine.driver.changed(seen)
        return seen

    async def _sweep(self) -> float | None:
        """Fire all that is due, window by window; return the seconds until there is more to do."""
        flows = tuple(filter(self._engine.can_execute, self._engine.flows))
        now = self._engine.clock.monotonic()
        others = now >= self._others_at
        if others:
            self._others_at = now + OTHERS_EVERY
        query = DueQuery("delay", flows=flows, limit=WINDOW * self._batch, others=others)
        sweep = Sweep()
        while True:
            window = await self._engine.driver.get_due(query)
            self._report(window, sweep)
            query = replace(query, others=False)
            if not await self._fire_window(window.due, sweep):
                continue
            if not window.more:
                break
            query = replace(query, after=window.end)
        if window.next_at is not None:
            sweep.pauses.add(max(0.0, (window.next_at - window.now).total_seconds()))
        return min(sweep.pauses, default=None)

    def _report(self, window: DuePage, sweep: Sweep) -> None:
        """Log each damaged delay and each unknown flow once, although they are met again."""
        for delay in window.damaged:
            if delay.due is not None:
                sweep.pauses.add(self._poll_interval)
            if is_new(self._reported, delay.id):
                extra = {"state_id": delay.state_id, "delay_id": delay.id}
                logger.error("cannot read delay %s: %s", delay.id, delay.error, extra=extra)
        for flow in window.others:
            if is_new(self._reported, f"to {flow}"):
                logger.warning("delays to flow %r are left to an engine that has it", flow)

    async def _fire_window(self, delays: Sequence[DelayedState], sweep: Sweep) -> bool:
        """Fire what was not tried, batch by batch; return False to have it read again instead."""
        sweep.tried.intersection_update([delay.id for delay in delays])
        todo = self._order.arrange(delay for delay in delays if delay.id not in sweep.tried)
        for start in range(0, len(todo), self._batch):
            batch = sorted(todo[start : start + self._batch], key=lambda delay: delay.due)
            outcomes = await self._fire(batch)
            sweep.tried.update(delay.id for delay in batch)
            lost = [d for d, outcome in zip(batch, outcomes, strict=True) if outcome == "lost"]
            # What has lost a race may still be there: an update of a state keeps its delays.
            fresh = [each for each in lost if is_new(self._lost, f"{each.state.rev} {each.id}")]
            if fresh or "left" in outcomes:
                sweep.pauses.add(self._poll_interval)
            if not all(delay.commit for delay in batch):
                sweep.pauses.add(self._lease)
            self._order.learn(batch, lost)
            if len(lost) > MOST_LOST * len(batch) and start + self._batch < len(todo):
                return False
        return True

    async def _fire(self, delays: Sequence[DelayedState]) -> list[Outcome]:
        by_state: dict[str, list[DelayedState]] = {}
        for delay in delays:
            by_state.setdefault(delay.state.id, []).append(delay)
        each = map(self._fire_in_turn, by_state.values())
        outcomes: dict[str, Outcome] = {}
        for result in await asyncio.gather(*each, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
            outcomes |= result
        return [outcomes[delay.id] for delay in delays]

    async def _fire_in_turn(self, delays: Sequence[DelayedState]) -> dict[str, Outcome]:
        """Fire what is due of one state; at the same time, its timers would race each other."""
        outcomes: dict[str, Outcome] = {}
        for delay in delays:
            try:
                outcomes[delay.id] = await self._fire_one(delay)
            except EngineStoppedError:
                raise
            except Exception as error:  # noqa: BLE001 - it holds up no other
                log_delay(delay, logging.ERROR, "cannot fire delay %s", error)
                outcomes[delay.id] = "left"
        return outcomes

    async def _fire_one(self, delay: DelayedState) -> Outcome:
        if not self._engine.can_execute(delay.to):  # The flow was removed meanwhile.
            return "left"
        if delay.timer:
            return await shielded(self._fire_timer(delay))
        if not delay.commit:
            return await self._claim(delay)
        # Cancelled in between, it would have fired a delay without executing its flow.
        return await shielded(self._commit(delay))

    async def _commit(self, delay: DelayedState) -> Outcome:
        try:
            ctx = await self._engine.commit_delay(delay)
        except RevisionMismatchError:
            return "lost"  # Or the state has moved on.
        await self._engine.do(Execute(ctx))
        return "settled"

    async def _fire_timer(self, delay: DelayedState) -> Outcome:
        """Fire a timer at the latest revision, whatever became of the state, if it still has it."""
        timer = timer_to_fire(delay.state, delay.timer)
        if timer is None:
            return await self._drop_stray(delay)
        for _ in range(MOST_RACES):
            outcome = await self._commit(delay)
            if outcome != "lost":
                return outcome
            state = await self._engine.driver.get_state(delay.state.id)
            # One that was set again meanwhile is not due yet, although it has the same name.
            if state is None or timer_to_fire(state, delay.timer) != timer:
                return "lost"
            delay = replace(delay, state=state)
        return "left"

    async def _drop_stray(self, delay: DelayedState) -> Outcome:
        """Remove a timer that its state does not have, as a library without timers leaves it."""
        try:
            await self._engine.drop(Drop(delay.id, ""), delay.state)
        except RevisionMismatchError:
            return "left"
        return "settled"

    async def _claim(self, delay: DelayedState) -> Outcome:
        # A claim is granted again to its holder, whose flow must not run twice: a process that was
        # asleep may find its own delay due.
        if delay.id in self._claimed or len(self._claimed) >= self._batch:
            return "left"
        ctx = self._engine.draft_delay(delay)
        tenure = Tenure(self._lease, self._engine.clock.monotonic())
        try:
            await self._engine.claim(Claim(delay.id, self._holder, self._lease))
        except ClaimLostError:
            return "lost"
        claimed = ClaimedDelay(self._engine, delay, ctx, self._holder, tenure)
        task = spawn(claimed.execute(), f"flowstate claimed {delay.id}")
        self._claimed[delay.id] = task
        task.add_done_callback(lambda _: self._claimed.pop(delay.id))
        return "settled"
