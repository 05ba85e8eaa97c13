"""Are data, delays and timers of commits there, and only those of commits that happened?"""

from collections.abc import Iterator, Mapping, Sequence

from flowstate.testing.histories.history import Attempt, Committed, Failed, History, Refused
from flowstate.testing.histories.indexed_log import IndexedLog
from flowstate.testing.histories.violation import Violation

__all__ = ["check_belongings"]


def check_belongings(
    history: History, log: IndexedLog, attempts: Mapping[str, Sequence[Attempt]]
) -> Iterator[Violation]:
    """G1: data, delays and timers are stored with their commit, and only with it."""
    stored = history.stored
    if stored is None:
        return
    owners = [same for same in attempts.values() if same[0].invoked.data or same[0].invoked.delays]
    yield from _check_data(owners, log, set(stored.data))
    delays = set(stored.delays)
    for name in stored.delays:
        if name.rpartition(".")[0] not in attempts:
            yield Violation("G1", f"delay {name} is stored, and comes from no recorded commit")
    for same in owners:
        if same[0].invoked.delays:
            yield from _check_delays(same, log, delays, history.dropped)
    yield from _check_timers(log, attempts, set(stored.timers))


def _check_data(
    owners: Sequence[Sequence[Attempt]], log: IndexedLog, data: set[str]
) -> Iterator[Violation]:
    """Content that several commits have is stored once, so it is there with any of them."""
    allowed: set[str] = set()
    for row in log.rows:
        if row.data:
            allowed.update(row.data)
            lost = [checksum for checksum in row.data if checksum not in data]
            if lost:
                yield Violation("G1", f"data {lost[0]} of a revision is not stored", (row,))
    impossible: list[Sequence[Attempt]] = []
    for same in owners:
        if _can_have_happened(same, log):
            allowed.update(same[0].invoked.data)
        else:
            impossible.append(same)
    for same in impossible:
        for checksum in same[0].invoked.data:
            if checksum in data and checksum not in allowed:
                text = f"data {checksum} is stored without its commit"
                yield Violation("G1", text, (same[0],))


def _check_delays(
    same: Sequence[Attempt], log: IndexedLog, delays: set[str], dropped: set[str]
) -> Iterator[Violation]:
    """A delay that was not dropped is there while its revision is the latest of its state."""
    invoked = same[0].invoked
    happened = _has_happened(same, log)
    possible = _can_have_happened(same, log)
    for index, (id, rev) in enumerate(invoked.delays):
        name = f"{invoked.token}.{index}"
        if name in delays and not possible:
            yield Violation("G1", f"delay {name} is stored without its commit", (same[0],))
        elif happened and name not in delays and name not in dropped:
            own = rev if rev >= 0 else _own_rev(invoked.token, id, log)
            if log.has(id, own) and not log.after(id, own):
                yield Violation("G1", f"delay {name} of a commit is lost", (same[0],))


def _check_timers(
    log: IndexedLog, attempts: Mapping[str, Sequence[Attempt]], timers: set[str]
) -> Iterator[Violation]:
    """A timer is there if the last commit about it has set it."""
    alone: set[str] = set()  # Removed by a commit that has no place in the log.
    for same in attempts.values():
        if not same[0].invoked.puts:
            alone.update(same[0].invoked.cancels)
    last: dict[str, tuple[bool, Attempt]] = {}
    for token, _, _ in log.commits:
        for attempt in attempts.get(token, ())[:1]:
            last.update((id, (False, attempt)) for id in attempt.invoked.cancels)
            last.update((id, (True, attempt)) for id in attempt.invoked.timers)
    for id, (is_set, attempt) in last.items():
        if is_set and id not in timers and id not in alone:
            yield Violation("G1", f"timer {id} of a commit is lost", (attempt,))
        elif not is_set and id in timers:
            text = f"timer {id} is stored, and the last commit about it has removed it"
            yield Violation("G1", text, (attempt,))
    for id in sorted(timers - last.keys()):
        yield Violation("G1", f"timer {id} is stored without its commit")


def _has_happened(same: Sequence[Attempt], log: IndexedLog) -> bool:
    acknowledged = any(isinstance(attempt.outcome, Committed) for attempt in same)
    return acknowledged or same[0].invoked.token in log.by_token


def _can_have_happened(same: Sequence[Attempt], log: IndexedLog) -> bool:
    if same[0].invoked.puts:
        return same[0].invoked.token in log.by_token
    return any(not isinstance(attempt.outcome, Refused | Failed) for attempt in same)


def _own_rev(token: str, id: str, log: IndexedLog) -> int:
    place = log.by_token.get(token)
    if place is None:
        return -1
    _, first, last = log.commits[place]
    return next((rev for rev in range(first, last + 1) if log.rows[rev - 1].id == id), -1)
