"""Leader election: a lease that one of many processes holds, with a fence for what it writes.

The lease is one state of the store. The process that commits its next revision by compare-and-set
holds it: that revision is the *term*. The holder sends heartbeats for it, which write no revisions.
A standby takes over when it has seen no heartbeat for the time of the lease, by its own monotonic
clock: no clocks of two machines are ever compared. A holder that cannot send heartbeats steps down
before that. It takes the lease again, as a new term, when it reaches the store and no other
process has taken it. A holder that was asleep meanwhile is refused by the fence: a ``Check`` of
its term, in the same commit as what it writes.
"""

import asyncio
import contextlib
import logging
import math
import random
from typing import Self

import attrs

from flowstate.clock import Clock
from flowstate.commands import Check, Commit, End, Pause
from flowstate.context import StateContext
from flowstate.driver import Liveness, Seen
from flowstate.engine import Engine
from flowstate.errors import (
    CommitUnknownError,
    EngineStoppedError,
    FlowstateError,
    LeaseLostError,
    RevisionMismatchError,
)
from flowstate.executions.tenure import RENEW_AT, Held
from flowstate.ground.limits import check_id
from flowstate.ground.options import has, optional, seconds
from flowstate.ground.tasks import cancel_and_wait, first, spawn
from flowstate.log.log_tail import change_of_head
from flowstate.recovery.looks import Looks
from flowstate.recovery_rules import LONGEST
from flowstate.state import State, Status

__all__ = ["HOLDER", "Lease", "SHORTEST_SECONDS", "lease_id"]

logger = logging.getLogger("flowstate.recovery")

PREFIX = "flowstate.lease."
HOLDER = PREFIX + "holder"
LABEL = "flowstate.lease"
SHORTEST_SECONDS = 0.05
SHORTEST_PAUSE = 0.005
STEP_DOWN_AT = 2 / 3  # Of the time of the lease.
MAX_RETAKES = 2  # In a row. A store that is too slow for this process may do for another.


def lease_id(name: str) -> str:
    """Return the id of the state that is the lease."""
    return PREFIX + name


def _is_name(_: object, __: object, value: str) -> None:
    check_id("name", value)
    check_id("name", lease_id(value))


@attrs.define(eq=False, repr=False)
class Term(Held):
    """What is held: from the commit that took a lease, until it is lost or given up.

    Attributes:
        clock: of the engine.
        haste: a part of the usual time after which heartbeats are sent.
        on_held: set when a heartbeat got through, for those who began to wait when it was late.
        has_ended: set when it is lost or given up.
        was_renewed: whether a heartbeat got through.
        is_late: whether it was lost because none got through in time.
    """

    clock: Clock
    haste: float
    on_held: asyncio.Event
    has_ended: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)
    was_renewed: bool = attrs.field(init=False, default=False)
    is_late: bool = attrs.field(init=False, default=False)

    @property
    def part(self) -> float:
        """Of the time, after which the holder steps down."""
        return STEP_DOWN_AT

    @property
    def is_held(self) -> bool:
        """Whether no other process can have taken it by now."""
        return self.seconds is not None and self.clock.monotonic() < self.stop_at

    def renewable_at(self, sent_at: float) -> float:
        """Return when to send the next heartbeat; not all holders at the same time."""
        return sent_at + (self.seconds or math.inf) * RENEW_AT * self.haste

    def begin(self, seconds: float, sent_at: float) -> "Term":
        """Begin with the commit that was sent at this time."""
        self.seconds = seconds
        super().renewed(sent_at)
        return self

    def renewed(self, sent_at: float) -> None:
        """Note that a heartbeat that was sent at this time got through."""
        self.was_renewed = True
        super().renewed(sent_at)
        self.on_held.set()

    def release(self) -> None:
        """End it."""
        super().release()
        self.has_ended.set()

    def lose(self) -> None:
        """End it, because others may have taken it over."""
        self.is_late = True
        self.release()


