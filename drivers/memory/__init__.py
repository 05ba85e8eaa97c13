"""States in this process's memory; gone when it ends."""

from flowstate.drivers.memory.driver import MemoryDriver

__all__ = ["MemoryDriver"]
