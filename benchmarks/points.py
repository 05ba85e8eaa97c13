"""What the pictures show, as numbers: panels of lines and bars, taken from a record."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from benchmarks.figures import Spread, spread
from benchmarks.records import Record, RecordedSide, RecordedWorkload, Taken
from benchmarks.workload import Place

__all__ = ["Bar", "Line", "Panel", "bar_panels", "line_panels"]

Take = Callable[[Taken], float | None]


class Line(Struct):
    """One line.

    Attributes:
        name: in the legend.
        ours: whether it is of flowstate; else it is of what the store can do.
        points: how far to the right, and the spread over the rounds.
    """

    name: str
    ours: bool
    points: list[tuple[float, Spread]]


class Panel(Struct):
    """Some lines over one pair of axes."""

    title: str
    unit: str
    lines: list[Line]


class Bar(Struct, frozen=True):
    """One bar: units in a second."""

    name: str
    ours: bool
    rate: Spread


def line_panels(
    record: Record, picture: str, title: Callable[[RecordedWorkload], str], take: Take
) -> list[Panel]:
    """Return the panels of a picture, in the order of workloads.

    Args:
        record: has the samples.
        picture: the one of these places.
        title: says in which panel a workload is.
        take: a figure of a sample.
    """
    panels: dict[str, Panel] = {}
    for workload, side, place in _placed(record, picture):
        found = spread(map(take, side.samples))
        if found is not None:
            name = title(workload)
            panel = panels.setdefault(name, Panel(name, workload.unit, []))
            if picture == "concurrency" and panel.unit != workload.unit:
                continue
            line = _line(panel, _line_name(workload, side, place), side.role in {"ours", "small"})
            line.points.append((place.at, found))
    for panel in panels.values():
        for line in panel.lines:
            line.points.sort(key=lambda point: point[0])
    return list(panels.values())


def bar_panels(record: Record) -> dict[str, list[Bar]]:
    """Return, for each workload with a place among the peers, a bar for each side."""
    found: dict[str, list[Bar]] = {}
    for workload, side, _ in _placed(record, "peers"):
        rate = spread(1 / sample.value for sample in side.samples)
        if rate is not None:
            title = f"{workload.key} ({workload.unit}s per second)"
            found.setdefault(title, []).append(Bar(side.name, side.role == "ours", rate))
    return {title: bars for title, bars in found.items() if len(bars) > 1}


def _placed(record: Record, picture: str) -> Iterator[tuple[RecordedWorkload, RecordedSide, Place]]:
    for workload in record.workloads:
        for side in workload.sides:
            place = side.place or _inherited(workload, side)
            if place is not None and place.picture == picture:
                yield workload, side, place


def _inherited(workload: RecordedWorkload, side: RecordedSide) -> Place | None:
    """Return where a side stands that says nothing: where ours does, on a line of its own."""
    place = workload.ours.place
    if place is None or place.picture not in {"concurrency", "peers"} or side.role == "small":
        return None
    return Place(place.picture, place.at)


def _line_name(workload: RecordedWorkload, side: RecordedSide, place: Place) -> str:
    """Return the name in the legend; the small log is on the line of the large one."""
    if place.picture == "fan-out":
        return workload.store
    if side.role == "small" and workload.ours.place is not None:
        return place.line or workload.ours.place.line or workload.name
    return place.line or side.name


def _line(panel: Panel, name: str, ours: bool) -> Line:
    for line in panel.lines:
        if line.name == name:
            return line
    panel.lines.append(Line(name, ours, []))
    return panel.lines[-1]
