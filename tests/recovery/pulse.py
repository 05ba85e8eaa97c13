"""When the machine or its server stood still, so that a test can tell their time from ours."""

import asyncio
import time
from types import TracebackType
from typing import Self

import psycopg

__all__ = ["Pulse", "stood_still"]

PAUSE = 0.01
USUAL = 0.05  # Seconds that a beat takes at most where nothing stands still.
# Written and synced like any commit, of a transaction that takes no lock and touches no table.
BEAT = "select pg_logical_emit_message(true, 'pulse', '')"

Stretch = tuple[float, float]  # From and until, by the monotonic clock of the machine.


class Pulse:
    """Sends the server something small all the time, and remembers when that took long.

    Time in which this process was computing is its own affair, and is not remembered.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._stretches: list[Stretch] = []
        self._beaten = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        await self.stretches()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def stretches(self) -> list[Stretch]:
        """Return when all has stood still so far, the beat that is on its way included."""
        async with self._beaten:
            await self._beaten.wait()
        return list(self._stretches)

    async def _run(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
            began, computed = time.monotonic(), time.process_time()
            while True:
                await connection.execute(BEAT)
                await asyncio.sleep(PAUSE)  # reason: it measures the machine's own time
                ended, busy = time.monotonic(), time.process_time()
                usual = USUAL + busy - computed
                if ended - began > usual:
                    self._stretches.append((began + usual, ended))
                began, computed = ended, busy
                async with self._beaten:
                    self._beaten.notify_all()


def stood_still(stretches: list[Stretch], began: float, ended: float) -> float:
    """Return for how many of these seconds all stood still."""
    return sum(max(0.0, min(until, ended) - max(since, began)) for since, until in stretches)
