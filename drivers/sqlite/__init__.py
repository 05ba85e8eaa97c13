"""States in one file: durable, and shared by several processes of one machine."""

from flowstate.drivers.sqlite.driver import SQLiteDriver

__all__ = ["SQLiteDriver"]
