"""An event loop in virtual time, whose every choice comes from a seed.

Nothing is real here: no sockets, no threads, no waiting. Which of the ready callbacks runs next is
drawn, and when none is ready, time jumps to the next timer. Callbacks belong to the *group* in
whose context they were scheduled. A group plays a process: it can be paused, so that none of its
callbacks runs for a while, or killed, so that none ever runs again.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from random import Random
from typing import Any, Self

from msgspec import Struct

__all__ = ["DeadlockError", "Group", "SimulatedTask", "SimulationLoop"]

_group: ContextVar["Group | None"] = ContextVar("flowstate_simulated_group", default=None)


class DeadlockError(Exception):
    """Nothing is ready, no timer is set, and the loop was not told to stop."""


class Group:
    """Callbacks and tasks that are paused and killed together.

    Attributes:
        context: in which whatever belongs to the group has to be started.
        is_paused: whether its callbacks are held back.
        is_dead: whether it was killed.
        held: what has become ready since.
        tasks: all that were started in it, oldest first.
    """

    def __init__(self) -> None:
        self.context = copy_context()
        self.context.run(_group.set, self)
        self.is_paused = False
        self.is_dead = False
        self.held: list[_Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is a number, so that sets of tasks have the same order in every run.

    Attributes:
        cancelled_at: when it was cancelled first, if it was.
    """

    cancelled_at: float | None = None
    _number: int

    def __new__(cls, *_: Any, loop: "SimulationLoop", **__: Any) -> Self:
        """Number it, before asyncio puts it into a set of its own."""
        task = super().__new__(cls)
        task._number = next(loop.numbers)
        return task

    def __init__(self, coro: Any, **options: Any) -> None:
        super().__init__(coro, **options)
        context = options.get("context")
        group = _group.get() if context is None else context.get(_group)
        if group is not None:
            group.tasks.append(self)

    def __hash__(self) -> int:
        return self._number

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it, and note when."""
        if self.cancelled_at is None:
            self.cancelled_at = self.get_loop().time()
        return super().cancel(msg)


class _Handle(Struct, eq=False):
    """A handle without what is for debugging: thousands are made in every world."""

    callback: Callable[..., object] | None
    args: tuple[Any, ...]
    context: Context
    time: float

    def cancel(self) -> None:
        """Let it not run."""
        self.callback, self.args = None, ()

    def cancelled(self) -> bool:
        """Return whether it is not to run."""
        return self.callback is None

    def when(self) -> float:
        """Return the virtual time from which on it may run."""
        return self.time


class SimulationLoop(asyncio.BaseEventLoop):
    """Runs callbacks in an order drawn from ``rng``, in virtual time.

    asyncio promises that callbacks run in the order in which they were scheduled. Here they do
    not, as if every one of them came from a socket.

    Attributes:
        steps: how many callbacks have run.
        numbers: where tasks and timers get theirs from.
    """

    _stopping: bool  # Of asyncio's own.

    def __init__(self, rng: Random) -> None:
        super().__init__()
        # Both are called for every future, and these cost no call of Python code.
        self.get_debug = bool  # type: ignore[method-assign]
        self.create_future = partial(asyncio.Future, loop=self)  # type: ignore[method-assign]
        self.steps = 0
        self.numbers = itertools.count(1)
        self._random = rng.random
        self._elapsed = 0.0
        self._drawn_from: list[_Handle] = []
        self._timers: list[tuple[float, int, _Handle]] = []

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self._elapsed

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Let a callback be drawn from now on."""
        context = copy_context() if context is None else context
        handle = _Handle(callback, args, context, self._elapsed)
        self._drawn_from.append(handle)
        return handle  # type: ignore[return-value]

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Do the same as :meth:`call_soon`: there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Let a callback be drawn in ``delay`` seconds."""
        when = self._elapsed + delay
        context = copy_context() if context is None else context
        handle = _Handle(callback, args, context, when)
        heapq.heappush(self._timers, (when, next(self.numbers), handle))
        return handle  # type: ignore[return-value]

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Let a callback be drawn from a time on."""
        context = copy_context() if context is None else context
        handle = _Handle(callback, args, context, when)
        heapq.heappush(self._timers, (when, next(self.numbers), handle))
        return handle  # type: ignore[return-value]

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Start a task, which its group then knows."""
        return SimulatedTask(coro, loop=self, **options)

    def pause(self, group: Group) -> None:
        """Let no callback of a group run from now on."""
        group.is_paused = True

    def resume(self, group: Group) -> None:
        """Let a group go on where it was."""
        group.is_paused = False
        self._drawn_from += group.held
        group.held.clear()

    def kill(self, group: Group) -> None:
        """Let no callback of a group run again, until it is exhumed to be cancelled."""
        group.is_dead = True

    def exhume(self, group: Group) -> None:
        """Let a group go on, so that its tasks can be brought to an end."""
        group.is_dead = False
        self.resume(group)

    def _run_once(self) -> None:
        """Run callbacks until the loop is stopped; time jumps when none is ready."""
        ready, draw = self._drawn_from, self._random
        while not self._stopping:
            count = len(ready)
            if count > 1:
                place = int(draw() * count)
                handle = ready[place]
                ready[place] = ready[-1]
                del ready[-1]
            elif count:
                handle = ready.pop()
            else:
                self._jump()
                continue
            callback, context = handle.callback, handle.context
            if callback is None:
                continue
            group = context.get(_group)
            if group is not None and (group.is_paused or group.is_dead):
                group.held.append(handle)
                continue
            self.steps += 1
            try:
                context.run(callback, *handle.args)
            except Exception as error:  # noqa: BLE001 - a callback must not stop the others
                message = f"exception in callback {callback!r}"
                self.call_exception_handler({"message": message, "exception": error})

    def _jump(self) -> None:
        timers = self._timers
        while timers and timers[0][2].callback is None:
            heapq.heappop(timers)
        if not timers:
            raise DeadlockError("nothing is ready, and no timer is set")
        self._elapsed = now = max(self._elapsed, timers[0][0])
        while timers and timers[0][0] <= now:
            self._drawn_from.append(heapq.heappop(timers)[2])
