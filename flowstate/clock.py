"""The one source of time: a real clock, and one for tests that jumps when every task sleeps."""

import asyncio
import heapq
import itertools
import math
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

from flowstate.errors import InvalidInputError

__all__ = ["Clock", "FakeClock", "SystemClock", "longest_sleep"]

IDLE_TURNS = 2
LONGEST_SLEEP = 5.0
# That of Linux that goes on while the machine is suspended; where there is none, the usual one.
_BOOT_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """What flowstate asks of time.

    A clock may say with ``longest_sleep: float`` after how many seconds one who waits for a time
    of the store has to look again; see :func:`longest_sleep`.
    """

    def now(self) -> datetime:
        """Return the time of day, in UTC."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""

    async def sleep(self, seconds: float, *, background: bool = False) -> None:
        """Wait so many seconds.

        Args:
            seconds: to wait.
            background: nothing is missed while time stands still. A fake clock does not jump for
                such a sleeper, which only keeps something alive.
        """

    def working(self) -> AbstractContextManager[None]:
        """Hold while work goes on that the event loop does not see, as in a thread."""


def longest_sleep(clock: Clock) -> float:
    """Return after how many seconds one who waits for a time of the store has to look again.

    The timers of an event loop stand still while the machine is suspended, and know nothing of a
    store whose time of day is set forward.
    """
    seconds: float = getattr(clock, "longest_sleep", LONGEST_SLEEP)
    return seconds


class SystemClock:
    """The clock of this machine. Its ``monotonic`` counts also while the machine is suspended."""

    longest_sleep = LONGEST_SLEEP
    _nothing: AbstractContextManager[None] = nullcontext()

    # No frames of their own: they run once a commit.
    now = staticmethod(partial(datetime.now, UTC))
    monotonic = staticmethod(
        time.monotonic if _BOOT_TIME is None else partial(time.clock_gettime, _BOOT_TIME)
    )

    async def sleep(self, seconds: float, *, background: bool = False) -> None:  # noqa: ARG002
        """Wait so many seconds."""
        await asyncio.sleep(seconds)

    def working(self) -> AbstractContextManager[None]:
        """Do nothing: real time goes on by itself."""
        return self._nothing


Sleeper = tuple[float, int, asyncio.Future[None]]


class FakeClock:
    """A clock that stands still while anything runs, and jumps when every task sleeps.

    When the event loop has nothing left to run and no thread of flowstate works, it jumps to the
    earliest time that a task sleeps for: a delay of three days takes no time. It does not see
    other waiting, such as a socket or ``asyncio.sleep``; use ``autojump=False`` and
    :meth:`advance` for tests that have it. Use it in one event loop. Only the loops of asyncio
    itself tell whether they are idle; on others, such as uvloop, use ``autojump=False`` as well.
    The idea is that of trio's ``MockClock``.
    """

    longest_sleep = math.inf

    def __init__(
        self, start: datetime = datetime(2030, 1, 1, tzinfo=UTC), *, autojump: bool = True
    ) -> None:
        self._start = start
        self._elapsed = 0.0
        self._autojump = autojump
        self._sleepers: list[Sleeper] = []
        self._in_background: list[Sleeper] = []
        self._order = itertools.count()
        self._working = 0
        self._lock = threading.Lock()
        self._armed = False

    def now(self) -> datetime:
        """Return the fake time of day, in UTC."""
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        """Return the fake seconds since the clock was made."""
        return self._elapsed

    async def sleep(self, seconds: float, *, background: bool = False) -> None:
        """Wait until the clock has been advanced so far, or jumps there.

        Raises:
            InvalidInputError: it has to jump, and this event loop does not tell when it is idle.
        """
        if self._autojump and not hasattr(asyncio.get_running_loop(), "_ready"):
            reason = "cannot jump on an event loop that is not asyncio's own; use autojump=False"
            raise InvalidInputError("clock", reason)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        sleepers = self._in_background if background else self._sleepers
        heapq.heappush(sleepers, (self._elapsed + seconds, next(self._order), woken))
        self._arm()
        await woken

    def advance(self, seconds: float) -> None:
        """Move time on by so many ``seconds``, and wake the tasks whose time has come."""
        self._move_to(self._elapsed + seconds)

    def set_now(self, now: datetime) -> None:
        """Set the time of day to ``now``, forwards or back; tasks that sleep do not notice."""
        self._start = now - timedelta(seconds=self._elapsed)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep the clock from jumping."""
        with self._lock:
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1
            self._arm()

    def _move_to(self, elapsed: float) -> None:
        self._elapsed = max(elapsed, self._elapsed)
        for sleepers in (self._in_background, self._sleepers):
            while sleepers and sleepers[0][0] <= self._elapsed:
                woken = heapq.heappop(sleepers)[2]
                if not woken.done():
                    woken.set_result(None)

    def _arm(self) -> None:
        """Look for idleness from the next turn of the loop on."""
        self._forget_cancelled()
        if self._autojump and self._sleepers and not self._armed:
            self._armed = True
            self._sleepers[0][2].get_loop().call_soon(self._look, 0)

    def _forget_cancelled(self) -> None:
        for sleepers in (self._in_background, self._sleepers):
            while sleepers and sleepers[0][2].done():
                heapq.heappop(sleepers)

    def _look(self, idle_turns: int) -> None:
        """Jump after two turns in a row in which the loop had nothing else to run.

        The turn between lets the loop collect what sockets and threads have ready.
        """
        self._armed = False
        self._forget_cancelled()
        if not self._sleepers or self._working:
            return
        loop = self._sleepers[0][2].get_loop()
        # Only the loop knows whether something else is ready, and it has no public way to say.
        busy = bool(loop._ready)  # type: ignore[attr-defined]
        if busy or idle_turns < IDLE_TURNS:
            self._armed = True
            loop.call_soon(self._look, 0 if busy else idle_turns + 1)
            return
        self._move_to(min(each[0][0] for each in (self._sleepers, self._in_background) if each))
        self._arm()
