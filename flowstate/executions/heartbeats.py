"""Keeps what this process holds from being taken over by others meanwhile.

Most executions are over, or have committed, long before their state would stall, and cost the
store nothing. The others, and leases, are kept alive by heartbeats, many with one write. What no
heartbeat got through for is stopped before others may take it over.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from flowstate.clock import Clock, longest_sleep
from flowstate.context import go_on_from
from flowstate.driver import Driver, Heartbeat, Liveness
from flowstate.errors import EngineStoppedError, RevisionMismatchError
from flowstate.executions.execution import Execution
from flowstate.executions.tenure import RENEW_AT, Held, Note
from flowstate.ground.batching import Batcher, in_parts
from flowstate.ground.tasks import cancel_and_wait, spawn
from flowstate.state import State

__all__ = ["Heartbeats"]

logger = logging.getLogger("flowstate.engine")

SAFE = RENEW_AT  # Part of the time that a state may stand still: less of it left is too little.
BATCH = 500
MAX_NOTES = 10_000
MAX_RENEWALS = 2  # One after the other, each acknowledged too late.
SHORTEST_PAUSE = 0.001
PAUSE_AFTER_FAILURE = 1.0
CLOSE_SECONDS = 1.0

Answer = bool | Exception


# state      means                                    left by
# idle       nothing is held                          add, note → sleeping
# sleeping   until the earliest heartbeat or stop     its time, wake: loses what is late, sends
#                                                     what is due → sleeping; nothing held → idle
# closing    all is lost; notes are still sent        sent, or out of time → closed
# closed     confirms nothing, sends nothing          -
#
# Heartbeats are on their way in tasks of their own meanwhile, so that a store that does not answer
# keeps nothing from being stopped in time. One that is held has at most one on its way.
class Heartbeats:
    """Sends heartbeats for what one engine executes, and for the leases that it holds.

    Args:
        renew: commits a state as it is, and returns its new revision.
        is_writing: returns whether a commit of a state is on its way from this engine.
    """

    def __init__(
        self,
        driver: Driver,
        clock: Clock,
        name: str,
        renew: Callable[[State], Awaitable[State]],
        is_writing: Callable[[str], bool],
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._name = name
        self._renew = renew
        self._is_writing = is_writing
        # Many executions are confirmed at once, such as all of a page that was recovered.
        self._liveness: Batcher[str, Liveness | None] = Batcher(
            driver.get_liveness, limit=BATCH, key=str, unknown=_stopped, name="flowstate liveness"
        )
        self._beats: Batcher[Heartbeat, Answer] = Batcher(
            self._beat_each,
            limit=BATCH,
            key=attrgetter("id"),
            unknown=_stopped,
            name="flowstate heartbeats",
        )
        self._held: dict[Held, None] = {}
        self._notes: dict[str, Heartbeat] = {}
        self._beating: set[Held] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._sleep: asyncio.Task[None] | None = None
        self._left = asyncio.Event()
        self._wake_at = math.inf
        self._is_closed = False

    @property
    def executions(self) -> Iterable[Execution]:
        """Those that run or wait now; for any thread."""
        return [held for held in list(self._held) if isinstance(held, Execution)]

    def add(self, held: Held) -> None:
        """Keep something alive from now on."""
        self._held[held] = None
        if held.fresh_until < self._wake_at or self._sleep is None:
            self._wake()

    def look_again(self, held: Held) -> None:
        """Look at something that has changed, if nothing else is due before."""
        if held.fresh_until < self._wake_at or self._sleep is None:
            self._wake()

    def remove(self, held: Held) -> None:
        """Keep it no longer."""
        self._held.pop(held, None)
        if self._notes:
            self._wake()  # One of them may have waited for this.
        if self._is_closed:
            self._left.set()

    # Before an execution begins

    async def get_liveness(self, id: str) -> Liveness | None:
        """Return what is known about a state; those who ask at the same time share a call."""
        return await self._liveness.submit(id)

    async def confirm(self, execution: Execution, *, renewals: int = MAX_RENEWALS) -> bool:
        """Make sure that no other process takes over what is about to be executed.

        There are five cases:

        1. This process committed it or sent a heartbeat a moment ago: it is ours, for nothing.
        2. It has another revision by now: it is not.
        3. Another process committed it, or sent a heartbeat, a moment ago: the read says so.
        4. It stands still for a while, but will not stall soon: a heartbeat makes it ours.
        5. It has stalled, or is about to. A heartbeat could come between another engine's look
           at it and the commit by which that one takes it over. It gets a new revision.

        Returns whether the state is still what it was.

        Raises:
            DriverError: the store failed.
            EngineStoppedError: the engine has closed meanwhile, so nothing would keep it alive.
        """
        is_ours = await self._is_confirmed(execution, renewals)
        if is_ours and self._is_closed:
            raise _stopped()
        return is_ours

    async def _is_confirmed(  # noqa: PLR0911 - one return for each case
        self, execution: Execution, renewals: int
    ) -> bool:
        asked_at = self._clock.monotonic()
        execution.catch_up()
        tenure, state = execution.tenure, execution.ctx.committed
        is_fresh = asked_at < execution.fresh_until
        if is_fresh or tenure is None:  # The latter: it was released before it began.
            return is_fresh
        liveness = await self.get_liveness(state.id)
        if liveness is None or liveness.rev != state.rev:
            return _moved_on(execution)
        if self._is_fresh(execution, liveness, asked_at):
            return True
        is_doubtful = execution.is_doubtful or _until_it_stalls(liveness) < tenure.seconds * SAFE
        if liveness.delay_due is None and is_doubtful:
            return await self._renewed(execution, renewals)
        beat = Heartbeat(state.id, state.rev, tenure.seconds, Note(self._name, 0.0).encode())
        if not _checked(await self._beats.submit(beat)):
            return _moved_on(execution)
        in_time = self._clock.monotonic() - asked_at < tenure.seconds * SAFE
        if in_time or liveness.delay_due is not None or liveness.stalls_at is None:
            execution.renewed(asked_at)
            self.look_again(execution)
            return True
        return await self._renewed(execution, renewals)

    def _is_fresh(self, execution: Execution, liveness: Liveness, asked_at: float) -> bool:
        """Return whether the store has heard of it a moment ago, from any process."""
        tenure = execution.tenure
        # A heartbeat that is on its way is no reason for doubt before it has come.
        is_doubtful = execution.is_doubtful and liveness.beat_at is not None
        is_known = liveness.delay_due is None and liveness.stalls_at is not None
        if tenure is None or is_doubtful or not is_known:
            return False
        # At the earliest: the store told what is left after it was asked.
        execution.renewed(asked_at - max(0.0, tenure.seconds - _until_it_stalls(liveness)))
        if self._clock.monotonic() >= execution.fresh_until:
            return False
        self.look_again(execution)
        return True

    async def _renewed(self, execution: Execution, renewals: int) -> bool:
        """Give a state a new revision, the same otherwise; return whether no other was faster."""
        ctx, now = execution.ctx, self._clock.monotonic()
        if not renewals:
            extra = {"state_id": ctx.committed.id, "rev": ctx.committed.rev}
            message = "%r stalls sooner than the store replies, and is left to recovery"
            logger.warning(message, ctx.committed.id, extra=extra)
            return _moved_on(execution)
        stored = await self._driver.get_state(ctx.committed.id, ctx.committed.rev)
        try:
            renewed = None if stored is None else await self._renew(stored)
        except RevisionMismatchError:
            renewed = None
        if renewed is None:
            return _moved_on(execution)
        go_on_from(ctx, renewed, now)
        execution.is_doubtful = False
        execution.follow(ctx, now)
        if execution.is_late(self._clock.monotonic()):
            # The reply was so late that others may have it.
            return await self.confirm(execution, renewals=renewals - 1)
        self.look_again(execution)
        return True

    # After an execution has ended

    def note_failure(self, execution: Execution, error: BaseException) -> None:
        """Record why an execution failed (best effort)."""
        self._note(execution, None, Note.of_failure(self._name, error))

    def hand_over(self, execution: Execution) -> None:
        """Let another engine go on at once with what a stop has interrupted (best effort)."""
        # In a thread it goes on here; what a claimed delay has started, that delay starts again.
        if not execution.is_in_thread and execution.ctx.committed.transition.to:
            self._note(execution, 0.0, Note(self._name, handed_over=True))

    def _note(self, execution: Execution, seconds: float | None, note: Note) -> None:
        execution.catch_up()
        state = execution.ctx.committed
        is_one_more = seconds is not None or len(self._notes) < MAX_NOTES
        if execution.tenure is not None and is_one_more:
            self._notes[state.id] = Heartbeat(state.id, state.rev, seconds, note.encode())
            self._wake()

    async def close(self, seconds: float, own: asyncio.Task[Any] | None = None) -> None:
        """Stop what is still held, and send the notes.

        Args:
            seconds: after about which this returns in any case.
            own: the task of a flow that stops its own engine, which goes on.
        """
        ends_at = asyncio.get_running_loop().time() + seconds
        self._is_closed = True
        for held in list(self._held):
            if not isinstance(held, Execution):
                held.lose()
            elif held.task is not own:
                held.interrupt()
        await self._wait_until_left(ends_at, own)
        self._send([])
        if self._sending:
            left = ends_at - asyncio.get_running_loop().time()
            await asyncio.wait(self._sending, timeout=max(left, 0.0))
        await self._liveness.close(_stopped())
        await self._beats.close(_stopped())
        sleep = [] if self._sleep is None else [self._sleep]
        await cancel_and_wait(*sleep, *self._sending, seconds=CLOSE_SECONDS)

    async def _wait_until_left(self, ends_at: float, own: asyncio.Task[Any] | None) -> None:
        """Wait until the executions that were stopped have ended, so that they are handed over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(ends_at):
                while any(each.is_lost and each.task is not own for each in self.executions):
                    self._left.clear()
                    await self._left.wait()

    # The loop

    def _wake(self) -> None:
        self._wake_at = -math.inf
        if self._sleep is not None:
            self._sleep.cancel()
        elif not self._is_closed:
            self._rest(_nothing())

    def _rest(self, sleep: Coroutine[Any, Any, None]) -> None:
        self._sleep = spawn(sleep, "flowstate heartbeats")
        self._sleep.add_done_callback(self._go_on)

    def _go_on(self, sleep: asyncio.Task[None]) -> None:
        """Look, and rest until it is time to look again."""
        self._sleep = None
        if self._is_closed or not (self._held or self._notes):
            return
        now = self._clock.monotonic()
        try:
            if not sleep.cancelled():
                sleep.result()
            self._wake_at = self._look(now)
        except Exception:
            logger.exception("cannot look after heartbeats", extra={"engine": self._name})
            self._wake_at = now + PAUSE_AFTER_FAILURE
        pause = min(max(self._wake_at - now, SHORTEST_PAUSE), longest_sleep(self._clock))
        self._rest(self._clock.sleep(pause, background=True))

    def _look(self, now: float) -> float:
        """Stop what is late, begin to send heartbeats, and return when to look again."""
        for held in self._held:
            held.catch_up()
        for held in [held for held in self._held if now >= held.stop_at]:
            held.lose()
        due: list[Held] = []
        again = math.inf
        for held in self._held:  # There may be thousands: look at each once.
            if held not in self._beating and held.may_beat(now):
                if (beat_at := held.beat_at) <= now:
                    due.append(held)
                else:
                    again = min(again, beat_at)
            again = min(again, held.stop_at)
        self._send(due)
        # If all goes well, those that are on their way are due again then.
        return min(again, *(held.renewable_at(now) for held in self._beating), math.inf)

    def _send(self, due: Sequence[Held]) -> None:
        """Begin to send heartbeats, and notes on what is no longer held."""
        notes: list[Heartbeat] = []
        if self._notes:
            kept = {execution.ctx.committed.id for execution in self.executions}
            notes = [self._notes.pop(id) for id in list(self._notes) if id not in kept]
        if due or notes:
            self._beating.update(due)
            task = spawn(self._send_all(due, notes), "flowstate heartbeats")
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send_all(self, due: Sequence[Held], notes: Sequence[Heartbeat]) -> None:
        now, put, sent = self._clock.monotonic(), self._beats.put, list[asyncio.Future[Answer]]()
        try:
            for held in due:
                beat = held.heartbeat(self._name, now)
                sent.append(put(beat, partial(self._settle, held, beat, now)).done)
            sent += [put(note).done for note in notes]
            await asyncio.wait(sent)
            errors = {str(done.exception()) for done in sent if done.exception()}
        except Exception as error:  # noqa: BLE001 - what is not kept alive is stopped in time
            errors = {repr(error)}
        for text in errors:
            logger.warning("cannot send heartbeats: %s", text, extra={"engine": self._name})
        for held in self._beating.intersection(due):  # These got no answer.
            self._beating.discard(held)
            self.look_again(held)

    def _settle(self, held: Held, beat: Heartbeat, sent_at: float, answer: Answer) -> None:
        is_latest = _checked(answer)  # Else it is seen to with all that got no answer.
        self._beating.discard(held)
        # The newer revision may be that of an own commit, which has not been told so yet.
        if is_latest or not isinstance(held, Execution) or not self._is_writing(beat.id):
            held.answered(beat, is_latest, sent_at, self._clock.monotonic())
        if held in self._held:
            self.look_again(held)

    async def _beat_each(self, beats: Sequence[Heartbeat]) -> Sequence[Answer]:
        """Beat for many at once; one that another process keeps locked does not fail the others."""
        return await in_parts(self._driver.beat, beats)


async def _nothing() -> None:
    pass


def _checked(answer: Answer) -> bool:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _stopped(_: object = None) -> EngineStoppedError:
    return EngineStoppedError("the engine has stopped")


def _moved_on(execution: Execution) -> bool:
    execution.release()
    return False


def _until_it_stalls(liveness: Liveness) -> float:
    """Return the seconds; the store's clock tells both times."""
    if liveness.stalls_at is None:
        return math.inf
    return (liveness.stalls_at - liveness.now).total_seconds()
