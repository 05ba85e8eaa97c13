"""Where the figures of a run go: results.json, report.md and the pictures."""

import contextlib
from pathlib import Path

from benchmarks.records import Record, save
from benchmarks.report import report

__all__ = ["RESULTS", "save_results", "write_report"]

RESULTS = "results.json"
REPORT = "report.md"


def save_results(folder: Path, record: Record) -> None:
    """Write the record into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / RESULTS, record)


def write_report(folder: Path, record: Record) -> Path:
    """Write the report and its pictures; return where it is."""
    path = folder / REPORT
    path.write_text(report(record, _drawn(folder, record)))
    return path


def _drawn(folder: Path, record: Record) -> dict[str, str]:
    """Draw the pictures; none where matplotlib is not installed."""
    with contextlib.suppress(ModuleNotFoundError):
        from benchmarks.plots import draw  # noqa: PLC0415 - needs an extra

        return {name: path.name for name, path in draw(record, folder).items()}
    return {}
