"""What a run writes into its JSON file: everything that was measured, and where. See README.md."""

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from benchmarks.workload import Place, Sample, Workload

__all__ = [
    "SCHEMA",
    "Problem",
    "Record",
    "RecordedSide",
    "RecordedWorkload",
    "RecordsError",
    "Round",
    "Settings",
    "Taken",
    "load",
    "recorded",
    "save",
]

SCHEMA = 2
OURS = "flowstate"


class RecordsError(Exception):
    """A file is not what a run writes."""


class Taken(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One sample of one side.

    Attributes:
        round: which, from 0; samples of one round belong together.
        started: seconds from the start of the run.
        took: seconds until the measure returned, with what it prepared.
        value: as in ``Sample``, like all that follows.
    """

    round: int
    started: float
    took: float
    value: float
    cpu: float | None = None
    statements: float | None = None
    worst: float | None = None

    @classmethod
    def of(cls, number: int, started: float, took: float, sample: Sample) -> "Taken":
        """Return the sample with when it was taken."""
        return cls(number, started, took, sample.value, sample.cpu, sample.statements, sample.worst)


class Problem(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a side has not been measured, or no further.

    Attributes:
        kind: "not installed" is no failure; "failed" is one.
        text: what was raised.
    """

    kind: Literal["not installed", "failed"]
    text: str


class RecordedSide(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One side of a workload, with its samples in the order of rounds."""

    name: str
    role: Literal["ours", "limit", "peer", "small"]
    mark: float | None = None
    place: Place | None = None
    samples: list[Taken] = msgspec.field(default_factory=list)
    problem: Problem | None = None


class Round(Struct, frozen=True, forbid_unknown_fields=True):
    """One round of a workload.

    Attributes:
        started: seconds from the start of the run.
        yardstick: CPU seconds of a fixed loop of Python, which say how fast the processor was.
    """

    started: float
    yardstick: float


class RecordedWorkload(Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One workload; the first of its sides is ours."""

    name: str
    store: str
    unit: str
    quantity: Literal["seconds", "bytes"]
    sides: list[RecordedSide]
    rounds: list[Round]
    cpu_mark: float | None = None
    worst_mark: float | None = None

    @property
    def key(self) -> str:
        """What names it."""
        return f"{self.store}: {self.name}" if self.store else self.name

    @property
    def ours(self) -> RecordedSide:
        """The side of flowstate."""
        return self.sides[0]

    @property
    def others(self) -> list[RecordedSide]:
        """What it is compared with."""
        return self.sides[1:]


class Settings(Struct, forbid_unknown_fields=True):
    """What the run was asked for.

    Attributes:
        sizes: every amount, by name.
        only: a part of the names of what was measured.
        peers: whether other libraries were asked for.
        suites: whose workloads were measured; none means all.
        seed: of the order of sides.
        servers: for each server, the settings that matter.
        pair: names the other run with whose rounds these took turns; "" if there is none.
    """

    sizes: dict[str, Any]
    only: str
    peers: bool
    suites: list[str]
    seed: int
    servers: dict[str, dict[str, str]]
    pair: str = ""


class Record(Struct, forbid_unknown_fields=True):
    """One run.

    Attributes:
        schema: the version of this format.
        started: in UTC, by ISO 8601.
        seconds: that the run took.
        machine: where it ran, and how busy that was.
        versions: of everything that took part.
        settings: what it was asked for.
        workloads: what was measured, in order.
    """

    schema: int
    started: str
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    settings: Settings
    workloads: list[RecordedWorkload]

    @property
    def failures(self) -> list[str]:
        """What failed, by the keys of workloads and the names of sides."""
        return [
            f"{workload.key}, {side.name}: {side.problem.text}"
            for workload in self.workloads
            for side in workload.sides
            if side.problem is not None and side.problem.kind == "failed"
        ]


def recorded(workload: Workload) -> RecordedWorkload:
    """Return what will hold the samples of a workload."""
    ours = RecordedSide(OURS, "ours", workload.mark, workload.place)
    others = [RecordedSide(side.name, side.role, side.mark, side.place) for side in workload.others]
    return RecordedWorkload(
        workload.name,
        workload.store,
        workload.unit,
        workload.quantity,
        [ours, *others],
        [],
        workload.cpu_mark,
        workload.worst_mark,
    )


def save(path: Path, record: Record) -> None:
    """Write the file."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))


def load(path: Path) -> Record:
    """Read what ``save`` has written.

    Raises:
        RecordsError: it is of another version, or none of these files.
    """
    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError) as error:
        raise RecordsError(f"{path}: {error}") from error
    if record.schema != SCHEMA:
        raise RecordsError(f"{path} has schema {record.schema}, not {SCHEMA}")
    return record
