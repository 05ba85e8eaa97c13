"""Runs the order service: workers, two of which are killed, and the office that takes orders."""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process, create_subprocess_exec
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from zlib import crc32

from examples.orders.flows import BANK, OUTCOMES, STAGES, bank, flows, go, order_id, stock_id
from examples.orders.orders import Order, OrderFileError, read, sample
from examples.orders.proof import faults
from flowstate import (
    Commit,
    Engine,
    FlowRegistry,
    InvalidCommandError,
    Put,
    State,
    StateContext,
    Status,
)
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.recovery import set_retry_after

SAMPLE, STOCK = 800, 500
BETWEEN_ORDERS = 0.02  # Seconds. Customers come when they come.
WORKERS = KILLS = 2
RETRY_AFTER = timedelta(seconds=2)  # So that a killed process is not waited for for long.
PATIENCE = 60.0  # Seconds for which no order has to end.
WIDTH = 78
WRONG, REFUSED, INTERRUPTED = 1, 2, 130

office = FlowRegistry()
for flow in flows:
    office.declare(flow)  # The workers have it.


async def run(orders: Sequence[Order], folder: Path) -> int:
    """Let the orders be done, and look at the books; return the exit status."""
    os.environ[BANK] = str(folder / "bank.db")
    database = folder / "orders.db"
    async with Engine(SQLiteDriver(database), office) as engine:
        for item in {order.item for order in orders}:
            stock = StateContext(State(stock_id(item)))
            stock.put(STOCK)
            await engine.do(Commit(Put(stock)))
        async with crew(database) as workers, asyncio.TaskGroup() as group:
            helpers = [group.create_task(each) for each in (take(engine, orders), answer(engine))]
            trouble = await oversee(engine, workers, database, len(orders))
            for helper in helpers:
                helper.cancel()
        books = bank().books()
        wrong = [trouble] if trouble else await faults(engine, orders, STOCK, books)
    kinds = Counter(kind for entries in books.values() for kind, _ in entries)
    print(f"{len(orders):,} orders; the bank got {bank().calls():,} calls, and booked", end=" ")
    print(f"{kinds['charge']:,} charges and {kinds['refund']:,} refunds.")
    print("\n".join(wrong) or "Every order ended, no one was charged twice, the stock is right.")
    return WRONG if wrong else 0


async def take(engine: Engine, orders: Sequence[Order]) -> None:
    """Take the orders, one commit each; the workers execute them."""
    for order in orders:
        ctx = StateContext(State(order_id(order.id)))
        ctx.put(order)
        set_retry_after(ctx, RETRY_AFTER)
        await engine.start(ctx, go(ctx, "reserve").to)
        await asyncio.sleep(BETWEEN_ORDERS)


async def answer(engine: Engine) -> None:
    """Grant some large orders, refuse some, and leave some without an answer."""
    async with engine.watch(labels={"stage": "approve"}, status=Status.PAUSED) as waiting:
        async for state in waiting:
            mood = crc32(state.id.encode()) % 3
            if mood < 2:
                with contextlib.suppress(InvalidCommandError):  # Too late.
                    await engine.signal(state.id, "approval", mood == 0)


async def oversee(engine: Engine, workers: list[Process], database: Path, number: int) -> str:
    """Show the orders until all have ended, and kill a worker at each third; return any trouble."""
    names = (*STAGES, *OUTCOMES)
    print("seconds", *names, sep="  ")
    end = "\r" if sys.stdout.isatty() else "\n"  # A screen is not scrolled by each row.
    began = moved = time.monotonic()
    before, kills = -1, 0
    while before < number or kills < KILLS:
        await asyncio.sleep(0.5)
        counts = [await engine.count(labels={"stage": name}) for name in names]
        now, ended = time.monotonic(), sum(counts[len(STAGES) :])
        fields = [f"{now - began:7.1f}"]
        fields += [f"{n:{len(name)},}" for n, name in zip(counts, names, strict=True)]
        print(*fields, sep="  ", end=end, flush=True)
        if kills < KILLS and ended >= number * (kills + 1) // (KILLS + 1):
            workers[kills].kill()
            await workers[kills].wait()
            print(f"Killed worker {workers[kills].pid}; another one takes its place.".ljust(WIDTH))
            workers[kills] = await hire(database)
            kills += 1
        if lost := [worker.pid for worker in workers if worker.returncode is not None]:
            return f"Worker {lost[0]} has ended by itself."
        if ended > before:
            before, moved = ended, now
        elif now - moved > PATIENCE:
            return f"No order has ended for {PATIENCE:.0f} seconds."
    print(end="\n" if end == "\r" else "")
    return ""


@contextlib.asynccontextmanager
async def crew(database: Path) -> AsyncIterator[list[Process]]:
    """Have workers; kill them at the end, which does no harm."""
    workers: list[Process] = []
    try:
        for _ in range(WORKERS):
            workers += [await hire(database)]
        yield workers
    finally:
        for worker in workers:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()


async def hire(database: Path) -> Process:
    """Start a worker, which ends when this process does, and not by Ctrl-C."""
    command = (sys.executable, "-m", "examples.orders.worker", str(database))
    return await create_subprocess_exec(*command, stdin=PIPE, start_new_session=True)


def main() -> int:
    """Run the demo; return 0 if the books prove that all is right."""
    parser = argparse.ArgumentParser(prog="python -m examples.orders", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="of orders: id,item,quantity,cents")
    path = parser.parse_args().file
    try:
        orders = sample(SAMPLE, random.Random(1)) if path is None else read(path)
    except OrderFileError as error:
        print(error, file=sys.stderr)
        return REFUSED
    folder = Path(tempfile.mkdtemp(prefix="orders-"))
    status = WRONG
    try:
        status = asyncio.run(run(orders, folder))
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        status = INTERRUPTED
    finally:
        if status in {0, INTERRUPTED}:
            shutil.rmtree(folder)
        else:
            print(f"Look into {folder}.")
    return status


if __name__ == "__main__":
    sys.exit(main())
