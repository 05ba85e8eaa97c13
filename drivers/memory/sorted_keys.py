"""A sorted set of keys, for millions of them."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from operator import itemgetter

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

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def add(self, key: Key) -> None:
        """Add a key that is not in the set."""
        place = self._place(key)
        if place == len(self._chunks):
            self._chunks.append([])
        chunk = self._chunks[place]
        insort(chunk, key)
        if len(chunk) > 2 * CHUNK:
            self._chunks[place : place + 1] = [chunk[:CHUNK], chunk[CHUNK:]]

    def remove(self, key: Key) -> None:
        """Remove a key that is in the set."""
        place = self._place(key)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, key)]
        if not chunk:
            del self._chunks[place]

    def above(self, key: Key | None) -> Iterator[Key]:
        """Return the keys above ``key``, or all."""
        place = 0 if key is None else self._place(key)
        for chunk in islice(self._chunks, place, None):
            yield from chunk if key is None else islice(chunk, bisect_right(chunk, key), None)

    def _place(self, key: Key) -> int:
        """Return the number of the chunk that a key belongs to."""
        return max(0, bisect_right(self._chunks, key, key=itemgetter(0)) - 1)
