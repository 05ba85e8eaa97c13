"""The SQL of a page of the log: it walks indexes, and reads no more than the page needs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flowstate.driver import StateQuery
from flowstate.drivers.kit.times import to_micros
from flowstate.ground.frozen import EMPTY

__all__ = ["Page", "Parameters", "SCAN_LIMIT"]

SCAN_LIMIT = 2_000
LEAPS = 1_000
AFTER, UPTO = "(SELECT after FROM span)", "(SELECT upto FROM bounds)"
Parameters = list[Any]
Source = tuple[str, dict[str, str | None]]
"""A table with an index of some columns and rev, and which values those columns must have.

``None`` is for any value of ``status``, each of which is walked by itself.
"""
CHAIN: Source = "chain", {}  # The revisions of one state, which the statement finds itself.


class Page:
    """Builds one statement, collecting its parameters in the order of their places."""

    def __init__(self, schema: str, query: StateQuery) -> None:
        self._schema = schema
        self._query = query
        self._parameters: Parameters = []

    def _put(self, *values: Any) -> str:
        self._parameters += values
        return "%s"

    def statement(self) -> tuple[str, Parameters]:
        """Return it, with its parameters."""
        schema, query = self._schema, self._query
        head = f"SELECT coalesce(max(rev), 0) FROM {schema}.log"
        bounds = f"SELECT {self._after()} AS after, {self._upto()} AS upto FROM store"
        parts = [
            f"store AS MATERIALIZED (SELECT floor, ({head}) AS head FROM {schema}.meta)",
            f"statuses (status) AS ({self._statuses()})",
            f"bounds AS MATERIALIZED ({bounds})",
        ]
        if query.id is not None:
            parts.append(f"chain (rev, previous) AS ({self._chain(query.id)})")
        parts.append(f"span AS MATERIALIZED ({self._span()})")
        searches = [self._search(sources) for sources in self._alternatives()]
        parts += [f"part{n} AS MATERIALIZED ({search})" for n, (search, _) in enumerate(searches)]
        parts += [
            f"stop AS MATERIALIZED ({_stop([cut for _, cut in searches])})",
            f"sized AS ({self._sized(len(searches))})",
        ]
        return (
            f"WITH RECURSIVE {', '.join(parts)} SELECT store.head, store.floor, stop.rev,"
            f" sized.found, sized.rev, sized.id, {schema}.to_micros(sized.committed_at),"
            f" {schema}.to_micros(sized.delayed_until), sized.body::text FROM store CROSS JOIN stop"
            f" LEFT JOIN sized ON sized.before < {self._put(query.max_bytes)}"
            " ORDER BY sized.rev"
        ), self._parameters

    def _statuses(self) -> str:
        """Return a query for the statuses that there are, by their index."""
        first = f"SELECT latest.status FROM {self._schema}.latest"
        return (
            f"({first} ORDER BY status LIMIT 1) UNION ALL SELECT ({first} WHERE latest.status >"
            " statuses.status ORDER BY status LIMIT 1) FROM statuses"
            " WHERE statuses.status IS NOT NULL"
        )

    def _chain(self, id: str) -> str:
        """Return a query for the revisions of one state above the cursor, from its last one back.

        The chain ends at the cursor, or where compaction has cut it.
        """
        schema, id = self._schema, self._put(id)
        if self._query.latest_only:
            return f"SELECT rev, 0 FROM {schema}.latest WHERE id = {id} AND rev > 0"
        log = f"SELECT log.rev, log.previous FROM {schema}.log WHERE log.rev ="
        return (
            f"SELECT last.* FROM {schema}.latest CROSS JOIN LATERAL"
            f" ({log} abs(latest.rev) OFFSET 0) AS last WHERE latest.id = {id} UNION ALL"
            f" SELECT before.* FROM chain CROSS JOIN LATERAL ({log} chain.previous OFFSET 0)"
            " AS before WHERE chain.previous > (SELECT after FROM bounds)"
        )

    def _sized(self, parts: int) -> str:
        """Return a query for the revisions, each with the bytes of those before it.

        The size of what is not compressed is known without reading it.
        """
        found = " UNION ".join(f"SELECT rev FROM part{n} WHERE matches" for n in range(parts))
        return (
            "SELECT bodies.*, count(*) OVER () AS found,"
            " sum(size) OVER (ORDER BY rev ROWS UNBOUNDED PRECEDING) - size AS before"
            " FROM (SELECT log.*, CASE WHEN pg_column_compression(body) IS NULL"
            " THEN pg_column_size(body) ELSE octet_length(body::text) END AS size"
            f" FROM (SELECT rev FROM ({found}) AS found"
            " WHERE rev <= coalesce((SELECT rev FROM stop), rev) ORDER BY rev"
            f" LIMIT {self._query.limit + 1} OFFSET 0) AS chosen"
            f" JOIN {self._schema}.log ON log.rev = chosen.rev) AS bodies"
        )

    def _span(self) -> str:
        if not self._query.since_latest:
            return "SELECT after, upto FROM bounds"
        newest = " UNION ALL ".join([self._newest_of(each) for each in self._alternatives()])
        return (
            "SELECT greatest(after, coalesce((SELECT max(rev)"
            f" FROM ({newest}) AS newest) - 1, head)) AS after, upto FROM bounds, store"
        )

    def _after(self) -> str:
        after = f"{self._put(self._query.after)}::bigint"
        since = self._query.since_time
        return after if since is None else f"greatest({after}, {self._last_before(since)})"

    def _upto(self) -> str:
        before = self._query.committed_before
        return "head" if before is None else self._last_before(before)

    def _last_before(self, time: datetime) -> str:
        micros = self._put(to_micros(time))
        return f"{self._schema}.last_before({self._schema}.from_micros({micros}))"

    def _newest_of(self, sources: list[Source]) -> str:
        """Return a query for the newest revision that all sources have.

        At first by leaps: each goes down to where every source has one that is no newer than the
        leap before. That passes over what has only some of them, however much. Then it walks the
        first source, which costs less for each revision.
        """
        (first, *others) = sources
        if not others:
            return f"SELECT rev FROM ({self._range(first, '0', UPTO, '1', newest=True)}) AS last"
        if first is CHAIN:
            return self._newest_in(first, others, UPTO)
        lasts = [self._range(source, "0", "leap.rev", "1", newest=True) for source in sources]
        lowest = ", ".join(f"coalesce((SELECT rev FROM ({last}) AS last), 0)" for last in lasts)
        rest = self._newest_in(first, others, "(SELECT min(rev) FROM leap)")
        return (
            "(WITH RECURSIVE leap (rev, before, n) AS (SELECT upto, upto + 1, 0 FROM bounds"
            f" UNION ALL SELECT least({lowest}), rev, n + 1 FROM leap"
            f" WHERE rev > 0 AND rev < before AND n < {LEAPS})"
            f" SELECT coalesce((SELECT rev FROM leap WHERE rev = before), {rest}) AS rev)"
        )

    def _newest_in(self, first: Source, others: list[Source], upto: str) -> str:
        """Return a query that walks a source back to a revision that the others have too."""
        tests, walk = self._tests(others), self._range(first, "0", upto, "ALL", newest=True)
        return (
            f"(SELECT found.rev FROM (SELECT rev, {tests} AS matches FROM ({walk}) AS found)"
            " AS found WHERE matches LIMIT 1)"
        )

    def _alternatives(self) -> list[list[Source]]:
        """Return sources whose union has every match: of each the revisions that all have."""
        query = self._query
        status: dict[str, str | None] = {
            "status": None if query.status is None else query.status.value
        }
        if query.latest_only and query.id is None:
            if not query.labels:
                return [[("latest", dict(status))]]
            return [_labels("latest_label", labels, status) for labels in query.labels]
        by_status: list[Source] = [("log", dict(status))] if query.status is not None else []
        if query.id is not None:
            first = [CHAIN]
        else:
            first = [] if query.labels or by_status else [("log", {})]
        alternatives = query.labels or (EMPTY,)
        return [[*first, *_labels("label", labels, {}), *by_status] for labels in alternatives]

    def _range(
        self, source: Source, after: str, upto: str, limit: str, *, newest: bool = False
    ) -> str:
        """Return a query for the first revisions of a source in a range, or for the last ones.

        Whole keys are compared and ordered by, as they are in the index: of conditions on single
        columns the planner may think that walking another index to its end is as good.
        """
        table, equal = source
        place = table if source is CHAIN else f"{self._schema}.{table}"
        direction = " DESC" if newest else ""
        names = ", ".join([*equal, "rev"])
        lower, upper = (
            ", ".join([*map(self._value, equal.values()), end]) for end in (after, upto)
        )
        order = ", ".join(f"{name}{direction}" for name in [*equal, "rev"])
        status = "status" if "status" in equal else "NULL::text"
        walk = (
            f"SELECT rev, {status} AS status FROM {place}"
            f" WHERE ({names}) > ({lower}) AND ({names}) <= ({upper})"
            f" ORDER BY {order} LIMIT {limit}"
        )
        if None not in equal.values():
            return walk
        return (
            f"SELECT walked.rev, walked.status FROM statuses CROSS JOIN LATERAL ({walk}) AS walked"
            f" ORDER BY rev{direction} LIMIT {limit}"
        )

    def _value(self, value: str | None) -> str:
        return "statuses.status" if value is None else self._put(value)

    def _search(self, sources: list[Source]) -> tuple[str, int | None]:
        """Walk one source, and look each of its revisions up in the others.

        Returns a query that gives revisions in order, and whether each of them matches; and after
        how many rows it is cut although more may match.
        """
        (first, *others) = sources
        if not others:
            walk = self._range(first, AFTER, UPTO, f"{self._query.limit + 1}")
            return f"SELECT rev, true AS matches FROM ({walk}) AS found", None
        tests = self._tests(others)
        within = self._range(first, AFTER, UPTO, f"{SCAN_LIMIT}")
        return f"SELECT rev, {tests} AS matches FROM ({within}) AS found", SCAN_LIMIT

    def _tests(self, sources: list[Source]) -> str:
        return " AND ".join([self._test(source) for source in sources])

    def _test(self, source: Source) -> str:
        """Return whether a source has a revision that was found.

        The offset keeps the planner from reading all that the source has into a table of its own.
        """
        table, equal = source
        same = [
            f"other.{name} = {'found.status' if value is None else self._put(value)}"
            for name, value in equal.items()
        ]
        return (
            f"EXISTS (SELECT FROM {self._schema}.{table} AS other"
            f" WHERE {' AND '.join([*same, 'other.rev = found.rev'])} OFFSET 0)"
        )


def _labels(table: str, labels: Mapping[str, str], more: dict[str, str | None]) -> list[Source]:
    return [(table, {"key": key, "value": value, **more}) for key, value in labels.items()]


def _stop(cuts: list[int | None]) -> str:
    """Return a query for the revision up to which no search was cut."""
    ends = [
        f"SELECT max(rev) AS rev FROM part{n} HAVING count(*) >= {cut}"
        for n, cut in enumerate(cuts)
        if cut is not None
    ]
    if not ends:
        return "SELECT NULL::bigint AS rev"
    return f"SELECT min(rev) AS rev FROM ({' UNION ALL '.join(ends)}) AS ends"
