"""Hints that there is something to look at while the steps of a turn run."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import attrs

from flowstate import Engine, EngineStoppedError, FlowstateError, StateContext, mailbox_id

__all__ = ["Hints"]

logger = logging.getLogger("flowstate.engines")

AFTER = 0.25  # Seconds of a step; most are over by then, and need no watch.
LATE = 1.0  # Seconds of a turn of short steps; where many turns run at once, each takes longer.
LONGEST = 30.0  # Seconds after a failure; they grow.


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
        if self._engine.clock.monotonic() - self._began > LATE:
            self.begin()

    def begin(self) -> None:
        """Watch, if that has not begun."""
        if not self._tasks:
            stopping, superseded = self._ctx.wait_stopping, self._ctx.wait_superseded
            works = self._watch(), self._set_after(stopping), self._set_after(superseded)
            self._tasks = [asyncio.create_task(work, name="flowstate hints") for work in works]

    async def _watch(self) -> None:
        id, pause = self._ctx.current.id, AFTER
        while True:
            await self._engine.clock.sleep(pause)
            try:
                await self._look(mailbox_id(id))
            except EngineStoppedError:
                return
            except FlowstateError as error:
                text = "the watch of messages to %r failed, and begins again: %s"
                logger.warning(text, id, error, extra={"state_id": id})
                pause = min(2 * pause, LONGEST)

    async def _look(self, mailbox: str) -> None:
        async with self._engine.watch(id=mailbox, since_latest=True) as states:
            async for _ in states:
                self.has_messages = True
                self.hint.set()

    async def _set_after(self, event: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await event()
        self.hint.set()

    async def close(self) -> None:
        """Watch no more."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
