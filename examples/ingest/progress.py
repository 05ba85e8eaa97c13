"""A progress bar on a terminal; anywhere else a line for every tenth."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["progress"]


@contextmanager
def progress(
    console: Console, title: str, total: int, done: int
) -> Iterator[Callable[[int], None]]:
    """Show how much is done; what this yields is to be called with the number."""
    if console.is_terminal:
        columns = TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, completed=done)
            yield lambda done: bar.update(task, completed=done)
    else:
        yield _lines(title, total, done)


def _lines(title: str, total: int, done: int) -> Callable[[int], None]:
    shown = done * 10 // total

    def show(done: int) -> None:
        nonlocal shown
        if done * 10 // total > shown:
            shown = done * 10 // total
            print(f"{title} {done}/{total}", flush=True)

    return show
