"""What is kept in memory for a while: access tokens and external resources."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import attrs

__all__ = ["Remembered"]


@attrs.define(eq=False)
class _Entry:
    lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    until: float = float("-inf")
    value: Any = None
    failures: int = 0
    error: Exception | None = None


@attrs.define(eq=False)
class Remembered:
    """A bounded number of values; each is made by one at a time, and made again when it is old.

    Attributes:
        most: how many there are at once.
    """

    most: int
    _entries: OrderedDict[str, _Entry] = attrs.field(factory=OrderedDict, init=False, repr=False)

    async def get(
        self,
        key: str,
        now: Callable[[], float],
        make: Callable[[Any], Awaitable[tuple[Any, float]]],
    ) -> Any:
        """Return a value; ``make`` is given the one before, and returns it and its seconds.

        When it fails, all fail that have waited for it, so that they do not wait in a row.
        """
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        if len(self._entries) > self.most:
            self._entries.popitem(last=False)
        failures = entry.failures
        async with entry.lock:
            if entry.failures != failures and entry.error is not None:
                raise entry.error
            if now() >= entry.until:
                try:
                    entry.value, seconds = await make(entry.value)
                except Exception as error:
                    entry.failures, entry.error = failures + 1, error
                    raise
                entry.until = now() + seconds
            return entry.value

    def expire(self, key: str, value: Any) -> None:
        """Have a value made again, unless that has happened already."""
        entry = self._entries.get(key)
        if entry is not None and entry.value is value:
            entry.until = float("-inf")
