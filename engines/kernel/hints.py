"""Hints that there is something to look at while the steps of a turn run."""

import asyncio
import contextlib

import attrs

from flowstate.context import StateContext
from flowstate.engine import Engine
from flowstate.errors import EngineStoppedError
from flowstate.mailboxes.mailbox import mailbox_id
from flowstate.tasks import cancel_and_wait, spawn, supervised

__all__ = ["Hints"]

AFTER = 0.25  # Seconds of a step; most are over by then, and need no watch.
LATE = 1.0  # Seconds of a turn of short steps; where many turns run at once, each takes longer.


@attrs.define(eq=False)
class Hints:
    """Watches the mailbox of an instance, from when a turn or a step has lasted for a while.

    Attributes:
        hint: set when there may be something new: messages, a stop of the engine, a commit of
            others.
        has_messages: whether the mailbox has changed.
    """

    _engine: Engine
    _ctx: StateContext
    hint: asyncio.Event = attrs.field(factory=asyncio.Event)
    has_messages: bool = False
    _began: float = attrs.field(init=False)
    _tasks: list["asyncio.Task[None]"] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self._began = self._engine.clock.monotonic()

    def begin_late(self) -> None:
        """Watch, if the turn has lasted for a while although each of its steps is short."""
        if not self._tasks and self._engine.clock.monotonic() - self._began > LATE:
            self.begin()

    def begin(self) -> None:
        """Watch, if that has not begun."""
        if not self._tasks:
            works = (self._watch(), self._wait_superseded(), self._wait_stopping())
            self._tasks = [spawn(work, "flowstate hints") for work in works]

    async def _watch(self) -> None:
        sleep, what = self._engine.clock.sleep, f"the watch of messages to {self._ctx.current.id!r}"
        await sleep(AFTER)
        await supervised(what, self._look, sleep)

    async def _look(self) -> None:
        """Note each change of the mailbox, until the engine stops."""
        id = mailbox_id(self._ctx.current.id)
        with contextlib.suppress(EngineStoppedError):
            async with self._engine.watch(id=id, since_latest=True) as states:
                async for _ in states:
                    self.has_messages = True
                    self.hint.set()

    async def _wait_superseded(self) -> None:
        await self._ctx.wait_superseded()
        self.hint.set()

    async def _wait_stopping(self) -> None:
        await self._ctx.wait_stopping()
        self.hint.set()

    async def close(self) -> None:
        """Watch no more."""
        if self._tasks:
            await cancel_and_wait(*self._tasks)
