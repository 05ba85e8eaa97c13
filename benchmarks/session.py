"""One run from its beginning to its end."""

import tempfile
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
from msgspec import Struct

from benchmarks.catalogue import chosen, suites
from benchmarks.machine import Load, machine, versions
from benchmarks.output import save_results, write_report
from benchmarks.progress import watching
from benchmarks.records import SCHEMA, Record, RecordedWorkload, Settings
from benchmarks.runner import measure_all
from benchmarks.servers import server_settings
from benchmarks.setting import Setting
from benchmarks.sizes import Sizes

__all__ = ["Beginning", "Wanted", "made_setting", "run"]


class Wanted(Struct, frozen=True):
    """What is asked for.

    Attributes:
        sizes: how much of everything.
        only: a part of the keys of workloads.
        peers: whether other libraries are measured too.
        suites: the names of suites; none means all.
        seed: of the order of sides.
    """

    sizes: Sizes
    only: str = ""
    peers: bool = False
    suites: tuple[str, ...] = ()
    seed: int = 1


class Beginning:
    """What a record says of the time before the first round.

    Attributes:
        clock: when the run began, by ``perf_counter``.
    """

    def __init__(self) -> None:
        self.clock = perf_counter()
        self._started = datetime.now(UTC)
        self._load = Load()

    def record(
        self,
        setting: Setting,
        wanted: Wanted,
        workloads: list[RecordedWorkload],
        pair: str = "",
    ) -> Record:
        """Return the record of a run that ends now."""
        seconds = perf_counter() - self.clock
        settings = Settings(
            msgspec.json.decode(msgspec.json.encode(wanted.sizes)),
            wanted.only,
            wanted.peers,
            list(wanted.suites),
            wanted.seed,
            server_settings(setting),
            pair,
        )
        where: dict[str, Any] = {**machine(setting.folder), "load": self._load.since()}
        started = self._started.isoformat(timespec="seconds")
        return Record(SCHEMA, started, seconds, where, versions(), settings, workloads)


def made_setting(stack: AsyncExitStack, sizes: Sizes) -> Setting:
    """Return a setting whose folder is removed with the stack."""
    folder = tempfile.TemporaryDirectory(prefix="flowstate-benchmarks-")
    return Setting(sizes, stack, Path(stack.enter_context(folder)))


async def run(wanted: Wanted, output: Path) -> Record:
    """Measure, and write what came out before anything is cleared away; draw it afterwards.

    What was measured until it is interrupted is written, too.
    """
    found = suites(wanted.suites, peers=wanted.peers)
    records: list[RecordedWorkload] = []
    async with AsyncExitStack() as stack:
        setting = made_setting(stack, wanted.sizes)
        workloads = chosen(setting, found, wanted.only)
        beginning = Beginning()
        try:
            with watching(wanted.sizes.seconds) as watcher:
                async for measured in measure_all(
                    workloads, wanted.sizes, wanted.seed, beginning.clock, watcher
                ):
                    records.append(measured)  # noqa: PERF401 - keeps what came before
        finally:
            record = beginning.record(setting, wanted, records)
            save_results(output, record)
    write_report(output, record)
    return record
