"""The SQL of reads. Each read is one statement, and so sees one snapshot."""

from typing import Any

from flowstate.driver import DelayQuery, StalledQuery, StateQuery
from flowstate.drivers.postgres.batch import Batch
from flowstate.drivers.postgres.times import FIRST, LAST, to_micros
from flowstate.state import Status

__all__ = ["Queries"]

SCAN_LIMIT = 2_000
PLAIN = 2  # Parameters of a batch that only puts.
AFTER, UPTO = "(SELECT after FROM span)", "(SELECT upto FROM bounds)"
Parameters = list[Any]
Source = tuple[str, dict[str, str]]
"""A table with an index of some columns and rev, and which values those columns must have."""
NEAR = 64  # Revisions.


class Queries:
    """Statements for the tables of one schema.

    Attributes:
        state: columns of the log from which a state is made.
    """

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self.state = (
            f"log.rev, {schema}.to_micros(log.committed_at),"
            f" {schema}.to_micros(log.delayed_until), log.body::text"
        )
        self._commit = f"SELECT * FROM {schema}.commit(%b, %b, %b, %b)".encode()
        self._commit_puts = f"SELECT * FROM {schema}.commit(%b, %b, NULL, NULL)".encode()
        self.store_id = f"SELECT store_id FROM {schema}.meta"
        self.lock = f"SELECT {schema}.lock_commits()"
        self.start_listening = f"SELECT {schema}.start_listening()"
        self.stop_listening = f"SELECT {schema}.stop_listening()"
        self.head = f"SELECT coalesce(max(rev), 0) FROM {schema}.log"
        # The earliest delay by its id, too: another one may be due at the time of one that is gone.
        self.outlook = (
            f"SELECT ({self.head}), (SELECT concat_ws(' ', {schema}.to_micros(due), id)"
            f" FROM {schema}.delay ORDER BY due, id LIMIT 1)"
        )
        self.latest = (
            f"SELECT {self.state} FROM {schema}.latest"
            f" JOIN {schema}.log ON log.rev = latest.rev WHERE latest.id = %s"
        )
        self.revision = f"SELECT {self.state} FROM {schema}.log WHERE rev = %s AND id = %s"
        self.data = f"SELECT blob, annotations::text FROM {schema}.data WHERE checksum = %s"
        self.claim = (
            f"UPDATE {schema}.delay SET due = clock_timestamp() + %s * interval '1 second'"
            f" WHERE id = %s AND due = {schema}.from_micros(%s)"
            f" RETURNING {schema}.to_micros(due)"
        )
        self.drop = f"DELETE FROM {schema}.delay WHERE id = %s"
        self.beat = f"SELECT {schema}.beat(%s::text[], %s::bigint[], %s::bigint[], %s::text[])"
        self.liveness = (
            f"SELECT id, rev, {schema}.to_micros(stalls_at), {schema}.to_micros(beat_at),"
            f" coalesce(note, ''), {schema}.to_micros(clock_timestamp()), (SELECT"
            f" {schema}.to_micros(min(due)) FROM {schema}.delay"
            f" WHERE state_id = latest.id AND delay.rev = latest.rev)"
            f" FROM {schema}.latest WHERE id = ANY (%s)"
        )
        self.compact = f"SELECT * FROM {schema}.compact_some(%s, %s, %s)"
        # What was stored at the head is meant for a commit that is still to come.
        head = f"(SELECT coalesce(max(rev), 0) FROM {schema}.log)"
        self.drop_unreferenced = f"SELECT {schema}.drop_unreferenced(least(%s, {head}), %s)"
        self.successors = _successors(schema)
        self.revisions = (
            f"SELECT {self.state} FROM {schema}.log"
            " WHERE rev BETWEEN %s AND %s AND token = %s ORDER BY rev"
        )

    def commit(self, batch: Batch) -> bytes:
        """Return the statement for the parameters of a batch."""
        return self._commit if len(batch.parameters) > PLAIN else self._commit_puts

    def delayed(self, query: DelayQuery) -> tuple[str, Parameters]:
        """Return the statement for a page of delays: the rest of the page, then each delay."""
        schema = self._schema
        last = f"{schema}.from_micros(%s)"
        parameters: Parameters = [LAST if query.everything else None]
        if query.until is not None and not query.everything:
            parameters = [to_micros(query.until)]
        after = (FIRST, "") if query.after is None else (to_micros(query.after[0]), query.after[1])
        statement = (
            f"WITH asked AS (SELECT clock_timestamp() AS now), span AS"
            f" (SELECT now, coalesce({last}, now) AS last FROM asked), page AS MATERIALIZED ("
            f"SELECT * FROM {schema}.delay WHERE (due, id) > ({schema}.from_micros(%s), %s)"
            f" AND due <= (SELECT last FROM span) ORDER BY due, id LIMIT {query.limit + 1})"
            f" SELECT {schema}.to_micros(span.now), {schema}.to_micros((SELECT min(due)"
            f" FROM {schema}.delay WHERE due > (SELECT last FROM span))), page.id,"
            f" {schema}.to_micros(page.due), page.state_id, page.rev, page.body::text, {self.state}"
            " FROM span LEFT JOIN page ON true"
            f" LEFT JOIN {schema}.log ON log.rev = page.rev ORDER BY page.due, page.id"
        )
        return statement, [*parameters, *after]

    def stalled(self, query: StalledQuery) -> tuple[str, Parameters]:
        """Return the statement for a page of stalled states: the rest of the page, then each.

        The offset keeps the planner from reading the whole log for a large page.
        """
        schema = self._schema
        after = (FIRST, "") if query.after is None else (to_micros(query.after[0]), query.after[1])
        statement = (
            "WITH asked AS MATERIALIZED (SELECT clock_timestamp() AS now), page AS MATERIALIZED ("
            f"SELECT stalls_at, id, rev FROM {schema}.latest"
            f" WHERE (stalls_at, id) > ({schema}.from_micros(%s), %s)"
            f" AND stalls_at <= (SELECT now FROM asked) ORDER BY stalls_at, id"
            f" LIMIT {query.limit + 1})"
            f" SELECT {schema}.to_micros(asked.now), {schema}.to_micros((SELECT min(stalls_at)"
            f" FROM {schema}.latest WHERE stalls_at > (SELECT now FROM asked))),"
            f" {schema}.to_micros(page.stalls_at), page.id, page.rev, {self.state}"
            " FROM asked LEFT JOIN page ON true LEFT JOIN LATERAL"
            f" (SELECT * FROM {schema}.log WHERE log.rev = page.rev OFFSET 0) AS log ON true"
            " ORDER BY page.stalls_at, page.id"
        )
        return statement, [*after]

    def page(self, query: StateQuery) -> tuple[str, Parameters]:
        """Return the statement for a page of states.

        Each row has head, floor and the revision where the search broke off, if it did; then the
        columns of a state, or nulls if there is none. There is one more than the limit, if there
        is more.
        """
        return _Page(self._schema, self.state, query).statement()


