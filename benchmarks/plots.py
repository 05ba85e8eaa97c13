"""The pictures of the report: PNG, told apart by marks, lines and hatches, never by colour."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.points import Bar, Line, Panel, bar_panels, line_panels
from benchmarks.records import Record, RecordedWorkload, Taken

__all__ = ["draw"]

STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.size": 9,
    "grid.color": "0.88",
    "hatch.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
}
DOTS_PER_INCH = 120
WIDE = 300.0  # times as far as it begins, an axis has no room for more than powers of ten
WIDTH, HEIGHT, BAR = 4.4, 3.9, 0.32  # inches
ABREAST = 2
MARKERS = ("o", "s", "D", "v", "P", "X", "^")
DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 3)))
HATCHES = ("////", "....", "xxxx", "----", "\\\\\\\\", "++++", "oooo", "||||")


def draw(record: Record, folder: Path) -> dict[str, Path]:
    """Draw what there are figures for, and return the files by the names of pictures."""
    drawn = {}
    with mpl.rc_context(STYLE):
        for name, picture in PICTURES.items():
            figure = picture(record)
            if figure is not None:
                drawn[name] = folder / f"{name}.png"
                figure.savefig(drawn[name], dpi=DOTS_PER_INCH, metadata={"Software": None})
    return drawn


def _concurrency(record: Record) -> Figure | None:
    panels = line_panels(record, "concurrency", _store, lambda sample: 1 / sample.value)
    return _lined(panels, "tasks at once", "{unit}s per second")


def _growth(record: Record) -> Figure | None:
    panels = line_panels(record, "growth", _store, _milliseconds)
    return _lined(panels, "revisions in the log", "milliseconds for one operation")


def _fan_out(record: Record) -> Figure | None:
    kinds: dict[str, Callable[[Taken], float | None]] = {
        "median": _milliseconds,
        "99th percentile": lambda sample: None if sample.worst is None else 1e3 * sample.worst,
    }
    panels = []
    for title, take in kinds.items():
        panels += line_panels(record, "fan-out", lambda _, title=title: title, take)  # type: ignore[misc]
    return _lined(panels, "watchers", "milliseconds from commit to watcher")


def _peers(record: Record) -> Figure | None:
    groups = bar_panels(record)
    if not groups:
        return None
    heights = [BAR * len(bars) + 0.6 for bars in groups.values()]
    figure = Figure(figsize=(1.7 * WIDTH, sum(heights)), layout="constrained")
    axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for place, (title, bars) in zip(axes, groups.items(), strict=True):
        _bars(place, title, bars)
    return figure


PICTURES: dict[str, Callable[[Record], Figure | None]] = {
    "concurrency": _concurrency,
    "peers": _peers,
    "growth": _growth,
    "fan-out": _fan_out,
}


def _lined(panels: Sequence[Panel], across: str, upward: str) -> Figure | None:
    """Draw panels side by side, with logarithmic axes and the legend of each below it."""
    if not panels:
        return None
    columns = min(ABREAST, len(panels))
    lines = -(-len(panels) // columns)
    size = (WIDTH * columns, HEIGHT * lines)
    figure = Figure(figsize=size, layout="constrained")
    places = figure.subplots(lines, columns, squeeze=False).flat
    for panel, place in zip(panels, places, strict=False):
        _lines(place, panel.lines)
        place.set(title=panel.title, xlabel=across, ylabel=upward.format(unit=panel.unit))
        _scale(place, panel.lines)
    for place in list(places)[len(panels) :]:
        place.remove()
    return figure


def _lines(place: Axes, lines: Sequence[Line]) -> None:
    markers, dashes = cycle(MARKERS), cycle(DASHES)
    for line in lines:
        xs = [x for x, _ in line.points]
        ys = [y.median for _, y in line.points]
        below = [y.median - y.low for _, y in line.points]
        above = [y.high - y.median for _, y in line.points]
        place.errorbar(
            xs,
            ys,
            [below, above],
            label=line.name,
            color="0.1" if line.ours else "0.45",
            linestyle=next(dashes),
            marker=next(markers),
            markerfacecolor="0.1" if line.ours else "1",
            capsize=2,
            elinewidth=0.7,
        )


def _scale(place: Axes, lines: Sequence[Line]) -> None:
    place.set_xscale("log")
    ticks = sorted({x for line in lines for x, _ in line.points})
    place.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    place.set_xticks([], minor=True)
    place.margins(x=0.12)
    place.set_yscale("log")
    _plain_ticks(place.yaxis)
    handles, names = place.get_legend_handles_labels()
    points = [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles]
    place.legend(points, names, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=ABREAST)


def _bars(place: Axes, title: str, bars: Sequence[Bar]) -> None:
    hatches = cycle(HATCHES)
    for depth, bar in enumerate(bars):
        rate = bar.rate
        place.barh(
            depth,
            rate.median,
            xerr=[[rate.median - rate.low], [rate.high - rate.median]],
            color="0.35" if bar.ours else "0.95",
            edgecolor="0.1",
            hatch=None if bar.ours else next(hatches),
            error_kw={"capsize": 2, "elinewidth": 0.8},
        )
        place.annotate(
            f"  {rate.median:,.0f}", (rate.high, depth), va="center", fontsize=8, clip_on=False
        )
    place.set_yticks(range(len(bars)), [bar.name for bar in bars])
    place.invert_yaxis()
    place.set_xscale("log")
    place.set_xlim(left=min(bar.rate.low for bar in bars) / 3)
    _plain_ticks(place.xaxis)
    place.set_title(title, loc="left")
    place.grid(axis="y", visible=False)


def _plain_ticks(axis: Axis) -> None:
    """Write numbers instead of powers, on an axis that may be shorter than one power of ten."""
    low, high = axis.get_view_interval()
    steps = (1.0, 2.0, 5.0) if high < WIDE * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.set_minor_formatter(NullFormatter())


def _store(workload: RecordedWorkload) -> str:
    return workload.store


def _milliseconds(sample: Taken) -> float:
    return 1e3 * sample.value
