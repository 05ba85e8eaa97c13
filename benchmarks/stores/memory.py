"""The memory driver. Nothing is faster than its commits, so it is filled by them."""

import gc
from contextlib import AbstractContextManager, nullcontext
from weakref import WeakValueDictionary

from benchmarks.setting import Setting
from benchmarks.stopwatch import Counter
from benchmarks.stores.filling import commit_all, writes
from benchmarks.stores.store import Address, Store, StoreName
from flowstate import Driver
from flowstate.driver import DueQuery
from flowstate.drivers.memory import MemoryDriver

__all__ = ["MemoryStore"]

MORE = 10  # Times as many operations as on others, since they are that much shorter.


class MemoryStore(Store):
    """One driver object for each place, for as long as it is in use."""

    name: StoreName = "memory"
    is_shared = False

    def __init__(self, setting: Setting) -> None:
        self.small_log = setting.sizes.small_log
        self.log = setting.sizes.memory_log
        self.commits = setting.sizes.memory_commits
        self.operations = MORE * setting.sizes.operations
        self._drivers: WeakValueDictionary[str, MemoryDriver] = WeakValueDictionary()

    def driver(self, place: str) -> Driver:
        return self._drivers.setdefault(place, MemoryDriver())

    def address(self, place: str) -> Address:
        raise LookupError(f"{place} is in the memory of this process")

    def size(self, place: str) -> int:
        raise LookupError(f"{place} is in the memory of this process")

    async def fill(self, place: str, states: int) -> None:
        driver = self.driver(place)
        await commit_all(driver, map(writes, range(states)))
        await driver.get_due(DueQuery("stall", limit=1))  # Which has it look at all of them, once.
        gc.collect()
        gc.freeze()  # Else whatever runs later pays for looking through a million objects.

    def counting(self) -> AbstractContextManager[Counter]:
        return nullcontext(Counter())