class _Page:
    """Builds one statement, collecting its parameters in the order of their places."""

    def __init__(self, schema: str, state: str, query: StateQuery) -> None:
        self._schema = schema
        self._state = state
        self._query = query
        self._parameters: Parameters = []

    def _put(self, *values: Any) -> str:
        self._parameters += values
        return "%s"

    def statement(self) -> tuple[str, Parameters]:
        schema = self._schema
        parts = [
            f"store AS MATERIALIZED (SELECT floor, ({self._head()}) AS head FROM {schema}.meta)",
            f"bounds AS MATERIALIZED ({self._bounds()})",
            f"span AS MATERIALIZED ({self._span()})",
        ]
        searches = self._searches()
        parts += [f"part{n} AS MATERIALIZED ({search})" for n, (search, _) in enumerate(searches)]
        found = " UNION ".join(
            f"SELECT rev FROM part{n} WHERE matches" for n in range(len(searches))
        )
        parts += [
            f"stop AS MATERIALIZED ({_stop([cut for _, cut in searches])})",
            f"chosen AS ({self._chosen(found)})",
        ]
        statement = (
            f"WITH {', '.join(parts)} SELECT store.head, store.floor, stop.rev, {self._state}"
            " FROM store CROSS JOIN stop LEFT JOIN"
            f" (chosen JOIN {schema}.log ON log.rev = chosen.rev) ON true ORDER BY log.rev"
        )
        return statement, self._parameters

    def _bounds(self) -> str:
        return f"SELECT {self._after()} AS after, {self._upto()} AS upto FROM store"

    def _chosen(self, found: str) -> str:
        return (
            f"SELECT rev FROM ({found}) AS found WHERE rev <="
            f" coalesce((SELECT rev FROM stop), rev) ORDER BY rev LIMIT {self._query.limit + 1}"
        )

    def _span(self) -> str:
        if not self._query.since_latest:
            return "SELECT after, upto FROM bounds"
        return (
            f"SELECT greatest(after, coalesce(({self._newest()}) - 1, head)) AS after, upto"
            " FROM bounds, store"
        )

    def _head(self) -> str:
        return f"SELECT coalesce(max(rev), 0) FROM {self._schema}.log"

    def _after(self) -> str:
        after = f"{self._put(self._query.after)}::bigint"
        if self._query.since_time is None:
            return after
        return f"greatest({after}, {self._last_before(self._query.since_time)})"

    def _upto(self) -> str:
        if self._query.committed_before is None:
            return "head"
        return self._last_before(self._query.committed_before)

    def _last_before(self, time: Any) -> str:
        micros = self._put(to_micros(time))
        return f"{self._schema}.last_before({self._schema}.from_micros({micros}))"

    def _newest(self) -> str:
        """Return a query for the newest match."""
        newest = [self._newest_of(sources) for sources in self._alternatives()]
        return f"SELECT max(rev) FROM ({' UNION ALL '.join(newest)}) AS newest"

    def _newest_of(self, sources: list[Source]) -> str:
        """Return a query for the newest revision that all sources have.

        Each step goes down to where every source has one that is no newer than the step before.
        So it takes no more steps than the shortest source has revisions.
        """
        if len(sources) == 1:
            return f"({self._range(sources[0], '0', UPTO, 1, newest=True)})"
        lasts = [self._range(source, "0", "walk.rev", 1, newest=True) for source in sources]
        step = ", ".join(f"coalesce(({last}), 0)" for last in lasts)
        return (
            "(WITH RECURSIVE walk (rev, before) AS (SELECT upto, upto + 1 FROM bounds UNION ALL"
            f" SELECT least({step}), rev FROM walk WHERE rev > 0 AND rev < before)"
            " SELECT rev FROM walk WHERE rev = before)"
        )

    def _alternatives(self) -> list[list[Source]]:
        """Return sources whose union has every match: of each the revisions that all have."""
        query = self._query
        table, label = ("latest", "latest_label") if query.latest_only else ("log", "label")
        statuses: list[Source] = [(table, {"status": status.value}) for status in Status]
        if query.status is not None:
            statuses = [(table, {"status": query.status.value})]
        if query.labels:
            return [
                [(label, {"key": key, "value": value}) for key, value in labels.items()]
                + (statuses if query.status is not None else [])
                for labels in query.labels
            ]
        if query.status is not None or query.latest_only:
            return [[source] for source in statuses]
        return [[(table, {})]]

    def _range(
        self, source: Source, after: str, upto: str, limit: int, *, newest: bool = False
    ) -> str:
        """Return a query for the first revisions of a source in a range, or for the last ones.

        Whole keys are compared and ordered by, as they are in the index: of conditions on single
        columns the planner may think that walking another index to its end is as good.
        """
        table, equal = source
        names = ", ".join([*equal, "rev"])
        lower = ", ".join([*map(self._put, equal.values()), after])
        upper = ", ".join([*map(self._put, equal.values()), upto])
        order = ", ".join(f"{name}{' DESC' if newest else ''}" for name in [*equal, "rev"])
        return (
            f"SELECT rev FROM {self._schema}.{table} WHERE ({names}) > ({lower})"
            f" AND ({names}) <= ({upper}) ORDER BY {order} LIMIT {limit}"
        )

    def _searches(self) -> list[tuple[str, int | None]]:
        """Return queries that give revisions in order, and whether each of them matches.

        With each: after how many rows it is cut although more may match.
        """
        return [self._search(sources) for sources in self._alternatives()]

    def _search(self, sources: list[Source]) -> tuple[str, int | None]:
        """Walk one source, and look each of its revisions up in the others."""
        (first, *others) = sources
        if not others:
            return _all(self._range(first, AFTER, UPTO, self._query.limit + 1)), None
        tests = " AND ".join([self._test(source) for source in others])
        within = self._range(first, AFTER, UPTO, SCAN_LIMIT)
        return f"SELECT rev, {tests} AS matches FROM ({within}) AS found", SCAN_LIMIT

    def _test(self, source: Source) -> str:
        """Return whether a source has a revision that was found.

        The offset keeps the planner from reading all that the source has into a table of its own.
        """
        table, equal = source
        same = [f"other.{name} = {self._put(value)}" for name, value in equal.items()]
        return (
            f"EXISTS (SELECT FROM {self._schema}.{table} AS other"
            f" WHERE {' AND '.join([*same, 'other.rev = found.rev'])} OFFSET 0)"
        )