# state      means                                  left by
# new        made, not entered                      ``async with`` → standby
# standby    another process holds it, or it is     free → taking; left → left
#            being looked at
# taking     a commit of the next term is on its    won → holding; lost the race → standby;
#            way                                    acknowledged too late → standby (*)
# holding    ``_term`` is there; heartbeats go out  taken by another, given up → standby;
#                                                   no heartbeat in time → standby (*); left → left
# left       given back, if it was held             -
#
# (*) ``_lost_term`` is set: a term that was lost to time alone is taken again at once, if no other
#     process has taken it, and not too often in a row.
@attrs.define(eq=False, repr=False)
class Lease:
    """One of all processes that use the same name on the same store holds it at a time.

    Use it as ``async with``. It tries to take the lease until the block ends, and gives it back
    then::

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
        holder: the engine that held it when this process looked last; empty when none did.
        looks: what this process saw of the store when it looked.

    Raises:
        InvalidInputError: a bad option; names it.
    """

    _engine: Engine = attrs.field(validator=has("an Engine", "do", "driver", "clock"))
    _name: str = attrs.field(validator=_is_name)
    _seconds: float = attrs.field(
        default=15.0, kw_only=True, validator=seconds(SHORTEST_SECONDS, LONGEST)
    )
    _poll_interval: float = attrs.field(default=1.0, kw_only=True, validator=seconds(0.001))
    _rng: random.Random | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a random.Random", "uniform"))
    )
    holder: str = attrs.field(init=False, default="")
    looks: Looks = attrs.field(init=False, factory=Looks)
    _chance: random.Random = attrs.field(init=False)
    _term: Term | None = attrs.field(init=False, default=None)
    _lost_term: Term | None = attrs.field(init=False, default=None)
    _retakes: int = attrs.field(init=False, default=0)  # In a row, without a heartbeat.
    _held: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)
    _not_held: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)
    _sign: tuple[object, ...] | None = attrs.field(init=False, default=None)  # Of the holder.
    _sign_at: float = attrs.field(init=False, default=0.0)
    _seen: Seen = attrs.field(init=False, factory=Seen)
    _is_busy: bool = attrs.field(init=False, default=False)  # Others commit all the time.
    _state: State | None = attrs.field(init=False, default=None)
    _task: asyncio.Task[None] | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._not_held.set()

    @property
    def id(self) -> str:
        """Of the state that is the lease."""
        return lease_id(self._name)

    @property
    def _clock(self) -> Clock:
        return self._engine.clock

    async def __aenter__(self) -> Self:
        self._engine.check_open()
        # Drawn here: processes that were forked after this object was made must differ.
        self._chance = self._rng or random.Random()  # noqa: S311 - no secret
        self._task = spawn(self._run(), f"flowstate lease {self._name}")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            if self._task is not None:
                await cancel_and_wait(self._task)
        finally:
            term, is_held = self._term, self.is_held
            self._drop()
            self._task = None
            self._held.set()
            if term is not None and is_held:
                await self._give_back(term.ctx)

    @property
    def is_held(self) -> bool:
        """Whether this process holds it, for all it can know."""
        return self._term is not None and self._term.is_held and self._engine.is_open

    @property
    def term(self) -> int:
        """A number that grows with every holder, for systems that can refuse lower ones.

        Raises:
            LeaseLostError: it is not held.
        """
        return self._held_ctx().committed.rev

    def check(self) -> Check:
        """Return the fence: a commit with it is refused when another process took the lease.

        Raises:
            LeaseLostError: it is not held.
        """
        return Check(self._held_ctx())

    async def wait_held(self) -> None:
        """Return when this process holds the lease.

        Raises:
            EngineStoppedError: the engine has stopped.
            LeaseLostError: the lease is left, or was not entered.
        """
        while not self.is_held:
            if self._task is None:
                raise LeaseLostError(self._name)
            if self._task.done():
                raise EngineStoppedError("the engine of the lease has stopped")
            self._held.clear()
            await self._held.wait()

    async def wait_lost(self) -> None:
        """Return when this process does not hold the lease."""
        await self._not_held.wait()

    def give_up(self) -> None:
        """Stop holding it, so that another process may, which has waited longer than this one."""
        self._lost_term = None
        self._drop()

    def _held_ctx(self) -> StateContext:
        if self._term is None or not self.is_held:
            raise LeaseLostError(self._name)
        return self._term.ctx

    async def _run(self) -> None:
        while True:
            try:
                if self._term is None:
                    await self._stand_by()
                else:
                    await self._hold(self._term)
            except EngineStoppedError:
                self._drop()
                self._held.set()  # Those who wait for it find out that it will not come.
                return
            except Exception as error:  # noqa: BLE001 - it tries again, whatever went wrong
                self._log(logging.WARNING, f"{type(error).__name__}: {error}")
                await self._clock.sleep(self._poll_interval, background=True)

    def _log(self, level: int, text: str) -> None:
        logger.log(level, "lease %r: %s", self._name, text, extra={"lease": self._name})

    # Standing by

    async def _stand_by(self) -> None:
        """Take the lease, or wait for a change."""
        if self._seen == Seen():
            self._seen = await self._engine.driver.changed(self._seen)
        asked_at = self._clock.monotonic()
        liveness = await self._engine.heartbeats.get_liveness(self.id)
        now = self._clock.monotonic()
        if liveness is None:
            self.holder = ""
            await self._take(StateContext(State(self.id, labels={LABEL: self._name})))
            return
        self.looks.add(now, liveness.now, self._seen.head)
        if self._state is None or self._state.rev != liveness.rev:
            self._state = await self._engine.get_state(self.id)
        if self._state.rev != liveness.rev:
            return  # It changes hands just now.
        self.holder = self._state.annotations.get(HOLDER, "")
        if self._is_free(liveness, asked_at, now):
            await self._take(StateContext(self._state))
        else:
            left = self._sign_at + self._seconds - now
            await self._wait_for_change(max(min(left, self._poll_interval), SHORTEST_PAUSE))

    def _is_free(self, liveness: Liveness, asked_at: float, now: float) -> bool:
        if self._state is not None and self._state.status is Status.ENDED:
            return True
        if self._lost_term is not None:
            if liveness.rev == self._lost_term.ctx.committed.rev:
                return True
            self._lost_term = None
        sign = (liveness.rev, liveness.beat_at, liveness.note)
        if sign != self._sign:
            self._sign, self._sign_at = sign, now
        # Not by now: this process may have stood still since the store replied.
        return asked_at - self._sign_at >= self._seconds

    async def _wait_for_change(self, pause: float) -> None:
        """Wait, or until others commit, unless they do all the time: then it says nothing."""
        driver, seen, sleep = self._engine.driver, self._seen, self._clock.sleep
        if self._is_busy:
            await sleep(pause, background=True)
            self._seen = await driver.changed(Seen())
        else:
            change = first(change_of_head(driver, seen), sleep(pause, background=True))
            self._seen = await change or seen
        self._is_busy = self._seen.head != seen.head

    async def _take(self, ctx: StateContext) -> None:
        self._state = None
        ctx.set_annotation(HOLDER, self._engine.name)
        sent_at, before = self._clock.monotonic(), ctx.committed.rev
        try:
            await self._engine.do(Commit(Pause(ctx)))
        except (RevisionMismatchError, CommitUnknownError):
            self._lost_term = None
            return  # Another process was faster; or it is seen with the next look.
        finally:
            term = Term(ctx, self._clock, self._chance.uniform(0.8, 1.0), self._held)
            if ctx.committed.rev != before:  # Also when this is cancelled: it is given back then.
                self._term = term.begin(self._seconds, sent_at)
        self._retakes = self._retakes + 1 if self._lost_term is not None else 0
        self._sign = self._lost_term = None
        if not term.is_held:
            self._log(logging.WARNING, "taken too slowly")
            self._term = None
            if self._retakes < MAX_RETAKES:
                self._lost_term = term
            return
        self.holder = self._engine.name
        self._not_held.clear()
        self._held.set()
        self._log(logging.INFO, f"held by {self.holder}")

    # Holding

    async def _hold(self, term: Term) -> None:
        """Let heartbeats be sent until that is in vain."""
        heartbeats = self._engine.heartbeats
        heartbeats.add(term)
        try:
            await term.has_ended.wait()
        finally:
            heartbeats.remove(term)
        if term.was_renewed:
            self._retakes = 0
        if self._term is term:  # Else it was given up.
            self._lost_term = term if term.is_late and term.was_renewed else None
            self._log(logging.WARNING, "lost")
            self._drop()

    def _drop(self) -> None:
        if self._term is not None:
            self._term.release()
        self._term = None
        self._held.clear()
        self._not_held.set()

    async def _give_back(self, ctx: StateContext) -> None:
        ctx.set_annotation(HOLDER, None)
        with contextlib.suppress(RevisionMismatchError):
            try:
                await self._engine.do(Commit(End(ctx)))
            except FlowstateError as error:
                self._log(logging.WARNING, f"not given back: {error}")
        self.holder = ""
