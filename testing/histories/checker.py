"""Is a history one that the guarantees allow? In time that is linear in its length.

The log says in which order the commits happened, so nothing has to be searched for: each promise
becomes a comparison with the log, and real time a pair of bounds for each commit (see
:mod:`flowstate.testing.histories.bounds`).
"""

import gc
from collections.abc import Iterator, Sequence
from itertools import islice

from flowstate.testing.histories.belongings import check_belongings
from flowstate.testing.histories.bounds import Bounds
from flowstate.testing.histories.history import (
    Attempt,
    Committed,
    Compacted,
    Failed,
    History,
    LogRow,
    Refused,
    StateRead,
)
from flowstate.testing.histories.indexed_log import IndexedLog, Window, check_dense
from flowstate.testing.histories.pages import check_pages
from flowstate.testing.histories.violation import Violation
from flowstate.testing.histories.watches import check_watches

__all__ = ["check"]


def check(history: History, *, limit: int = 100) -> list[Violation]:
    """Return what in a history contradicts the guarantees G1, G2, G4 to G8; at best nothing.

    The history must begin with an empty store, and have every commit to it and the whole log.

    Args:
        history: of all processes.
        limit: at most so many violations, as one can bring many others along.
    """
    # A million records are no garbage, but the collector would look at them again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return list(islice(_violations(history), limit))
    finally:
        if collecting:
            gc.enable()


def _violations(history: History) -> Iterator[Violation]:
    holes = list(check_dense(history.log))
    yield from holes
    attempts: dict[str, list[Attempt]] = {}
    for attempt in history.attempts:
        attempts.setdefault(attempt.invoked.token, []).append(attempt)
    if any(row.rev != rev for rev, row in enumerate(history.log, 1)):
        yield from _check_missing(history, attempts)
        return  # There is no order to check the rest against.
    log = IndexedLog(history.log)
    bounds = Bounds(log)
    yield from _check_log(log, attempts)
    yield from _check_commits(attempts, log, bounds)
    yield from check_belongings(history, log, attempts)
    yield from _check_reads(history, log, bounds)
    yield from check_pages(history, log, bounds)
    yield from check_watches(history, log, bounds)
    yield from bounds.conflicts()


def _check_missing(history: History, attempts: dict[str, list[Attempt]]) -> Iterator[Violation]:
    """G7: the revisions that were acknowledged are there, in a log with holes."""
    tokens = {row.rev: row.token for row in history.log}
    for token, same in attempts.items():
        for attempt in same:
            if isinstance(attempt.outcome, Committed):
                lost = [rev for rev in attempt.outcome.revs if tokens.get(rev) != token]
                if lost:
                    text = f"acknowledged revision {lost[0]} is not in the log"
                    yield Violation("G7", text, (attempt,))


def _check_log(log: IndexedLog, attempts: dict[str, list[Attempt]]) -> Iterator[Violation]:
    """G1, G2, G4, G8: the log is what whole commits make, each on what it expected."""
    rows = log.rows
    latest: dict[str, int] = {}
    for place, (token, first, last) in enumerate(log.commits):
        same, row = attempts.get(token), rows[first - 1]
        plain = ((row.id, latest.get(row.id, 0)),)
        if (
            same is None
            or same[0].invoked.puts != plain
            or first != last
            or same[0].invoked.checks
            or log.by_token[token] != place
            or row.forgotten
        ):  # Most commits are plain, and not worth a call.
            yield from _check_run(log, place, same, latest)
            for row in rows[first - 1 : last]:
                latest[row.id] = 0 if row.forgotten else row.rev
        else:
            latest[row.id] = first


def _check_run(
    log: IndexedLog, place: int, same: Sequence[Attempt] | None, latest: dict[str, int]
) -> Iterator[Violation]:
    """Compare a run of revisions that have one token with the commit of that token."""
    token, first, last = log.commits[place]
    if same is None:
        yield Violation("G8", "a revision comes from no recorded commit", (log.rows[first - 1],))
        return
    if log.by_token[token] != place:
        yield _torn_apart(log, place, same[0])
        return
    puts = same[0].invoked.puts
    if len(puts) != last - first + 1:
        yield _not_whole(log, place, same[0])
    yield from _check_checks(same[0], latest, log.rows[first - 1])
    for rev, (id, expected) in enumerate(puts[: last - first + 1], first):
        if log.rows[rev - 1].id != id or latest.get(id, 0) != expected:
            yield _bad_put(same[0], id, expected, latest.get(id, 0), log.rows[rev - 1])


def _check_checks(attempt: Attempt, latest: dict[str, int], row: LogRow) -> Iterator[Violation]:
    for id, expected in attempt.invoked.checks:
        if latest.get(id, 0) != expected:
            text = f"{id!r} was checked at {expected}, and its latest was {latest.get(id, 0)}"
            yield Violation("G2", text, (attempt, row))


