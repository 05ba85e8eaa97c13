"""The report: Markdown, made of nothing but the record, so that it can be written again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from benchmarks import words
from benchmarks.figures import Check, Spread, checks, spread
from benchmarks.markdown import bullets, picture, table
from benchmarks.method import again, method
from benchmarks.records import Record, RecordedWorkload
from benchmarks.rows import Measured, Row, measured, rows
from benchmarks.table import summary

__all__ = ["report"]

STORES = {
    "memory": "In memory",
    "sqlite": "SQLite",
    "postgres": "Postgres",
    "redis": "Redis",
    "": "Without a store",
}
FIGURES = ("median (from to)", "rate", "99th percentile", "CPU", "statements")
COMPARED = ("workload", *FIGURES, "beside", "its median", "its CPU", "its statements")
JUDGED = ("ratio", "mark", "outcome")
CAPTIONS = {
    "concurrency": "Whiskers go from the slowest round to the fastest one, in all pictures.",
    "peers": "The scale is logarithmic: the numbers beside the bars say what their lengths do not.",
    "growth": "Both scales are logarithmic. A level line is a cost that does not grow.",
    "fan-out": "From the start of a commit until all watchers have it.",
}


def report(record: Record, pictures: Mapping[str, str]) -> str:
    """Return the text.

    Args:
        record: one run.
        pictures: the files of those that were drawn, relative to the report.
    """
    sections = [
        _head(record),
        _stores(record, pictures),
        _peers(record, pictures),
        _growth(record, pictures),
        _fan_out(pictures),
        _noise(record),
        _conditions(record),
        method(record),
        again(record),
    ]
    return "\n".join(chain.from_iterable(sections))


def _head(record: Record) -> Iterable[str]:
    machine = record.machine
    yield f"# Benchmarks: {record.settings.sizes.get('name', '')}"
    yield ""
    yield (
        f"flowstate {record.versions.get('flowstate')}, on {record.started}, "
        f"{record.seconds:,.0f} s, {machine.get('processor')}, {machine.get('usable cores')} cores."
    )
    if machine.get("file system") in {"tmpfs", "ramfs"}:
        yield "Files of SQLite were in memory, where syncing costs nothing: set TMPDIR to a disk."
    yield ""
    yield f"**{summary(record).capitalize()}.**"
    yield ""
    found = [check for workload in record.workloads for check in checks(workload)]
    yield from bullets(_shortfall(check) for check in found if not check.met)
    yield from bullets(f"failed: {failure}" for failure in record.failures)


def _shortfall(check: Check) -> str:
    parts = (check.told, check.asked, check.verdict)
    return f"{check.key}, {check.what}: {', '.join(part for part in parts if part)}"


def _stores(record: Record, pictures: Mapping[str, str]) -> Iterable[str]:
    for store, title in STORES.items():
        workloads = _of(record, lambda found, store=store: found.store == store)  # type: ignore[misc]
        if workloads:
            yield f"## {title}"
            yield ""
            yield from table((*COMPARED, *JUDGED), chain.from_iterable(map(_cells, workloads)))
    if "concurrency" in pictures:
        yield "## Throughput by concurrency"
        yield ""
        yield from picture("concurrency", pictures, CAPTIONS)


def _of(
    record: Record, wanted: Callable[[RecordedWorkload], bool], section: str = ""
) -> list[RecordedWorkload]:
    return [found for found in record.workloads if _section(found) == section and wanted(found)]


def _section(workload: RecordedWorkload) -> str:
    """Return what decides on the section: "peers", "growth", or "" for that of the store."""
    if any(side.role == "peer" for side in workload.others):
        return "peers"
    place = workload.ours.place
    return "growth" if place is not None and place.picture == "growth" else ""


def _cells(workload: RecordedWorkload) -> Iterable[Sequence[str]]:
    """Return a row for each comparison; what is measured itself stands in the first one."""
    ours = measured(workload, workload.ours)
    name = f"{workload.name}, for one {workload.unit}"
    first = (
        [name, *_figures(ours)]
        if ours.middle
        else [f"{name}: {ours.problem}", *_figures(Measured(""))]
    )
    for row in rows(workload) or [Row("", None)]:
        yield [*first, *_compared(row)]
        first = [""] * len(first)


def _figures(side: Measured) -> list[str]:
    middle = f"{side.middle} ({side.ends})" if side.middle else ""
    return [middle, side.rate, side.worst, side.cpu, side.statements]


def _compared(row: Row) -> list[str]:
    other = row.other or Measured("")
    ratio = " ".join(part for part in (row.ratio, row.interval) if part)
    middle = other.middle or other.problem
    return [
        row.beside,
        middle,
        other.cpu,
        other.statements,
        ratio,
        row.asked,
        row.verdict,
    ]


def _peers(record: Record, pictures: Mapping[str, str]) -> Iterable[str]:
    workloads = _of(record, lambda _: True, "peers")
    if not workloads:
        return
    yield "## Beside other libraries"
    yield ""
    yield "The last columns say how many times as fast flowstate is, round by round."
    yield ""
    for workload in workloads:
        yield f"### {workload.key}"
        yield ""
        head = (f"for one {workload.unit}", *FIGURES, "flowstate is as fast", *JUDGED[1:])
        yield from table(head, _peer_cells(workload))
    yield from picture("peers", pictures, CAPTIONS)


def _peer_cells(workload: RecordedWorkload) -> Iterable[Sequence[str]]:
    own = [row for row in rows(workload) if row.other is None]
    asked = ", ".join(f"{row.beside} {row.asked}" for row in own)
    verdict = ", ".join(row.verdict for row in own)
    ours = measured(workload, workload.ours)
    yield [f"**{ours.name}**", *_figures(ours), ours.problem, asked, verdict]
    for row in rows(workload):
        if row.other is not None:
            ratio = " ".join(part for part in (row.ratio, row.interval, row.other.problem) if part)
            yield [row.beside, *_figures(row.other), ratio, row.asked, row.verdict]


def _growth(record: Record, pictures: Mapping[str, str]) -> Iterable[str]:
    workloads = _of(record, lambda _: True, "growth")
    if not workloads:
        return
    yield "## Growth with the log"
    yield ""
    head = ("store", *COMPARED, *JUDGED)
    yield from table(
        head, ([found.store, *cells] for found in workloads for cells in _cells(found))
    )
    yield from picture("growth", pictures, CAPTIONS)


def _fan_out(pictures: Mapping[str, str]) -> Iterable[str]:
    if "fan-out" in pictures:
        yield "## From commit to watchers"
        yield ""
        yield from picture("fan-out", pictures, CAPTIONS)


def _noise(record: Record) -> Iterable[str]:
    yield "## Noise"
    yield ""
    yield (
        "How far rounds of the same work were apart. The limits are the store without flowstate, "
        "and the yardstick is a fixed loop of Python: what moves them is the machine."
    )
    yield ""
    head = ("what", "rounds", "median (from to)", "slowest by fastest")
    yield from table(head, _noise_cells(record))
    load = record.machine.get("load", {})
    yield from bullets(f"{name}: {value}" for name, value in load.items())


def _noise_cells(record: Record) -> Iterable[Sequence[str]]:
    lengths = [round_.yardstick for found in record.workloads for round_ in found.rounds]
    yield from _spread_cells("yardstick, CPU", len(lengths), spread(lengths))
    for workload in record.workloads:
        for side in workload.others:
            if side.role == "limit":
                values = [sample.value for sample in side.samples]
                name = f"{workload.key}: {side.name}"
                yield from _spread_cells(name, len(values), spread(values))


def _spread_cells(name: str, rounds: int, found: Spread | None) -> Iterable[Sequence[str]]:
    if found is not None:
        low, middle, high = map(words.duration, (found.low, found.median, found.high))
        apart = words.times(found.high / found.low) if found.low else ""
        yield [name, str(rounds), f"{middle} ({low} to {high})", apart]


def _conditions(record: Record) -> Iterable[str]:
    yield "## Machine, versions and settings"
    yield ""
    machine = {name: value for name, value in record.machine.items() if name != "load"}
    facts = {**machine, **record.versions}
    for store, settings in record.settings.servers.items():
        facts[f"server of {store}"] = ", ".join(f"{key} {value}" for key, value in settings.items())
    facts |= {"sizes": ", ".join(f"{key} {value}" for key, value in record.settings.sizes.items())}
    yield from table(("", ""), ([name, str(value)] for name, value in facts.items()))
