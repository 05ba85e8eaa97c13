"""The SQL of reads, apart from pages of the log. Each is one statement, and sees one snapshot."""

from collections.abc import Sequence
from typing import Any

from psycopg import sql

from flowstate.driver import DueQuery, StateQuery
from flowstate.drivers.kit.times import FIRST, LAST, to_micros
from flowstate.drivers.postgres.pages import Page, Parameters
from flowstate.limits import MAX_PAGE_BYTES

__all__ = ["PLAIN", "Queries"]

PLAIN = 2  # Parameters of a batch that only puts.
MAX_OTHERS = 100
# Of what has no time: few at once, so that they push nothing else off a page.
MAX_TIMELESS = 100
DELAY = "delay", "due", "id, due, state_id, rev, body::text"
STALL = "latest", "stalls_at", "id, stalls_at AS due, id AS state_id, rev, NULL AS body"


class Queries:
    """Statements for the tables of one schema."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        head = f"SELECT coalesce(max(rev), 0) FROM {schema}.log"
        self._state = (
            f"log.rev, log.id, {schema}.to_micros(log.committed_at),"
            f" {schema}.to_micros(log.delayed_until), log.body::text"
        )
        self.commit = f"SELECT * FROM {schema}.commit(%b, %b, %b, %b)".encode()
        self.commit_puts = f"SELECT * FROM {schema}.commit(%b, %b, NULL, NULL)".encode()
        self.store_id = f"SELECT store_id FROM {schema}.meta"
        self.lock = f"SELECT {schema}.lock_commits()"
        log = sql.Literal(f"{schema}.log").as_string()
        lock = f"1718382456, {log}::regclass::oid::integer"
        # Lets commits know that the session listens. It waits for a commit that has found no
        # listener, so a look after this sees what that one has written.
        self.start_listening = f"SELECT pg_catalog.pg_advisory_lock_shared({lock})"
        self.stop_listening = f"SELECT pg_catalog.pg_advisory_unlock_shared({lock})"
        # Looks at all locks of the server, so it is not for every commit.
        self.listeners = (
            "SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted"
            f" AND mode = 'ShareLock' AND classid = 1718382456 AND objid = {log}::regclass::oid"
            " AND database = (SELECT oid FROM pg_catalog.pg_database"
            " WHERE datname = current_database())"
        )
        self.outlook = f"SELECT ({head}), (SELECT max(written) FROM {schema}.delay)"
        self.latest = (
            f"SELECT {self._state.replace('log.rev, log.id', 'latest.rev, latest.id')}"
            f" FROM {schema}.latest LEFT JOIN {schema}.log ON log.rev = latest.rev"
            " WHERE latest.id = %s"
        )
        self.revision = f"SELECT {self._state} FROM {schema}.log WHERE rev = %s AND id = %s"
        self.data = f"SELECT blob, annotations::text FROM {schema}.data WHERE checksum = %s"
        self.beat = f"SELECT {schema}.beat(%s::text[], %s::bigint[], %s::bigint[], %s::text[])"
        self.liveness = (
            f"SELECT latest.rev, {schema}.to_micros(stalls_at), {schema}.to_micros(beat_at),"
            f" coalesce(note, ''), {schema}.to_micros(pg_catalog.clock_timestamp()),"
            f" {self._delays('1')}"
            f" WHERE latest.id = ANY (%s)"
        )
        self.delays_of = f"SELECT {self._delays('%s')} WHERE latest.id = %s"
        self.stored_delays = (
            f"SELECT {schema}.to_micros(pg_catalog.clock_timestamp()),"
            f" ARRAY(SELECT id FROM {schema}.delay WHERE id = ANY (%s))"
        )
        self.compact = f"SELECT * FROM {schema}.compact_some(%s, %s, %s)"
        # What was stored at the head is meant for a commit that is still to come.
        self.drop_unreferenced = (
            f"SELECT {schema}.drop_unreferenced(%s, least(%s, ({head})), %s, %s)"
        )
        self.successors = _successors(schema)
        self.revisions = (
            f"SELECT {self._state} FROM {schema}.log"
            " WHERE rev BETWEEN %s AND %s AND token = %s ORDER BY rev"
        )

    def _delays(self, limit: str) -> str:
        """Return id and earliest delays of latest revisions, with the revisions of those."""
        schema = self._schema
        return (
            f"latest.id, delay.id, {schema}.to_micros(delay.due), delay.state_id, delay.rev,"
            f" delay.body::text, {self._state} FROM {schema}.latest LEFT JOIN LATERAL"
            f" (SELECT * FROM {schema}.delay WHERE state_id = latest.id AND rev = latest.rev"
            f" ORDER BY state_id, rev, due LIMIT {limit}) AS delay ON latest.delayed"
            f" LEFT JOIN LATERAL (SELECT * FROM {schema}.log WHERE log.rev = delay.rev OFFSET 0)"
            " AS log ON true"
        )

    def commit_of(self, parameters: Sequence[Any]) -> bytes:
        """Return the statement for the parameters of a batch."""
        return self.commit if len(parameters) > PLAIN else self.commit_puts

    def page(self, query: StateQuery) -> tuple[str, Parameters]:
        """Return the statement for a page of states.

        Each row has head, floor, the revision where the search broke off, if it did, and how many
        revisions were found; then the columns of a state, or nulls if there is none. What is found
        beyond the bytes of the page is not sent, and one revision beyond its limit is.
        """
        return Page(self._schema, query).statement()

    def due(self, query: DueQuery) -> tuple[str, Parameters]:
        """Return the statement for a page of what is due.

        Each row has now, when the next one after the page's time is due, other flows, whether it
        has a place in the order, and whether its bytes are within the page; then the columns of
        what is due, and those of its revision, without the bytes that are not.
        """
        return _Due(self._schema, query).statement()


class _Due:
    """Builds one statement, collecting its parameters in the order of their places."""

    def __init__(self, schema: str, query: DueQuery) -> None:
        self._schema = schema
        self._query = query
        table, self._due, self._columns = DELAY if query.kind == "delay" else STALL
        self._table = f"{schema}.{table}"
        # Delays have an index without flows; what stalls is looked up in each flow that there is.
        self._by_flow = query.flows is not None or query.kind == "stall"
        self._parameters: Parameters = []

    def _put(self, *values: Any) -> str:
        self._parameters += values
        return "%s"

    def statement(self) -> tuple[str, Parameters]:
        schema, query = self._schema, self._query
        until = LAST if query.everything else query.until and to_micros(query.until)
        last = f"{schema}.from_micros({self._put(until)}::bigint)"
        parts = [
            "asked AS MATERIALIZED (SELECT pg_catalog.clock_timestamp() AS now)",
            f"span AS MATERIALIZED (SELECT now, coalesce({last}, now) AS last FROM asked)",
        ]
        if query.others or (query.flows is None and self._by_flow):
            parts.append(f"every (flow) AS ({self._every_flow()})")
        if self._by_flow:
            parts.append(f"flows AS MATERIALIZED ({self._flows()})")
        placed, unplaced = (
            "SELECT true AS placed, page.* FROM page",
            "SELECT false, * FROM timeless",
        )
        parts += [
            f"page AS MATERIALIZED ({self._page()})",
            f"timeless AS MATERIALIZED ({self._timeless()})",
            f"found AS ({placed} UNION ALL {unplaced})",
        ]
        # The offset keeps the planner from reading the whole log for a large page.
        size = "coalesce(octet_length(found.body), 0) + coalesce(octet_length(log.body::text), 0)"
        parts.append(
            f"whole AS (SELECT found.*, log.rev AS log_rev, log.id AS log_id, committed_at,"
            f" delayed_until, log.body::text AS log_body, sum({size}) OVER (ORDER BY"
            f" placed DESC, due, found.id ROWS UNBOUNDED PRECEDING) - ({size}) < {MAX_PAGE_BYTES}"
            " AS fits"
            " FROM found LEFT JOIN LATERAL"
            f" (SELECT * FROM {schema}.log WHERE log.rev = found.rev OFFSET 0) AS log ON true)"
        )
        return (
            f"WITH RECURSIVE {', '.join(parts)} SELECT {schema}.to_micros(span.now),"
            f" {schema}.to_micros(({self._next()})), {self._others()}, placed, fits, id,"
            f" {schema}.to_micros(due), state_id, rev, CASE WHEN fits THEN body END, log_rev,"
            f" log_id, {schema}.to_micros(committed_at), {schema}.to_micros(delayed_until),"
            f" CASE WHEN fits THEN log_body END FROM span LEFT JOIN whole ON true"
            " ORDER BY placed DESC, due, id"
        ), self._parameters

    def _every_flow(self) -> str:
        """Return a query for the flows that something is stored for, by their index."""
        first = f"SELECT flow FROM {self._table} WHERE {self._due} IS NOT NULL"
        return (
            f"({first} ORDER BY flow LIMIT 1) UNION ALL SELECT ({first} AND flow > every.flow"
            " ORDER BY flow LIMIT 1) FROM every WHERE every.flow IS NOT NULL"
        )

    def _flows(self) -> str:
        if self._query.flows is None:
            return "SELECT flow FROM every WHERE flow IS NOT NULL"
        # One whose flow cannot be read is of all flows.
        flows = self._put([*dict.fromkeys([*self._query.flows, ""])])
        return f'SELECT unnest({flows}::text[]) COLLATE "C" AS flow'

    def _page(self) -> str:
        """Return a query for the page.

        Whole keys are compared and ordered by, as they are in the index: of conditions on single
        columns the planner may think that walking another index to its end is as good.
        """
        due, after = self._due, self._query.after
        micros, id = (FIRST, "") if after is None else (to_micros(after[0]), after[1])
        lower = f"{self._schema}.from_micros({self._put(micros)}), {self._put(id)}"
        last, order = "(SELECT last FROM span)", f"ORDER BY due, id LIMIT {self._query.limit + 1}"
        if not self._by_flow:
            return (
                f"SELECT {self._columns} FROM {self._table} WHERE (due, id) > ({lower})"
                f" AND due <= {last} {order}"
            )
        return (
            f"SELECT found.* FROM flows CROSS JOIN LATERAL (SELECT {self._columns}"
            f" FROM {self._table} WHERE (flow, {due}, id) > (flows.flow, {lower})"
            f" AND (flow, {due}) <= (flows.flow, {last}) AND {due} IS NOT NULL"
            f" ORDER BY flow, {due}, id LIMIT {self._query.limit + 1}) AS found {order}"
        )

    def _timeless(self) -> str:
        """Return a query for those whose time no page can go on from."""
        if self._query.after is not None:
            return "SELECT page.* FROM page LIMIT 0"
        first, last = f"{self._schema}.from_micros({FIRST})", f"{self._schema}.from_micros({LAST})"
        key, flow = ("flow, ", "flows.flow, ") if self._by_flow else ("", "")
        outside = [
            f"(SELECT {self._columns} FROM {self._table}"
            f" WHERE ({key}{self._due}) {above} ({flow}{low}) AND ({key}{self._due}) {below}"
            f" ({flow}{high}) AND {self._due} IS NOT NULL"
            f" ORDER BY {key}{self._due} LIMIT {MAX_TIMELESS})"
            for above, low, below, high in (
                (">=", "timestamptz '-infinity'", "<", first),
                (">", last, "<=", "timestamptz 'infinity'"),
            )
        ]
        both = " UNION ALL ".join(outside)
        if not self._by_flow:
            return both
        return f"SELECT found.* FROM flows CROSS JOIN LATERAL ({both}) AS found"

    def _next(self) -> str:
        later = f"SELECT {self._due} FROM {self._table} WHERE {self._due} IS NOT NULL AND"
        last = "(SELECT last FROM span)"
        if not self._by_flow:
            return f"{later} {self._due} > {last} ORDER BY {self._due} LIMIT 1"
        return (
            f"SELECT min(found.{self._due}) FROM flows CROSS JOIN LATERAL"
            f" ({later} (flow, {self._due}) > (flows.flow, {last}) AND (flow, {self._due})"
            f" <= (flows.flow, timestamptz 'infinity') ORDER BY flow, {self._due} LIMIT 1) AS found"
        )

    def _others(self) -> str:
        if not self._query.others:
            return "NULL"
        given = "SELECT flow FROM " + ("flows" if self._by_flow else "every")
        return (
            f"ARRAY(SELECT flow FROM every WHERE flow <> '' AND flow <> ALL ({given})"
            f" AND (SELECT {self._due} FROM {self._table} WHERE flow = every.flow AND {self._due}"
            f" IS NOT NULL ORDER BY flow, {self._due} LIMIT 1) <= (SELECT last FROM span)"
            f" ORDER BY flow LIMIT {MAX_OTHERS})"
        )


def _successors(schema: str) -> str:
    # What took the place of the revision that each first put of a refused commit expected: from
    # the state's latest revision backwards. Needs no lock: it never changes.
    return (
        "WITH RECURSIVE asked (id, expected, place) AS MATERIALIZED ("
        "SELECT * FROM unnest(%s::text[], %s::bigint[]) WITH ORDINALITY),"
        " later (place, expected, rev, previous, token) AS ("
        "SELECT asked.place, asked.expected, log.rev, log.previous, log.token FROM asked"
        f" JOIN {schema}.latest ON latest.id = asked.id AND latest.rev > asked.expected"
        f" JOIN {schema}.log ON log.rev = latest.rev"
        " UNION ALL"
        " SELECT place, expected, log.rev, log.previous, log.token"
        f" FROM later JOIN {schema}.log ON log.rev = later.previous"
        " WHERE later.previous > later.expected)"
        " SELECT asked.place, coalesce(latest.rev > asked.expected, false),"
        " later.previous = later.expected, later.rev, later.token"
        f" FROM asked LEFT JOIN {schema}.latest ON latest.id = asked.id"
        " LEFT JOIN later ON later.place = asked.place AND later.previous <= later.expected"
    )
