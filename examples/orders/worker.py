"""One process of the service: takes orders that wait, fires timers, finishes what others began.

Run by ``__main__``, until its standard input ends: ``python -m examples.orders.worker DATABASE``.
"""

import asyncio
import logging
import sys
from pathlib import Path

from examples.orders.flows import flows
from flowstate import Delayer, Engine
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.recovery import Recoverer

LEASE_SECONDS = 1.0  # So that what a killed process had is not waited for for long.


async def serve(database: str) -> None:
    """Work until the one who started this process is gone."""
    log = Path(database).with_name("workers.log")
    logging.basicConfig(filename=log, level=logging.INFO)
    async with (
        Engine(SQLiteDriver(database), flows, max_executions=16) as engine,
        Recoverer(engine, lease=LEASE_SECONDS, poll_interval=0.2),
        Delayer(engine, batch=16, lease=LEASE_SECONDS),
    ):
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