def _all(rows: str) -> str:
    return f"SELECT rev, true AS matches FROM ({rows}) AS found"


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


def _successors(schema: str) -> str:
    # What took the place of the revision that each first put of a refused commit expected:
    # among those right after it, where a state that changes often has it; else from the
    # state's latest revision backwards. Needs no lock: that one never changes.
    return (
        "WITH RECURSIVE asked AS MATERIALIZED (SELECT * FROM"
        " unnest(%s::text[], %s::bigint[]) WITH ORDINALITY AS asked (id, expected, place)),"
        " near AS MATERIALIZED (SELECT asked.place, asked.expected, next.*"
        " FROM asked CROSS JOIN LATERAL (SELECT log.rev, log.previous, log.token"
        f" FROM {schema}.log WHERE log.rev > asked.expected"
        f" AND log.rev <= asked.expected + {NEAR} AND log.id = asked.id"
        " ORDER BY log.rev LIMIT 1) AS next),"
        " later (place, expected, rev, previous, token) AS ("
        "SELECT asked.place, asked.expected, log.rev, log.previous, log.token FROM asked"
        f" JOIN {schema}.latest ON latest.id = asked.id AND latest.rev > asked.expected"
        f" JOIN {schema}.log ON log.rev = latest.rev"
        " WHERE NOT EXISTS (SELECT FROM near WHERE near.place = asked.place)"
        " UNION ALL"
        " SELECT place, expected, log.rev, log.previous, log.token"
        f" FROM later JOIN {schema}.log ON log.rev = later.previous"
        " WHERE later.previous > later.expected)"
        " SELECT place, rev, token FROM near WHERE previous = expected UNION ALL"
        " SELECT place, rev, token FROM later WHERE previous = expected"
    )
