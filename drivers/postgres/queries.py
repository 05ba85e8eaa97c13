"""The SQL of reads. Each read is one statement, and so sees one snapshot."""

from collections.abc import Mapping
from typing import Any

from flowstate.driver import DelayQuery, StateQuery
from flowstate.drivers.postgres.times import FIRST, LAST, to_micros
from flowstate.state import Status

__all__ = ["Queries"]

SCAN_LIMIT = 2_000
Parameters = list[Any]


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
        self.commit = f"SELECT * FROM {schema}.commit(%b, %b, %b, %b)"
        self.lock = f"SELECT {schema}.lock_commits()"
        self.head = f"SELECT coalesce(max(rev), 0) FROM {schema}.log"
        self.outlook = (
            f"SELECT ({self.head}), (SELECT {schema}.to_micros(min(due)) FROM {schema}.delay)"
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
        self.compact = f"SELECT * FROM {schema}.compact_some(%s, %s, %s)"
        self.drop_unreferenced = f"SELECT {schema}.drop_unreferenced(%s, %s)"
        # From each first put of a refused commit along its state's revisions, down to the one
        # that took the place of what it expected. Needs no lock: that one never changes.
        self.successors = (
            "WITH RECURSIVE later (place, expected, rev, previous, token) AS ("
            "SELECT asked.place, asked.expected, log.rev, log.previous, log.token"
            " FROM unnest(%s::text[], %s::bigint[]) WITH ORDINALITY AS asked (id, expected, place)"
            f" JOIN {schema}.latest ON latest.id = asked.id AND latest.rev > asked.expected"
            f" JOIN {schema}.log ON log.rev = latest.rev"
            " UNION ALL"
            " SELECT place, expected, log.rev, log.previous, log.token"
            f" FROM later JOIN {schema}.log ON log.rev = later.previous"
            " WHERE later.previous > later.expected)"
            " SELECT place, rev, token FROM later WHERE previous = expected"
        )
        self.revisions = (
            f"SELECT {self.state} FROM {schema}.log"
            " WHERE rev BETWEEN %s AND %s AND token = %s ORDER BY rev"
        )

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
            f" FROM {schema}.delay WHERE due > span.last)), page.id, {schema}.to_micros(page.due),"
            f" page.state_id, page.rev, page.body::text, {self.state}"
            " FROM span LEFT JOIN page ON true"
            f" LEFT JOIN {schema}.log ON log.rev = page.rev ORDER BY page.due, page.id"
        )
        return statement, [*parameters, *after]

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
        query = self._query
        newest = []
        for labels in query.labels:
            (first, *others) = labels.items()
            source = f"{self._label_table()} AS found WHERE key = {self._put(first[0])}"
            source += f" AND value = {self._put(first[1])}"
            tests = self._tests(others)
            newest.append(self._last_of(source + "".join(f" AND {test}" for test in tests)))
        if not newest:
            newest = [self._last_of(source) for source in self._by_status()]
        return f"SELECT max(rev) FROM ({' UNION ALL '.join(newest)}) AS newest"

    def _last_of(self, source: str) -> str:
        upto = "(SELECT upto FROM bounds)"
        return f"(SELECT rev FROM {source} AND rev <= {upto} ORDER BY rev DESC LIMIT 1)"

    def _searches(self) -> list[tuple[str, int | None]]:
        """Return queries that give revisions in order, and whether each of them matches.

        With each: after how many rows it is cut although more may match.
        """
        query = self._query
        if query.labels:
            return [self._search_labels(labels) for labels in query.labels]
        limit = query.limit + 1
        return [(_all(self._within(source, limit)), None) for source in self._by_status()]

    def _by_status(self) -> list[str]:
        query = self._query
        table = f"{self._schema}.{'latest' if query.latest_only else 'log'}"
        if query.status is not None:
            return [f"{table} WHERE status = {self._put(query.status.value)}"]
        if query.latest_only:
            return [f"{table} WHERE status = '{status.value}'" for status in Status]
        return [f"{table} WHERE true"]

    def _within(self, source: str, limit: int) -> str:
        return (
            f"SELECT rev FROM {source} AND rev > (SELECT after FROM span)"
            f" AND rev <= (SELECT upto FROM span) ORDER BY rev LIMIT {limit}"
        )

    def _search_labels(self, labels: Mapping[str, str]) -> tuple[str, int | None]:
        """Walk one label's revisions, and look each of them up under the others."""
        (first, *others) = labels.items()
        tests = self._tests(others)
        source = f"{self._label_table()} WHERE key = {self._put(first[0])}"
        source += f" AND value = {self._put(first[1])}"
        if not tests:
            return _all(self._within(source, self._query.limit + 1)), None
        within = self._within(source, SCAN_LIMIT)
        return f"SELECT rev, {' AND '.join(tests)} AS matches FROM ({within}) AS found", SCAN_LIMIT

    def _label_table(self) -> str:
        return f"{self._schema}.{'latest_label' if self._query.latest_only else 'label'}"

    def _tests(self, others: list[tuple[str, str]]) -> list[str]:
        tests = [
            f"EXISTS (SELECT FROM {self._label_table()} AS other WHERE other.key = {self._put(key)}"
            f" AND other.value = {self._put(value)} AND other.rev = found.rev)"
            for key, value in others
        ]
        if self._query.status is not None:
            status = self._put(self._query.status.value)
            tests.append(
                f"EXISTS (SELECT FROM {self._schema}.log"
                f" WHERE log.rev = found.rev AND log.status = {status})"
            )
        return tests


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
