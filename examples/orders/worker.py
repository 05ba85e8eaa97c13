"""One process of the service: takes orders that wait, fires timers, finishes what others began.

Run by ``__main__``, as often as it likes: ``python -m examples.orders.worker DATABASE``.
"""

import asyncio
import logging
import sys
from pathlib import Path

from examples.orders.flows import flows
from flowstate import Delayer, Engine
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.recovery import Recoverer

__all__ = ["serve"]

LEASE_SECONDS = 1.0


async def serve(database: str) -> None:
    """Work until the process is ended."""
    log = Path(database).with_name("workers.log")
    logging.basicConfig(filename=log, level=logging.INFO)
    async with (
        Engine(SQLiteDriver(database), flows, max_executions=16) as engine,
        Recoverer(engine, lease=LEASE_SECONDS, poll_interval=0.2),
        Delayer(engine, batch=16, lease=LEASE_SECONDS),
    ):
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(serve(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
