"""The SQL of reads, apart from pages. Each is one statement, and sees one snapshot."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from psycopg import sql

from flowstate.driver import DueQuery, StateQuery
from flowstate.drivers.postgres.due import Due
from flowstate.drivers.postgres.pages import Page, Parameters

__all__ = ["PLAIN", "Queries"]

PLAIN = 2  # Parameters of a batch that only puts.


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
            " WHERE latest.id = %s AND latest.rev > 0"
        )
        self.revision = f"SELECT {self._state} FROM {schema}.log WHERE rev = %s AND id = %s"
        self.data = f"SELECT blob, annotations::text FROM {schema}.data WHERE checksum = %s"
        self.beat = f"SELECT {schema}.beat(%s::text[], %s::bigint[], %s::bigint[], %s::text[])"
        self.liveness = (
            f"SELECT latest.rev, {schema}.to_micros(stalls_at), {schema}.to_micros(beat_at),"
            f" coalesce(note, ''), {schema}.to_micros(pg_catalog.clock_timestamp()),"
            f" {self._delays('1')} AND latest.id = ANY (%s)"
        )
        self.delays_of = f"SELECT {self._delays('%s')} AND latest.id = %s"
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
            " AS log ON true WHERE latest.rev > 0"
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
        return Due(self._schema, query).statement()

    def count(self, query: StateQuery) -> tuple[str, Parameters]:
        """Return the statement that counts latest revisions, in an index."""
        status = [] if query.status is None else [query.status.value]
        by_status = " AND status = %s" if status else ""
        if not query.labels:
            return f"SELECT count(*) FROM {self._schema}.latest WHERE rev > 0{by_status}", status
        # Not a join: the planner may think that few have a label, and look each up in all others.
        table = f"{self._schema}.latest_label"
        one = f"SELECT rev FROM {table} WHERE key = %s AND value = %s{by_status}"
        found = " UNION ".join([" INTERSECT ".join([one] * len(each)) for each in query.labels])
        pairs = chain.from_iterable(labels.items() for labels in query.labels)
        parameters = [value for pair in pairs for value in (*pair, *status)]
        return f"SELECT count(*) FROM ({found}) AS found", parameters


def _successors(schema: str) -> str:
    # What took the place of the revision that each first put of a refused commit expected: from
    # the state's latest revision, or its last, backwards. A state that was expected not to be may
    # have begun and been forgotten several times, so its chain is searched for the token. Needs no
    # lock: it never changes.
    return (
        "WITH RECURSIVE asked (id, expected, wanted, place) AS MATERIALIZED ("
        "SELECT * FROM unnest(%s::text[], %s::bigint[], %s::text[]) WITH ORDINALITY),"
        " later (place, expected, wanted, rev, previous, token) AS ("
        "SELECT asked.place, asked.expected, asked.wanted, log.rev, log.previous, log.token"
        f" FROM asked JOIN {schema}.latest ON latest.id = asked.id"
        " AND abs(latest.rev) > asked.expected"
        f" JOIN {schema}.log ON log.rev = abs(latest.rev)"
        " UNION ALL"
        " SELECT place, expected, wanted, log.rev, log.previous, log.token"
        f" FROM later JOIN {schema}.log ON log.rev = later.previous"
        " WHERE later.previous > later.expected AND later.token <> later.wanted)"
        " SELECT asked.place, CASE WHEN latest.rev IS NULL"
        f" THEN asked.expected > 0 AND asked.expected < (SELECT floor FROM {schema}.meta)"
        " ELSE abs(latest.rev) > asked.expected END, later.rev, later.token"
        f" FROM asked LEFT JOIN {schema}.latest ON latest.id = asked.id"
        " LEFT JOIN later ON later.place = asked.place"
        " AND (later.previous <= later.expected OR later.token = later.wanted)"
    )
