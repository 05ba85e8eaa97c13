"""A load by several processes on one store, one of which is killed in the middle."""

import asyncio
import base64
import contextlib
import os
import pickle
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from flowstate.clock import Clock, SystemClock
from flowstate.driver import Driver
from flowstate.testing.faults.worker import Worker
from flowstate.testing.histories.files import HistoryFile, read_records
from flowstate.testing.histories.history import History, Record
from flowstate.testing.histories.load import run_load
from flowstate.testing.histories.recorder import read_store

__all__ = ["CannotMoveError", "run_processes"]

PROCESSES = 3
PROGRAM = "flowstate.testing.histories.processes"
BEGUN, HALFWAY = "begun", "halfway"
TIME_LIMIT = 120.0

MakeDriver = Callable[[Clock], Driver]


class CannotMoveError(Exception):
    """What makes the driver objects cannot be given to another process."""


async def run_processes(
    make_driver: MakeDriver,
    folder: Path,
    *,
    operations: int,
    seed: int,
    processes: int = PROCESSES,
    time_limit: float = TIME_LIMIT,
) -> History:
    """Run a load in each of some processes, kill the first one halfway, and return the history.

    Args:
        make_driver: makes driver objects on one store, which is empty. It is pickled; what it
            needs must be importable in the other processes too.
        folder: empty; for the histories, and for what the processes write to stderr.
        operations: how many in each process.
        seed: of the chance.
        processes: how many.
        time_limit: seconds that each wait for one of them may take.

    Raises:
        CannotMoveError: ``make_driver`` cannot be pickled, or not be imported there.
        subprocess.CalledProcessError: a process has failed, other than by being killed.
        TimeoutError: a process has said nothing for too long.
    """
    moved = _pickled(make_driver)
    paths = [folder / f"history-{number}" for number in range(processes)]
    workers = [
        Worker(
            *("-m", PROGRAM, moved, path, operations, seed * processes + number),
            environment=_environment(),
            log=path.with_suffix(".log"),
            timeout=time_limit,
        )
        for number, path in enumerate(paths)
    ]
    async with make_driver(SystemClock()) as driver:
        async with contextlib.AsyncExitStack() as started:
            for worker in workers:
                await started.enter_async_context(worker)
            for worker, path in zip(workers, paths, strict=True):
                await _begun(worker, path.with_suffix(".log"))
            await asyncio.gather(_killed(workers[0]), *(each.finish() for each in workers[1:]))
        records, torn = read_records(paths)
        records += await read_store(driver, records)
    return History(records, torn=torn)


def _pickled(make_driver: MakeDriver) -> str:
    try:
        return base64.b64encode(pickle.dumps(make_driver)).decode()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise CannotMoveError(f"it cannot be pickled: {error}") from error


def _environment() -> Mapping[str, str]:
    """Return variables with which another process finds the same modules."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


async def _begun(worker: Worker, log: Path) -> None:
    try:
        await worker.said(BEGUN)
    except EOFError as error:
        lines = (await asyncio.to_thread(log.read_text)).splitlines()
        reason = lines[-1] if lines else "it gave no reason"
        raise CannotMoveError(f"another process cannot use it: {reason}") from error


async def _killed(worker: Worker) -> None:
    await worker.said(HALFWAY)
    worker.kill()
    await worker.ended()


class Halfway:
    """Writes records to a file, and says once when half of the operations are there."""

    def __init__(self, file: HistoryFile, operations: int) -> None:
        self._file = file
        self._left = operations // 2

    def append(self, record: Record) -> None:
        """Write a record."""
        self._file.append(record)
        self._left -= 1
        if not self._left:
            say(HALFWAY)


def say(word: str) -> None:
    """Tell the process that has started this one."""
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main(moved: str, path: str, operations: str, seed: str) -> None:
    """Do the load of one process."""
    make_driver: MakeDriver = pickle.loads(base64.b64decode(moved))  # noqa: S301 - from ourselves
    driver = make_driver(SystemClock())
    say(BEGUN)
    with HistoryFile(path) as file:
        record = Halfway(file, int(operations)).append
        await run_load([driver], record, operations=int(operations), seed=int(seed))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