def _bad_put(attempt: Attempt, id: str, expected: int, latest: int, row: LogRow) -> Violation:
    if row.id != id:
        return Violation("G1", f"revision {row.rev} should be one of {id!r}", (attempt, row))
    text = f"revision {row.rev} was put over {expected} of {id!r}, whose latest was {latest}"
    return Violation("G2", f"{text}: a lost update", (attempt, row))


def _torn_apart(log: IndexedLog, place: int, attempt: Attempt) -> Violation:
    token, first, last = log.commits[place]
    _, first_before, last_before = log.commits[log.by_token[token]]
    before = {log.rows[rev - 1].id for rev in range(first_before, last_before + 1)}
    again = [rev for rev in range(first, last + 1) if log.rows[rev - 1].id in before]
    row = log.rows[first - 1]
    if again:
        return Violation(
            "G8", f"a commit was applied again, as revision {again[0]}", (attempt, row)
        )
    text = f"the revisions of a commit are apart: {last_before}, then {first}"
    return Violation("G4", text, (attempt, row))


def _not_whole(log: IndexedLog, place: int, attempt: Attempt) -> Violation:
    _, first, last = log.commits[place]
    count, puts = last - first + 1, len(attempt.invoked.puts)
    row = log.rows[first - 1]
    if count > puts and log.rows[first + puts - 1].id == row.id:
        text = f"a commit was applied again, as revision {first + puts}"
        return Violation("G8", text, (attempt, row))
    return Violation("G1", f"a commit has {count} revisions of {puts}", (attempt, row))


def _check_commits(
    attempts: dict[str, list[Attempt]], log: IndexedLog, bounds: Bounds
) -> Iterator[Violation]:
    """Compare each commit with what the log has of it."""
    lower, lower_by, upper, upper_by = bounds.lower, bounds.lower_by, bounds.upper, bounds.upper_by
    for token, same in attempts.items():
        attempt = same[0]
        outcome = attempt.outcome
        place = log.by_token.get(token)
        if place is not None and type(outcome) is Committed and len(same) == 1:
            _, first, last = log.commits[place]
            if outcome.revs == ((first,) if first == last else tuple(range(first, last + 1))):
                # Most are sent once, and acknowledged as what they are: not worth a call.
                if attempt.invoked.at > lower[place]:
                    lower[place] = attempt.invoked.at
                    lower_by[place] = attempt
                if outcome.at < upper[place]:
                    upper[place] = outcome.at
                    upper_by[place] = attempt
                continue
        yield from _check_commit(same, log, bounds)


def _check_commit(same: Sequence[Attempt], log: IndexedLog, bounds: Bounds) -> Iterator[Violation]:
    """Compare all attempts of one commit with what the log has of it."""
    place = log.by_token.get(same[0].invoked.token)
    for attempt in same:
        outcome = attempt.outcome
        if isinstance(outcome, Committed):
            yield from _check_acknowledged(attempt, outcome, place, log, bounds)
        elif isinstance(outcome, Refused):
            if place is not None:
                row = log.rows[log.commits[place][1] - 1]
                yield Violation("G2", "a refused commit is in the log", (attempt, row))
            yield from _check_refusal(attempt, outcome, log, bounds)
    possible = [attempt for attempt in same if not isinstance(attempt.outcome, Failed)]
    if place is not None:
        if not possible:
            row = log.rows[log.commits[place][1] - 1]
            yield Violation("G8", "a commit that failed is in the log", (same[0], row))
        earliest = min(possible or same, key=lambda attempt: attempt.invoked.at)
        bounds.not_before(place, earliest.invoked.at, earliest)
    elif not same[0].invoked.puts and same[0].invoked.checks:
        yield from _check_condition(possible, log, bounds)


def _check_acknowledged(
    attempt: Attempt, outcome: Committed, place: int | None, log: IndexedLog, bounds: Bounds
) -> Iterator[Violation]:
    """G7: what was acknowledged is in the log, as the revisions that were told."""
    if place is not None:
        bounds.not_after(place, outcome.at, attempt)
        _, first, last = log.commits[place]
        if outcome.revs != tuple(range(first, last + 1)):
            text = f"acknowledged revisions are not those of the log: {first} to {last}"
            yield Violation("G7", text, (attempt,))
    elif attempt.invoked.puts or outcome.revs:
        yield Violation("G7", "an acknowledged commit is not in the log", (attempt,))


def _check_condition(
    same: Sequence[Attempt], log: IndexedLog, bounds: Bounds
) -> Iterator[Violation]:
    """G2: a commit that put nothing was judged once, at or before its first acknowledgement."""
    ends = [each for each in same if isinstance(each.outcome, Committed)]
    if ends:
        first = min(ends, key=lambda attempt: attempt.outcome.at if attempt.outcome else 0)
        began = min(attempt.invoked.at for attempt in same)
        yield from _check_snapshot(first, frozenset(), began, log, bounds)


