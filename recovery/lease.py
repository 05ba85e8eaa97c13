"""Leader election: a lease that one of many processes holds, with a fence for what it writes.

The lease is one state of the store. Whoever commits its next revision by compare-and-set holds
it: that revision is the *term*. The holder sends heartbeats for it, which write no revisions. A
standby takes over when it has seen no heartbeat for the time of the lease, by its own monotonic
clock: no clocks of two machines are ever compared. A holder that cannot send heartbeats steps down
before that, and takes the lease again, as a new term, when it reaches the store and nobody else has
taken it; and one that was asleep meanwhile is refused by the fence: a ``Check`` of its term, in the
same commit as what it writes.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from flowstate.cancellation import all_cancelled
from flowstate.commands import Check, Commit, End, Pause
from flowstate.context import StateContext
from flowstate.driver import Heartbeat, Liveness
from flowstate.engine import Engine
from flowstate.errors import (
    CommitUnknownError,
    EngineStoppedError,
    FlowstateError,
    InvalidInputError,
    LeaseLostError,
    RevisionMismatchError,
)
from flowstate.execution import Note
from flowstate.limits import check_id
from flowstate.stalling import LONGEST
from flowstate.state import State, Status

__all__ = ["HOLDER", "Lease", "check_seconds", "lease_id"]

logger = logging.getLogger("flowstate.recovery")

PREFIX = "flowstate.lease."
HOLDER = PREFIX + "holder"
LABEL = "flowstate.lease"
RENEW_AT = 1 / 3  # Parts of the time of the lease.
STEP_DOWN_AT = 2 / 3
TRY_AGAIN_AFTER = 1 / 12
LEAST_PAUSE = 0.25
SHORTEST_SECONDS = 0.05
MOST_RETAKES = 2  # In a row. A store that is too slow for this process may do for another.


def check_seconds(field: str, seconds: float) -> None:
    """Refuse what cannot be the time of a lease."""
    if not isinstance(seconds, int | float) or not SHORTEST_SECONDS <= seconds < LONGEST:
        raise InvalidInputError(field, f"must be from {SHORTEST_SECONDS} seconds to 365,000 days")


def lease_id(name: str) -> str:
    """Return the id of the state that is the lease."""
    return PREFIX + name


class Lease:
    """One of all processes that use the same name on the same store holds it at a time.

    Use it as ``async with``; it strives for the lease until the end, and gives it back then::

        async with Lease(engine, "nightly report") as lease:
            await lease.wait_held()
            await engine.do(Commit(lease.check(), Transit(ctx, "send")))

    Args:
        engine: open until the lease is left.
        name: of what is leased.
        seconds: after which a silent holder is replaced.
        poll_interval: seconds between two looks of a standby. On a quiet store one that is given
            back is taken at once, where the driver hears of other processes' commits.
        rng: for jitter.

    Attributes:
        id: of the state that is the lease.
        holder: the engine that held it when this process looked last; empty when nobody did.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        seconds: float = 15.0,
        poll_interval: float = 1.0,
        rng: random.Random | None = None,
    ) -> None:
        check_id("name", name)
        check_id("name", lease_id(name))
        check_seconds("seconds", seconds)
        if not isinstance(poll_interval, int | float) or not poll_interval > 0:
            raise InvalidInputError("poll_interval", "must be above 0")
        self.holder = ""
        self._engine = engine
        self._driver = engine.driver
        self._clock = engine.clock
        self.id = lease_id(name)
        self._name = name
        self._seconds = seconds
        self._poll_interval = poll_interval
        self._rng = rng or random.Random()  # noqa: S311 - no secret
        self._ctx: StateContext | None = None  # While it is held.
        self._valid_until = 0.0
        self._lost_term: int | None = None  # To time alone; taken again if nobody else has it.
        self._retakes = 0  # In a row, without a heartbeat that got through.
        self._held = asyncio.Event()
        self._not_held = asyncio.Event()
        self._not_held.set()
        self._seen: tuple[object, ...] | None = None
        self._seen_at = 0.0
        self._head: int | None = None
        self._least_pause = LEAST_PAUSE
        self._state: State | None = None
        self._task: asyncio.Task[None] | None = None
        self._late: set[asyncio.Future[Any]] = set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"flowstate lease {self._name}")
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
            ctx, held = self._ctx, self.is_held
            self._drop()
            if ctx is not None and held:
                await self._give_back(ctx)
            await all_cancelled(*self._late)

    @property
    def is_held(self) -> bool:
        """Whether this process holds it, for all it can know."""
        return self._ctx is not None and self._clock.monotonic() < self._valid_until

    @property
    def term(self) -> int:
        """A number that grows with every holder, for systems that can refuse lower ones.

        Raises:
            LeaseLostError: it is not held.
        """
        return self._held_ctx().committed.rev

    def check(self) -> Check:
        """Return the fence: a commit with it is refused when somebody else has taken the lease.

        Raises:
            LeaseLostError: it is not held.
        """
        return Check(self._held_ctx())

    async def wait_held(self) -> None:
        """Return when this process holds the lease."""
        while not self.is_held:
            self._held.clear()
            await self._held.wait()

    async def wait_lost(self) -> None:
        """Return when this process does not hold the lease."""
        await self._not_held.wait()

    def give_up(self) -> None:
        """Stop holding it, so that somebody else may, who has waited for longer than this one."""
        self._lost_term = None
        self._drop()

    def _held_ctx(self) -> StateContext:
        ctx = self._ctx
        if ctx is None or not self.is_held:
            raise LeaseLostError(self._name)
        return ctx

    async def _run(self) -> None:
        while True:
            try:
                if self._ctx is None:
                    await self._stand_by()
                else:
                    await self._renew(self._ctx)
            except EngineStoppedError:
                self._drop()
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, it must be striven for
                extra = {"lease": self._name}
                logger.warning("lease %r: %s: %s", self._name, type(error), error, extra=extra)
                await self._clock.sleep(self._poll_interval, background=True)

    # Standing by

    async def _stand_by(self) -> None:
        """Take the lease, or wait for a change."""
        if self._head is None:
            self._head = await self._driver.head()
        asked_at = self._clock.monotonic()
        liveness = await self._driver.get_liveness(self.id)
        now = self._clock.monotonic()
        if liveness is None:
            self.holder = ""
            await self._take(StateContext(State(self.id, labels={LABEL: self._name})))
            return
        if self._state is None or self._state.rev != liveness.rev:
            self._state = await self._engine.get_state(self.id)
        if self._state.rev != liveness.rev:
            return  # It changes hands just now.
        self.holder = self._state.annotations.get(HOLDER, "")
        if self._is_free(liveness, asked_at, now):
            await self._take(StateContext(self._state))
        else:
            await self._wait_for_change(self._head, self._seen_at + self._seconds - now)

    def _is_free(self, liveness: Liveness, asked_at: float, now: float) -> bool:
        if self._state is not None and self._state.status is Status.ENDED:
            return True
        if self._lost_term is not None:
            if liveness.rev == self._lost_term:
                return True
            self._lost_term = None
        seen = (liveness.rev, liveness.beat_at, liveness.note)
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        # Not by now: this process may have stood still since the store replied.
        return asked_at - self._seen_at >= self._seconds

    async def _wait_for_change(self, head: int, left: float) -> None:
        pause = max(min(left, self._poll_interval), SHORTEST_SECONDS / 10)
        least = min(pause, self._least_pause)
        await self._clock.sleep(least, background=True)  # However often others commit.
        if least == pause:
            # Nothing is waited for where others commit all the time; do they still?
            self._head = await self._driver.head()
            self._learn(is_busy=self._head != head)
            return
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(_called(self._driver.wait, head)),
            asyncio.create_task(_called(self._clock.sleep, pause - least, background=True)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                self._head = None
            self._learn(is_busy=tasks[0].done())
        finally:
            await all_cancelled(*tasks)

    def _learn(self, *, is_busy: bool) -> None:
        """Look at once after a commit of others, unless there are so many that it says nothing."""
        longer = min(2 * self._least_pause, self._poll_interval)
        self._least_pause = longer if is_busy else LEAST_PAUSE

    async def _take(self, ctx: StateContext) -> None:
        self._state = None
        ctx.set_annotation(HOLDER, self._engine.name)
        sent_at = self._clock.monotonic()
        before = ctx.committed.rev
        try:
            await self._engine.do(Commit(Pause(ctx)))
        except (RevisionMismatchError, CommitUnknownError):
            self._lost_term = None
            return  # Somebody was faster; or it is seen when one looks again.
        except asyncio.CancelledError:
            if ctx.committed.rev != before:  # To be given back.
                self._ctx, self._valid_until = ctx, sent_at + self._seconds * STEP_DOWN_AT
            raise
        self._retakes = self._retakes + 1 if self._lost_term is not None else 0
        self._seen = self._lost_term = None
        valid_until = sent_at + self._seconds * STEP_DOWN_AT
        if self._clock.monotonic() >= valid_until:
            logger.warning("lease %r: taken too slowly", self._name, extra={"lease": self._name})
            if self._retakes < MOST_RETAKES:
                self._lost_term = ctx.committed.rev
            return
        self._ctx, self._valid_until = ctx, valid_until
        self.holder = self._engine.name
        self._not_held.clear()
        self._held.set()
        logger.info("lease %r: held by %s", self._name, self.holder, extra={"lease": self._name})

    # Holding

    async def _renew(self, ctx: StateContext) -> None:
        """Send heartbeats until that is in vain."""
        taken_at = self._valid_until - self._seconds * STEP_DOWN_AT
        renew_at = taken_at + self._next_renewal()
        was_renewed = False
        while True:
            now = self._clock.monotonic()
            await self._clock.sleep(min(renew_at, self._valid_until) - now, background=True)
            sent_at = self._clock.monotonic()
            if sent_at >= self._valid_until:
                if was_renewed and self._ctx is ctx:
                    self._lost_term = ctx.committed.rev
                break
            outcome = await self._beat(ctx, self._valid_until - sent_at)
            if outcome is False or self._ctx is not ctx:  # The latter: it was given up meanwhile.
                break
            if outcome:
                was_renewed = True
                self._retakes = 0
                self._valid_until = sent_at + self._seconds * STEP_DOWN_AT
                self._held.set()  # Somebody may have begun to wait at the last moment.
                renew_at = sent_at + self._next_renewal()
            else:
                renew_at = self._clock.monotonic() + self._seconds * TRY_AGAIN_AFTER
        logger.warning("lease %r: lost", self._name, extra={"lease": self._name})
        self._drop()

    def _next_renewal(self) -> float:
        return self._seconds * RENEW_AT * self._rng.uniform(0.8, 1.0)

    async def _beat(self, ctx: StateContext, seconds: float) -> bool | None:
        """Return whether the lease is still ours, or ``None`` when nobody can tell in time."""
        note = Note(self._engine.name).encode()
        heartbeat = Heartbeat(self.id, ctx.committed.rev, None, note)
        beating = asyncio.ensure_future(_called(self._driver.beat, [heartbeat]))
        pausing = asyncio.ensure_future(self._clock.sleep(seconds, background=True))
        try:
            await asyncio.wait([beating, pausing], return_when=asyncio.FIRST_COMPLETED)
            return bool(beating.result()[0]) if beating.done() else None
        except Exception as error:  # noqa: BLE001 - as above
            extra = {"lease": self._name}
            logger.warning("lease %r: no heartbeat: %s", self._name, error, extra=extra)
            return None
        finally:
            await all_cancelled(pausing)
            self._leave(beating)

    def _leave(self, beating: "asyncio.Future[Any]") -> None:
        """Wait no more for a reply; to be cancelled may take a driver longer than a lease lasts."""
        if beating.done():
            _heed(beating)
        else:
            beating.cancel()
            self._late.add(beating)
            beating.add_done_callback(self._late.discard)
            beating.add_done_callback(_heed)

    def _drop(self) -> None:
        self._ctx = None
        self._valid_until = 0.0
        self._held.clear()
        self._not_held.set()

    async def _give_back(self, ctx: StateContext) -> None:
        ctx.set_annotation(HOLDER, None)
        with contextlib.suppress(RevisionMismatchError):
            try:
                await self._engine.do(Commit(End(ctx)))
            except FlowstateError as error:
                extra = {"lease": self._name}
                logger.warning("lease %r: not given back: %s", self._name, error, extra=extra)
        self.holder = ""


def _heed(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        task.exception()  # Else asyncio says that nobody has asked for it.


async def _called(function: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
    """Await what a function returns. Cancelled before it begins, this leaves nothing unawaited."""
    return await function(*args, **options)
