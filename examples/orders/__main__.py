"""Runs the order service: two workers, which are killed in turn, and the one in charge."""

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from examples.orders.flows import STAGES, bank, flows, stock_id
from examples.orders.orders import ITEMS, Approval, Order, read, sample
from examples.orders.proof import faults
from flowstate import Commit, Engine, Pause, State, StateContext, Status
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.recovery import set_retry_after

__all__ = ["main"]

SAMPLE = 400
STOCK = 300
WORKERS = 2
RETRY_AFTER = timedelta(seconds=2)  # So that a killed process is not waited for for long.
LONGEST = 120.0
WRONG, INTERRUPTED = 1, 130


async def run(console: Console, orders: Sequence[Order], folder: Path) -> int:
    """Let the orders be done; return the exit status."""
    os.environ["ORDERS_BANK"] = str(folder / "bank.db")
    database = folder / "orders.db"
    began = time.monotonic()
    async with Engine(SQLiteDriver(database), flows) as engine:
        await open_shop(engine)
        workers = [await hire(database) for _ in range(WORKERS)]
        async with asyncio.TaskGroup() as group:
            helpers = [
                group.create_task(answer(engine)),
                group.create_task(show(console, engine)),
                group.create_task(kill(console, engine, workers, database, len(orders))),
            ]
            group.create_task(take(engine, orders))
            try:
                await wait_for_all(engine, len(orders))
            finally:
                for helper in helpers:
                    helper.cancel()
                for worker in workers:
                    if worker.returncode is None:
                        worker.terminate()
        console.print(f"{len(orders):,} orders ended in {time.monotonic() - began:.1f} s.")
        return await prove(console, engine, orders)


async def open_shop(engine: Engine) -> None:
    """Fill the stock."""
    for item in ITEMS:
        stock = StateContext(State(stock_id(item)))
        stock.put(STOCK)
        await engine.do(Commit(Pause(stock)))


async def take(engine: Engine, orders: Sequence[Order]) -> None:
    """Take the orders, one commit each; the workers execute them."""
    for order in orders:
        ctx = StateContext(State(order.id, labels={"kind": "order", "stage": "reserve"}))
        set_retry_after(ctx, RETRY_AFTER)
        ctx.put(order)
        await engine.start(ctx, "reserve", elsewhere=True)


async def answer(engine: Engine) -> None:
    """Grant some large orders, refuse some, and leave some without an answer."""
    async with engine.watch(labels={"stage": "approve"}, status=Status.PAUSED) as waiting:
        async for state in waiting:
            match int(state.id[-1]) % 3:
                case 0:
                    await engine.signal(state.id, "approval", Approval(True, "anna"))
                case 1:
                    await engine.signal(state.id, "approval", Approval(False, "anna"))


async def kill(
    console: Console,
    engine: Engine,
    workers: list[asyncio.subprocess.Process],
    database: Path,
    number: int,
) -> None:
    """Kill a worker when a third of the orders have ended, and another one at two thirds."""
    for place in range(WORKERS):
        await wait_for_all(engine, number * (place + 1) // 3)
        os.kill(workers[place].pid, signal.SIGKILL)
        await workers[place].wait()
        console.print(f"[bold]Killed[/] worker {workers[place].pid}; another one takes its place.")
        workers[place] = await hire(database)


async def hire(database: Path) -> asyncio.subprocess.Process:
    """Start a worker."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "examples.orders.worker", str(database)
    )


async def wait_for_all(engine: Engine, number: int) -> None:
    """Return when so many orders have ended.

    Raises:
        TimeoutError: they have not, although there was plenty of time.
    """
    async with asyncio.timeout(LONGEST), engine.watch(labels={"kind": "order"}) as states:
        ended: set[str] = set()
        while len(ended) < number:
            state = await anext(states)
            if state.status is Status.ENDED:
                ended.add(state.id)


async def show(console: Console, engine: Engine) -> None:
    """Show how many orders are at which stage."""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(await table(engine), refresh=console.is_terminal)
            await asyncio.sleep(0.25)  # A screen is not read faster.


async def table(engine: Engine) -> Table:
    """Return the number of orders at each stage, as the store counts them."""
    made = Table("stage", "orders")
    for stage in STAGES:
        made.add_row(stage, f"{await engine.count(labels={'stage': stage}):,}")
    return made


async def prove(console: Console, engine: Engine, orders: Sequence[Order]) -> int:
    """Print what became of the orders, and whether the books agree."""
    console.print(await table(engine))
    books = bank().books()
    wrong = await faults(engine, orders, STOCK, books)
    for fault in wrong:
        console.print(fault, style="red", markup=False)
    if wrong:
        return WRONG
    console.print(
        f"{books.calls:,} calls of the bank, {len(books.charges):,} charges, "
        f"{len(books.refunds):,} refunds: nobody was charged twice, and the stock is right."
    )
    return 0


def main() -> int:
    """Run the demo; return 0 if the books prove that all is right."""
    parser = argparse.ArgumentParser(prog="python -m examples.orders", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="of orders: id,item,quantity,cents")
    options = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    orders = sample(SAMPLE, random.Random(1)) if options.file is None else read(options.file)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return asyncio.run(run(console, orders, Path(folder)))
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
