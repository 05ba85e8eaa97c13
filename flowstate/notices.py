"""What a running flow is told through its context."""

import asyncio

from msgspec import Struct

__all__ = ["Notice"]


# A Struct is made without a call of Python code, and one is made for every execution. It knows
# nothing of the execution, so that the two need no garbage collector.
class Notice(Struct, eq=False):
    """What those who execute a context tell its flow, which may run in a thread.

    Attributes:
        stop: set when the engine begins to stop; ``None`` outside an engine.
        is_given_up: nothing waits any longer for the call in a thread, which should end.
        is_superseded: others have moved the state on.
    """

    stop: asyncio.Event | None = None
    is_given_up: bool = False
    is_superseded: bool = False
    _superseded: asyncio.Event | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether the flow should end soon."""
        return self.is_given_up or (self.stop is not None and self.stop.is_set())

    def supersede(self) -> None:
        """Tell that others have moved the state on; in the event loop of the flow."""
        self.is_superseded = True
        if self._superseded is not None:
            self._superseded.set()

    async def wait_superseded(self) -> None:
        """Return when others move the state on."""
        if not self.is_superseded:
            self._superseded = self._superseded or asyncio.Event()
            await self._superseded.wait()
