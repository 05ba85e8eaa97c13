"""How often the disk of the run can promise that something is on it."""

import os

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import Sample

__all__ = ["FSYNC", "fsyncs"]

FSYNC = "fdatasync of 4 KiB"
PAGE = bytes(4096)
PAGES = 256


async def fsyncs(setting: Setting, count: int) -> Sample:
    """Write a page and wait until it is on the disk, again and again."""
    descriptor = os.open(setting.folder / "fsync", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # In place, as in a write-ahead log: a file that grows costs more.
        os.pwrite(descriptor, PAGE * PAGES, 0)
        os.fsync(descriptor)
        watch = Stopwatch()
        for number in range(count):
            os.pwrite(descriptor, PAGE, number % PAGES * len(PAGE))
            os.fdatasync(descriptor)
        return watch.sample(count)
    finally:
        os.close(descriptor)
