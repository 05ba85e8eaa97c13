"""Which revisions have a label pair or a status."""

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator

__all__ = ["Postings"]


class Postings:
    """Revisions in rising order: every one, and apart those that may be the latest of a state.

    A revision that stops being the latest stays in the second list until that list has doubled;
    then it is filtered. That is constant work for a revision, on average.

    Attributes:
        every: to be appended to by the index.
    """

    __slots__ = ("_filter_at", "_latest", "_seen", "every")

    def __init__(self) -> None:
        self.every: list[int] = []
        self._latest: list[int] = []
        self._seen = 0  # How much of ``every`` has gone into ``_latest``.
        self._filter_at = 64

    def catch_up(self, live: Container[int]) -> None:
        """Add what is new in ``every`` and live to the latest ones."""
        self._latest += filter(live.__contains__, self.every[self._seen :])
        self._seen = len(self.every)
        if len(self._latest) >= self._filter_at:
            self._latest = list(filter(live.__contains__, self._latest))
            self._filter_at = max(64, 2 * len(self._latest))

    def clean(self, is_stored: Callable[[int], bool]) -> None:
        """Forget revisions that are no longer stored."""
        self.every = list(filter(is_stored, self.every))
        self._latest = list(filter(is_stored, self._latest))
        self._seen = len(self.every)

    def rising(self, after: int, upto: int, *, latest: bool) -> Iterator[int]:
        """Return the revisions above ``after``, up to and with ``upto``."""
        revs = self._latest if latest else self.every
        places = range(bisect_right(revs, after), bisect_right(revs, upto))
        return map(revs.__getitem__, places)

    def falling(self, upto: int, *, latest: bool) -> Iterator[int]:
        """Return the revisions from ``upto`` down."""
        revs = self._latest if latest else self.every
        return map(revs.__getitem__, range(bisect_right(revs, upto) - 1, -1, -1))
