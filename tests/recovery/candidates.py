"""Processes that want to recover, as the tests see them."""

from pathlib import Path

from flowstate.testing.faults import Worker

__all__ = ["candidate"]

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 20.0


def candidate(url: str, schema: str, lease: float, *words: str) -> Worker:
    """Return a process that runs candidate.py, not started yet."""
    program = "tests.recovery.candidate"
    return Worker("-m", program, url, schema, lease, *words, folder=ROOT, timeout=TIME_LIMIT)
