"""A sorted set of keys, for millions of them."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from datetime import datetime

__all__ = ["Key", "SortedKeys"]

Key = tuple[datetime, str]
CHUNK = 1_000


class SortedKeys:
    """Keys in rising order, in chunks that are short enough to insert into.

    One long list would move a million entries for one insertion; a heap cannot be paged
    through. The idea is that of the ``sortedcontainers`` package.
    """

    def __init__(self) -> None:
        self._chunks: list[list[Key]] = []
        self._firsts: list[Key] = []

    def add(self, key: Key) -> None:
        """Add a key that is not in the set."""
        if not self._chunks:
            self._chunks, self._firsts = [[key]], [key]
            return
        place = max(0, bisect_right(self._firsts, key) - 1)
        chunk = self._chunks[place]
        insort(chunk, key)
        self._firsts[place] = chunk[0]
        if len(chunk) > 2 * CHUNK:
            self._chunks.insert(place + 1, chunk[CHUNK:])
            self._firsts.insert(place + 1, chunk[CHUNK])
            del chunk[CHUNK:]

    def remove(self, key: Key) -> None:
        """Remove a key that is in the set."""
        place = bisect_right(self._firsts, key) - 1
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, key)]
        if chunk:
            self._firsts[place] = chunk[0]
        else:
            del self._chunks[place], self._firsts[place]

    def above(self, key: Key | None) -> Iterator[Key]:
        """Return the keys above ``key``, or all."""
        if key is None:
            places, start = range(len(self._chunks)), 0
        else:
            first = max(0, bisect_right(self._firsts, key) - 1)
            places = range(first, len(self._chunks))
            start = bisect_right(self._chunks[first], key) if self._chunks else 0
        for place in places:
            chunk = self._chunks[place]
            for index in range(start, len(chunk)):
                yield chunk[index]
            start = 0