def _check_refusal(
    attempt: Attempt, refused: Refused, log: IndexedLog, bounds: Bounds
) -> Iterator[Violation]:
    """G2: all ids that differed are named, and no others."""
    invoked = attempt.invoked
    named = frozenset(refused.ids)
    strange = named.difference(id for id, _ in (*invoked.puts, *invoked.checks))
    if strange or not named:
        text = f"a commit was refused because of {sorted(strange) or 'nothing'}"
        yield Violation("G2", text, (attempt,))
    yield from _check_snapshot(attempt, named, invoked.at, log, bounds)


def _check_snapshot(
    attempt: Attempt, named: frozenset[str], began: int, log: IndexedLog, bounds: Bounds
) -> Iterator[Violation]:
    """G2: at one moment, exactly the ``named`` ids were not at what the commit expected."""
    windows: list[Window] = [(0, 0)]
    for id, rev in (*attempt.invoked.puts, *attempt.invoked.checks):
        if not log.has(id, rev):
            if id not in named:
                text = f"{id!r} was never at {rev}, and the commit was not refused because of it"
                yield Violation("G2", text, (attempt,))
            continue
        own = log.while_not_latest(id, rev) if id in named else log.while_latest(id, rev)
        if own:
            windows = _overlaps(windows, own, log)
        elif id in named:
            text = f"a commit was refused because of {id!r}, which never went on from {rev}"
            yield Violation("G2", text, (attempt,))
        else:
            text = f"{id!r} was forgotten by {rev}, and the commit was not refused because of it"
            yield Violation("G2", text, (attempt,))
    ended = attempt.outcome.at if attempt.outcome else began
    if found := bounds.observe_one_of(windows, began, ended, attempt):
        text = f"never did exactly these ids differ: {sorted(named)}; it {found.message}"
        yield Violation("G2", text, (attempt,))


def _overlaps(one: Sequence[Window], two: Sequence[Window], log: IndexedLog) -> list[Window]:
    """Return when both are; if they never are, the last pair, which is no window."""
    pairs = [
        (max(seen, begin), min(unseen or end, end or unseen))
        for seen, unseen in one
        for begin, end in two
    ]
    found = [(a, b) for a, b in pairs if not b or log.commit_of[a] < log.commit_of[b]]
    return found or pairs[-1:]


def _check_reads(history: History, log: IndexedLog, bounds: Bounds) -> Iterator[Violation]:
    """G5: a read finds what was the latest revision at a moment while it went on."""
    commit_of, rows, head = log.commit_of, log.rows, log.head
    lower, upper = bounds.lower, bounds.upper
    lower_by, upper_by = bounds.lower_by, bounds.upper_by
    for read in history.reads:
        rev, id = read.rev, read.id
        if rev and not (0 < rev <= head and rows[rev - 1].id == id):
            text = f"revision {rev} of {id!r} was read, and is not in the log"
            yield Violation("G7" if rev > head else "G5", text, (read,))
            continue
        if read.wanted:
            yield from _check_wanted(read, history.compactions, log, bounds)
            continue
        # As Bounds.observe does it; there are too many reads for calls.
        if not rev and id in log.ends:
            bounds.observe_one_of(log.while_latest(id, 0), read.invoked, read.at, read)
            continue
        if rev:
            if rows[rev - 1].forgotten:
                text = f"revision {rev} of {id!r} was read as the latest, and has forgotten it"
                yield Violation("G5", text, (read,))
                continue
            place = commit_of[rev]
            if read.at < upper[place]:
                upper[place] = read.at
                upper_by[place] = read
            unseen = log.successor[rev]
        else:
            unseen = log.first.get(id, 0)
        if unseen:
            place = commit_of[unseen]
            if read.invoked > lower[place]:
                lower[place] = read.invoked
                lower_by[place] = read


def _check_wanted(
    read: StateRead, compactions: Sequence[Compacted], log: IndexedLog, bounds: Bounds
) -> Iterator[Violation]:
    """Check the read of one revision that was asked for; one that is compacted is not there."""
    wanted = read.wanted
    if read.rev == wanted:
        bounds.not_after(log.commit_of[wanted], read.at, read)
    elif read.rev:
        yield Violation("G5", f"revision {read.rev} was read instead of {wanted}", (read,))
    elif 0 < wanted <= log.head and log.rows[wanted - 1].id == read.id:
        after = wanted if log.has_ended(wanted) else log.successor[wanted]
        if after and any(each.at < read.at and wanted < each.before for each in compactions):
            bounds.not_after(log.commit_of[after], read.at, read)
        else:
            bounds.not_before(log.commit_of[wanted], read.invoked, read)
