"""Says while a run goes on where it is: a bar on a terminal, lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from benchmarks.records import RecordedWorkload
from benchmarks.runner import Watcher
from benchmarks.table import workload_lines
from benchmarks.workload import Workload

__all__ = ["watching"]


@contextmanager
def watching(seconds: float) -> Iterator[Watcher]:
    """Return whom a run may tell of its progress.

    Args:
        seconds: that the run should take.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress, perf_counter() + seconds)


class _Lines:
    """Prints what came out as soon as it is known."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, workload: Workload, number: int, total: int) -> None:
        self._console.print(f"{number}/{total} {workload.key}")

    def say(self, side: str, number: int) -> None:
        pass

    def end(self, record: RecordedWorkload) -> None:
        for line in workload_lines(record):
            self._console.print(line)


class _Bar:
    """Draws a bar below what came out so far."""

    def __init__(self, progress: Progress, end: float) -> None:
        self._progress = progress
        self._end = end
        self._key = ""
        self._task: TaskID = progress.add_task("", total=None, left="")

    def begin(self, workload: Workload, number: int, total: int) -> None:
        self._key = workload.key
        self._progress.update(self._task, total=total, completed=number - 1)

    def say(self, side: str, number: int) -> None:
        left = max(0, round(self._end - perf_counter()))
        self._progress.update(
            self._task,
            description=f"{self._key}, round {number}: {side}",
            left=f"{left // 60}:{left % 60:02} left",
        )

    def end(self, record: RecordedWorkload) -> None:
        self._progress.advance(self._task)
        for line in workload_lines(record):
            self._progress.console.print(line)
