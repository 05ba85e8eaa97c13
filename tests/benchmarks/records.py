"""Records made of samples that somebody has thought up."""

from collections.abc import Sequence
from random import Random

from benchmarks.records import (
    SCHEMA,
    Record,
    RecordedSide,
    RecordedWorkload,
    Round,
    Settings,
    Taken,
)

__all__ = ["noisy", "record", "side", "workload"]

YARDSTICK = 0.004


def noisy(random: Random, value: float, count: int, spread: float = 0.15) -> list[float]:
    """Return samples with much noise above, and some of them far off."""
    return [
        value * random.lognormvariate(0, spread) * (1.5 if random.random() < 0.1 else 1.0)
        for _ in range(count)
    ]


def side(
    values: Sequence[float],
    name: str = "flowstate",
    *,
    cpus: Sequence[float | None] = (),
    statements: float | None = None,
    mark: float | None = None,
) -> RecordedSide:
    """Return a side with a sample for each round."""
    found = list(cpus) or [None] * len(values)
    samples = [
        Taken(number, float(number), 0.1, value, cpu, statements)
        for number, (value, cpu) in enumerate(zip(values, found, strict=True))
    ]
    role = "ours" if name == "flowstate" else "limit"
    return RecordedSide(name, role, mark, None, samples)  # type: ignore[arg-type]


def workload(*sides: RecordedSide, name: str = "commits") -> RecordedWorkload:
    """Return a workload whose rounds all found the same machine."""
    rounds = [Round(float(number), YARDSTICK) for number in range(len(sides[0].samples))]
    return RecordedWorkload(name, "sqlite", "commit", "seconds", list(sides), rounds)


def record(*workloads: RecordedWorkload, pair: str = "") -> Record:
    """Return a run of them."""
    settings = Settings({"name": "quick"}, "", False, [], 1, {}, pair)
    return Record(SCHEMA, "2026-01-01T00:00:00+00:00", 1.0, {}, {}, settings, list(workloads))
