"""What a store can be asked for beside ids: statuses, label pairs, and what is the latest."""

import heapq
from collections.abc import Iterable, Iterator, Sequence

from flowstate.driver import StateQuery
from flowstate.drivers.memory.postings import Postings
from flowstate.state import State, Status

__all__ = ["Index"]

Term = str | tuple[str, str]


class Index:
    """Postings for each status and label pair.

    It is filled in runs of revisions, not one by one, because that costs a third of the time.
    Whoever asks it has to bring it up to date before.

    Attributes:
        live: the revisions that are the latest of their state.
        references: how many stored revisions refer to each checksum.
    """

    def __init__(self) -> None:
        self.live: set[int] = set()
        self.references: dict[str, int] = {}
        self._postings: dict[Term, Postings] = {status: Postings() for status in Status}

    def add(self, states: Sequence[State], replaced: Iterable[int]) -> None:
        """Add the revisions that follow those already added, and the revisions they replaced."""
        if not states:
            return
        self.live.update(range(states[0].rev, states[-1].rev + 1))
        self.live.difference_update(replaced)
        touched = [self._postings[status] for status in Status]
        every = {status: self._postings[status].every for status in Status}
        for state in states:
            every[state.status].append(state.rev)
            if state.labels:
                touched += self._add_labels(state)
            if state.data:
                for ref in state.data.values():
                    self.references[ref.checksum] = self.references.get(ref.checksum, 0) + 1
        for postings in touched:
            postings.catch_up(self.live)

    def _add_labels(self, state: State) -> list[Postings]:
        touched = []
        for pair in state.labels.items():
            postings = self._postings.get(pair)
            if postings is None:
                postings = self._postings[pair] = Postings()
            postings.every.append(state.rev)
            touched.append(postings)
        return touched

    def candidates(self, query: StateQuery, after: int, upto: int) -> Iterable[int] | None:
        """Return a superset of the answers, in rising order; ``None`` stands for the whole log."""
        latest = query.latest_only
        if not query.labels and query.status is None and not latest:
            return None
        found = self._narrowest(query)
        if len(found) == 1:
            return found[0].rising(after, upto, latest=latest)
        runs = (postings.rising(after, upto, latest=latest) for postings in found)
        return _without_repeats(heapq.merge(*runs))

    def newest_first(self, query: StateQuery, upto: int) -> Iterable[int]:
        """Return a superset of the answers, in falling order."""
        runs = (p.falling(upto, latest=query.latest_only) for p in self._narrowest(query))
        return heapq.merge(*runs, reverse=True)

    def _narrowest(self, query: StateQuery) -> Sequence[Postings]:
        """Return postings that together have every answer, and as little else as can be told."""
        if query.labels:
            return [self._shortest(labels.items()) for labels in query.labels]
        statuses = Status if query.status is None else (query.status,)
        return [self._postings[status] for status in statuses]

    def _shortest(self, pairs: Iterable[tuple[str, str]]) -> Postings:
        found = [self._postings.get(pair) or Postings() for pair in pairs]
        return min(found, key=lambda postings: len(postings.every))

    def remove(self, states: Iterable[State]) -> list[Postings]:
        """Forget revisions that are no longer stored; return the postings to be cleaned."""
        touched: dict[Postings, None] = {}
        for state in states:
            terms: list[Term] = [state.status, *state.labels.items()]
            touched.update({self._postings[term]: None for term in terms})
            for ref in state.data.values():
                self.references[ref.checksum] -= 1
        return list(touched)


def _without_repeats(revs: Iterable[int]) -> Iterator[int]:
    last = 0
    for rev in revs:
        if rev != last:
            last = rev
            yield rev
