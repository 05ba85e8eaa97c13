"""Runs the demo: a worker that kills itself, one that goes on, and the comparison."""

import argparse
import asyncio
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

from rich.console import Console

from examples.ingest.files import Selection, standard_library
from examples.ingest.flows import JOB_ID, flows
from examples.ingest.report import Result, ingested, plain_pass, show_comparison
from examples.ingest.store import ForeignFileError, prepare
from flowstate import DriverError, Engine
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["main"]

KILLED = -signal.SIGKILL
WRONG, REFUSED, INTERRUPTED = 1, 2, 130


def main() -> int:
    """Run the demo; return 0 when no result was lost, doubled or changed."""
    options = _parse()
    warnings.simplefilter("ignore")  # About the files that are measured.
    console = Console(soft_wrap=True, highlight=False)
    database = options.database.absolute()
    if options.folder is None:
        selection = standard_library(database)
    else:
        selection = Selection(options.folder.resolve(), database)
    try:
        console.print(asyncio.run(prepare(selection)), markup=False)
        return _run(console, selection, options)
    except (ForeignFileError, DriverError) as error:
        console.print(f"{error}. Name another --database.", markup=False)
        return REFUSED
    except KeyboardInterrupt:
        console.show_cursor()
        console.print("Stopped. The same command goes on from here.")
        return INTERRUPTED


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.ingest", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, help="what to measure (default: the standard library)"
    )
    parser.add_argument("--database", type=Path, default=Path("flowstate-demo.db"), metavar="FILE")
    parser.add_argument("--workers", type=int, default=32, help="how many files at a time")
    parser.add_argument("--no-crash", action="store_true", help="do without the kill")
    options = parser.parse_args()
    if options.folder is not None and not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    if options.workers < 1:
        parser.error("--workers must be at least 1")
    return options


def _run(console: Console, selection: Selection, options: argparse.Namespace) -> int:
    console.print(f"Measuring the files in {selection.folder}", markup=False)
    started = time.perf_counter()
    if not _finish_job(console, selection.database, options.workers, crash=not options.no_crash):
        console.print("A worker failed.")
        return WRONG
    seconds = time.perf_counter() - started
    result = asyncio.run(_read_result(selection.database))
    console.print(f"{result.revisions:,} revisions in {seconds:.1f} s. Comparing ...")
    equal = show_comparison(console, result, plain_pass(selection))
    _suggest(console, options.database, result)
    return 0 if equal else WRONG


def _finish_job(console: Console, database: Path, workers: int, *, crash: bool) -> bool:
    """Run one process, and if that was killed a second one; return whether the job is done."""
    status = _run_worker(database, workers, crash=crash)
    if crash and status == KILLED:
        if console.is_terminal:
            console.show_cursor()  # The dead process had hidden it.
            console.print()
        console.print("[bold]Killed[/] (SIGKILL). A second process goes on from the log.")
        status = _run_worker(database, workers, crash=False)
    return status == 0


def _run_worker(database: Path, workers: int, *, crash: bool) -> int:
    command = [sys.executable, "-m", "examples.ingest.worker", str(database)]
    command += ["--workers", str(workers), *(["--crash"] if crash else [])]
    return subprocess.run(command, check=False).returncode


async def _read_result(database: Path) -> Result:
    async with Engine(SQLiteDriver(database), flows) as engine:
        return await ingested(engine)


def _suggest(console: Console, database: Path, result: Result) -> None:
    """Print commands that look into the store; the file to look at is the one with most in it."""
    names = [name for name in result.figures if not name.startswith("-")]
    name = max(names, key=lambda name: result.figures[name].functions, default=JOB_ID)
    queries = [["states", "--status", "ended", "--limit", "5"], ["history", name]]
    if name != JOB_ID:
        queries.append(["data", name])
    console.print("Look into it:")
    for query in queries:
        command = [_python(), "-m", "examples.ingest.look", str(database), *query]
        console.print(f"  {shlex.join(command)}", markup=False)


def _python() -> str:
    """Return how to call this interpreter from here."""
    path = os.path.relpath(sys.executable)
    return sys.executable if path.startswith(os.pardir) else path


if __name__ == "__main__":
    sys.exit(main())
