"""Where stores are, in a form that other processes can be told."""

import sys
from pathlib import Path
from typing import Any

import attrs

from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["ROOT", "Place", "command"]

ROOT = Path(__file__).parent.parent.parent


@attrs.frozen
class Place:
    """A store: its kind, its path or URL, and the name of its schema or namespace."""

    kind: str
    where: str
    name: str = ""

    def driver(self, **options: Any) -> Driver:
        """Return a new driver."""
        match self.kind:
            case "memory":
                return MemoryDriver(**options)
            case "sqlite":
                return SQLiteDriver(self.where, **options)
            case "postgres":
                return PostgresDriver(self.where, schema=self.name, **options)
            case _:
                return RedisDriver(self.where, namespace=self.name, **options)

    def words(self) -> tuple[str, str, str]:
        """Return what makes the same place in another process."""
        return self.kind, self.where, self.name


def command(module: str, place: Place, *words: str) -> list[str]:
    """Return the command that starts a program of this folder, from the root of the project."""
    return [sys.executable, "-m", f"tests.world.{module}", *place.words(), *words]
