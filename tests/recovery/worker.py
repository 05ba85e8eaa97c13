"""A worker: ``python -m tests.recovery.worker URL SCHEMA JOURNAL``.

It executes the revisions that it reads, an id and a number a line, and everything else that an
engine, a recoverer and a delayer find to do, until its input ends.
"""

import asyncio
import contextlib
import logging
import sys
from pathlib import Path

from flowstate import Delayer, DriverError, Engine, Execute, StateContext
from flowstate.recovery import Recoverer
from tests.recovery.jobs import flows_of
from tests.recovery.journal import Journal
from tests.recovery.stores import driver_on

__all__ = ["LEASE", "POLL_INTERVAL"]

LEASE = 2.0
POLL_INTERVAL = 0.25
MOST_AT_ONCE = 30  # Heartbeats wait for a connection behind what the flows ask.


async def work(url: str, schema: str, journal: Path) -> None:
    """Execute, recover and fire delays."""
    flows = flows_of(Journal(journal))
    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    async with (
        Engine(
            driver_on(url, schema), flows, name=journal.stem, max_executions=MOST_AT_ONCE
        ) as engine,
        Recoverer(engine, lease=LEASE, poll_interval=POLL_INTERVAL),
        Delayer(engine, poll_interval=POLL_INTERVAL),
    ):
        async for line in lines:
            id, rev = line.decode().split()
            # Not the latest one, which another worker may execute by now.
            with contextlib.suppress(DriverError):  # A busy store's; it is recovered then.
                state = await engine.get_state(id, int(rev))
                await engine.do(Execute(StateContext(state)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(work(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
