"""A process that wants to recover: ``python -m tests.recovery.candidate URL SCHEMA LEASE [hold]``.

It says ``ready``, ``leading`` and when, ``ran`` and which state and attempt, until its input ends.
With ``pulse`` instead it says with ``leading`` also from when until when the machine stood still.
With ``hold`` it says ``committing`` before it commits an attempt, and does that when it is told to;
then it says ``committed`` or ``refused`` and by which states.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Sequence

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    RevisionMismatchError,
    StateContext,
)
from flowstate.driver import Driver, Verdict, Writes
from flowstate.recovery import Recoverer, attempt
from flowstate.testcases.support import DriverWrapper
from tests.recovery.pulse import Pulse
from tests.recovery.stores import driver_on

__all__ = ["POLL_INTERVAL"]

POLL_INTERVAL = 0.1


def say(*words: object) -> None:
    """Write a line, at once and in one piece."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Holding(DriverWrapper):
    """Commits what a fence protects only when it is told to."""

    def __init__(self, driver: Driver, lines: asyncio.StreamReader) -> None:
        super().__init__(driver)
        self._lines = lines

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Say what is about to happen, and what came of it."""
        fenced = [number for number, writes in enumerate(batch) if writes.checks]
        if fenced:
            say("committing")
            await self._lines.readline()
        verdicts = await super().commit(batch)
        for number in fenced:
            verdict = verdicts[number]
            if isinstance(verdict, RevisionMismatchError):
                say("refused", *verdict.ids)
            else:
                say("committed")
        return verdicts


async def stand(url: str, schema: str, lease: float, *, hold: bool, pulse: bool) -> None:
    """Recover when it is our turn."""
    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        say("ran", ctx.committed.id, attempt(ctx.committed))
        return Commit(End(ctx))

    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    driver = driver_on(url, schema)
    async with (
        Pulse(url) if pulse else contextlib.nullcontext() as beating,
        Engine(Holding(driver, lines) if hold else driver, flows) as engine,
        Recoverer(engine, lease=lease, poll_interval=POLL_INTERVAL) as recoverer,
    ):
        leading = asyncio.create_task(_tell_when_leading(recoverer, beating))
        while not recoverer.leader:  # noqa: ASYNC110 - what has been seen sends no event
            await asyncio.sleep(0.01)  # reason: as above
        say("ready")
        while not lines.at_eof():  # noqa: ASYNC110 - the task that holds a commit reads the lines
            await asyncio.sleep(0.01)  # reason: as above
        leading.cancel()


async def _tell_when_leading(recoverer: Recoverer, pulse: Pulse | None) -> None:
    while True:
        await recoverer._lease.wait_held()
        when = time.monotonic()
        stretches = await pulse.stretches() if pulse else []
        say("leading", when, *(moment for stretch in stretches for moment in stretch))
        await recoverer._lease.wait_lost()


if __name__ == "__main__":
    url, schema, lease, *words = sys.argv[1:]
    asyncio.run(stand(url, schema, float(lease), hold="hold" in words, pulse="pulse" in words))
