"""What the store holds at the end, beside the same figures computed without flowstate."""

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct, json
from rich.console import Console
from rich.table import Table

from examples.ingest.files import Selection, name_of
from examples.ingest.flows import FILES
from examples.ingest.measure import OUTCOMES, Figures, figures_of, sums
from flowstate import Engine, StateContext, Status

__all__ = ["Result", "ingested", "plain_pass", "show_comparison"]

ROWS = ("files", *OUTCOMES, "bytes", "lines", "functions", "classes", "imports")
DIFFERENCES_SHOWN = 5


class Result(Struct, frozen=True):
    """What a job has stored.

    Attributes:
        figures: of each file, by the id of its state.
        ended: how often each file ended.
        revisions: how many the log has.
    """

    figures: Mapping[str, Figures]
    ended: Counter[str]
    revisions: int


async def ingested(engine: Engine) -> Result:
    """Read the figures of every file that has ended from the whole log, not its latest part."""
    figures: dict[str, Figures] = {}
    ended: Counter[str] = Counter()
    async for state in engine.states(labels=FILES, status=Status.ENDED):
        stored = await engine.get_data(StateContext(state), "figures")
        figures[state.id] = json.decode(stored.blob, type=Figures)
        ended[state.id] += 1
    return Result(figures, ended, await engine.head())


def plain_pass(selection: Selection) -> dict[str, Figures]:
    """Compute the same figures in one plain loop."""
    return {name_of(path, selection.folder): figures_of(path) for path in selection.paths()}


def show_comparison(console: Console, result: Result, plain: Mapping[str, Figures]) -> bool:
    """Print the totals side by side and what differs; return whether nothing does."""
    console.print(_table(sums(result.figures.values()), sums(plain.values())))
    twice = [name for name, times in result.ended.items() if times > 1]
    names = sorted({*result.figures, *plain})
    differing = [name for name in names if result.figures.get(name) != plain.get(name)]
    for name in differing[:DIFFERENCES_SHOWN]:
        found, expected = result.figures.get(name, "missing"), plain.get(name, "missing")
        console.print(f"{name!r}: {found}, but the plain pass says {expected}", markup=False)
    for name in twice[:DIFFERENCES_SHOWN]:
        console.print(f"{name!r} has ended {result.ended[name]} times", markup=False)
    if differing or twice:
        console.print(f"[bold red]Not equal:[/] {len(differing)} differ, {len(twice)} are doubled.")
        console.print("A file that was changed while the job ran also counts as different.")
        return False
    console.print("[bold green]Equal:[/] every file ended once, and all figures agree.")
    return True


def _table(stored: Counter[str], plain: Counter[str]) -> Table:
    table = Table("", title="Totals", title_justify="left")
    table.add_column("flowstate", justify="right")
    table.add_column("plain pass", justify="right")
    for row in ROWS:
        if stored[row] or plain[row] or row == "files":
            style = None if stored[row] == plain[row] else "red"
            table.add_row(row, f"{stored[row]:,}", f"{plain[row]:,}", style=style)
    return table
