"""Which revisions have a status or a label pair, and which of them are latest revisions."""

import heapq
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby

from flowstate.driver import StateQuery
from flowstate.state import State, Status

__all__ = ["Index"]

Term = str | tuple[str, str]
END = 2**63
LEAPS = 32


class _Postings:
    """The revisions with one term, in rising order; apart, by status, those that may be latest.

    A revision that stops being the latest of its state stays in the second list until that list
    has doubled. Then the list is filtered. That is constant work for each revision, on average.
    """

    __slots__ = ("_filter_at", "every", "latest")

    def __init__(self) -> None:
        self.every: list[int] = []
        self.latest: dict[str, list[int]] = {}
        self._filter_at: dict[str, int] = {}

    def add_latest(self, status: Status, rev: int, is_live: Callable[[int], bool]) -> None:
        revs = self.latest.setdefault(status, [])
        revs.append(rev)
        if len(revs) >= self._filter_at.get(status, 64):
            revs[:] = filter(is_live, revs)
            self._filter_at[status] = max(64, 2 * len(revs))


EMPTY = _Postings()


class Index:
    """Postings for each status and each label pair.

    The index takes revisions in runs, not one by one, because that costs a third of the time.
    The caller brings it up to date before each question.

    Attributes:
        live: the revisions that are the latest of their state.
        references: how many stored revisions refer to each checksum.
    """

    def __init__(self) -> None:
        self.live: set[int] = set()
        self.references: Counter[str] = Counter()
        self._postings: dict[Term, _Postings] = {status: _Postings() for status in Status}
        self._by_id: defaultdict[str, list[int]] | None = None

    def add(self, states: Sequence[State], replaced: Iterable[int]) -> None:
        """Add the revisions that follow those already added, and the revisions they replaced."""
        live, postings = self.live, self._postings
        live.update(range(states[0].rev, states[-1].rev + 1))
        live.difference_update(replaced)
        every = {status: postings[status].every for status in Status}
        for state in states:
            rev = state.rev
            every[state.status].append(rev)
            if rev in live:
                postings[state.status].add_latest(state.status, rev, live.__contains__)
            if state.labels:
                self._add_labels(state)
            if state.data:
                self.references.update(ref.checksum for ref in state.data.values())
        if self._by_id is not None:
            self._add_ids(self._by_id, states)

    def follow_ids(self, states: Sequence[State]) -> None:
        """Keep the revisions of each state, from now on; ``states`` are those already added."""
        if self._by_id is None:
            self._by_id = defaultdict(list)
            self._add_ids(self._by_id, states)

    @staticmethod
    def _add_ids(by_id: defaultdict[str, list[int]], states: Sequence[State]) -> None:
        for state in states:
            by_id[state.id].append(state.rev)

    def _add_labels(self, state: State) -> None:
        rev = state.rev
        for pair in state.labels.items():
            postings = self._postings.get(pair)
            if postings is None:
                postings = self._postings[pair] = _Postings()
            postings.every.append(rev)
            if rev in self.live:
                postings.add_latest(state.status, rev, self.live.__contains__)

    def rising(self, query: StateQuery, after: int, upto: int) -> Iterator[int]:
        """Return a superset of the answers above ``after``, up to and with ``upto``, in order."""
        runs = [_rising(lists, after, upto) for lists in self._lists(query)]
        return runs[0] if len(runs) == 1 else (rev for rev, _ in groupby(heapq.merge(*runs)))

    def falling(self, query: StateQuery, upto: int) -> Iterator[int]:
        """Return a superset of the answers from ``upto`` down."""
        return heapq.merge(*(_falling(each, upto) for each in self._lists(query)), reverse=True)

    def _lists(self, query: StateQuery) -> list[list[list[int]]]:
        """Return the query as OR of ANDs of lists of revisions."""
        if query.id is not None and self._by_id is not None:
            return [[self._by_id.get(query.id, [])]]
        statuses = Status if query.status is None else (query.status,)
        alternatives: list[list[Term]] = [list(labels.items()) for labels in query.labels]
        if query.latest_only:
            return [
                [
                    self._postings.get(term, EMPTY).latest.get(status, [])
                    for term in terms or [status]
                ]
                for terms in alternatives or [[]]
                for status in statuses
            ]
        if query.status is not None or not alternatives:
            alternatives = [[*pairs, s] for pairs in alternatives or [[]] for s in statuses]
        return [[self._postings.get(term, EMPTY).every for term in ts] for ts in alternatives]

    def count(self, query: StateQuery) -> int:
        """Return how many latest revisions answer a query of them by labels and status."""
        if not query.labels and query.status is None:
            return len(self.live)
        found: set[int] = set()
        for lists in self._lists(query):
            found |= self.live.intersection(*lists)
        return len(found)

    def remove(self, states: Sequence[State], is_stored: Callable[[int], bool]) -> None:
        """Forget revisions that are no longer stored, given in order."""
        touched: set[Term] = set()
        for state in states:
            touched.update((state.status, *state.labels.items()))
            self.references.subtract(ref.checksum for ref in state.data.values())
        lists = [[p.every, *p.latest.values()] for p in map(self._postings.__getitem__, touched)]
        by_id = {} if self._by_id is None else self._by_id
        ids = {state.id for state in states} if by_id else ()
        for revs in chain(*lists, map(by_id.__getitem__, ids)):
            start, end = bisect_left(revs, states[0].rev), bisect_right(revs, states[-1].rev)
            revs[start:end] = filter(is_stored, revs[start:end])
        for id in ids:
            if not by_id[id]:
                del by_id[id]
        # Labels of single states would pile up, although nothing has them any more.
        for pair in touched.difference(Status):
            if not self._postings[pair].every:
                del self._postings[pair]


def _rising(lists: Sequence[Sequence[int]], after: int, upto: int) -> Iterator[int]:
    """Return a superset of what all lists have.

    The first steps leap over what only some of the lists have, however much that is. Where this
    finds nothing to leap over, the shortest list costs less.
    """
    for _ in range(LEAPS):
        after = max(_above(revs, after) for revs in lists)
        if after > upto:
            return
        yield after
    revs = min(lists, key=len)
    yield from map(revs.__getitem__, range(bisect_right(revs, after), bisect_right(revs, upto)))


def _above(revs: Sequence[int], rev: int) -> int:
    place = bisect_right(revs, rev)
    return revs[place] if place < len(revs) else END


def _falling(lists: Sequence[Sequence[int]], upto: int) -> Iterator[int]:
    below = upto + 1
    for _ in range(LEAPS):
        below = min(_below(revs, below) for revs in lists)
        if not below:
            return
        yield below
    revs = min(lists, key=len)
    yield from map(revs.__getitem__, range(bisect_left(revs, below) - 1, -1, -1))


def _below(revs: Sequence[int], rev: int) -> int:
    place = bisect_left(revs, rev)
    return revs[place - 1] if place else 0
