"""The SQL of a page of what is due: it walks an index by flow and time."""

from typing import Any

from flowstate.driver import DueQuery
from flowstate.drivers.kit.times import FIRST, LAST, to_micros
from flowstate.drivers.postgres.pages import Parameters
from flowstate.ground.limits import MAX_PAGE_BYTES

__all__ = ["Due"]

MAX_OTHERS = 100
# Of what has no time: few at once, so that they push nothing else off a page.
MAX_TIMELESS = 100
DELAY = "delay", "due", "id, due, state_id, rev, body::text"
LATEST = "latest", "stalls_at", "id, stalls_at AS due, id AS state_id, rev, NULL AS body"
NEVER = "timestamptz 'infinity'"  # When idle states stall.


class Due:
    """Builds one statement, collecting its parameters in the order of their places."""

    def __init__(self, schema: str, query: DueQuery) -> None:
        self._schema = schema
        self._query = query
        self._is_idle = query.kind == "idle"
        is_delay = query.kind == "delay"
        table, self._due, self._columns = DELAY if is_delay else LATEST
        self._table = f"{schema}.{table}"
        # Delays have an index without flows; states are looked up in each flow that there is.
        self._by_flow = query.flows is not None or not is_delay
        self._rev = "found.rev" if not is_delay else self._rev_of_delay()
        self._parameters: Parameters = []

    def _rev_of_delay(self) -> str:
        """Return the revision of a delay; that of a timer is the latest one of its state."""
        latest = f"SELECT rev FROM {self._schema}.latest WHERE latest.id = found.state_id"
        return f"CASE WHEN found.rev >= 0 THEN found.rev ELSE ({latest}) END"

    def _put(self, *values: Any) -> str:
        self._parameters += values
        return "%s"

    def statement(self) -> tuple[str, Parameters]:
        """Return it, with its parameters."""
        schema, query = self._schema, self._query
        parts = [
            "asked AS MATERIALIZED (SELECT pg_catalog.clock_timestamp() AS now)",
            f"span AS MATERIALIZED (SELECT now, {self._last()} AS last FROM asked)",
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
            f" (SELECT * FROM {schema}.log WHERE log.rev = {self._rev} OFFSET 0) AS log ON true)"
        )
        return (
            f"WITH RECURSIVE {', '.join(parts)} SELECT {schema}.to_micros(span.now),"
            f" {schema}.to_micros(({self._next()})), {self._others()}, placed, fits, id,"
            f" {schema}.to_micros(due), state_id, rev, CASE WHEN fits THEN body END, log_rev,"
            f" log_id, {schema}.to_micros(committed_at), {schema}.to_micros(delayed_until),"
            f" CASE WHEN fits THEN log_body END FROM span LEFT JOIN whole ON true"
            " ORDER BY placed DESC, due, id"
        ), self._parameters

    def _last(self) -> str:
        """Return up to when something is due."""
        query = self._query
        if self._is_idle:
            return NEVER
        until = LAST if query.everything else query.until and to_micros(query.until)
        return f"coalesce({self._schema}.from_micros({self._put(until)}::bigint), now)"

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
        # One whose flow cannot be read is of all flows. An idle state may have none.
        unknown = [] if self._is_idle else [""]
        flows = self._put([*dict.fromkeys([*self._query.flows, *unknown])])
        return f'SELECT unnest({flows}::text[]) COLLATE "C" AS flow'

    def _page(self) -> str:
        """Return a query for the page.

        Whole keys are compared and ordered by, as they are in the index: of conditions on single
        columns the planner may think that walking another index to its end is as good.
        """
        due, after = self._due, self._query.after
        micros, id = (FIRST, "") if after is None else (to_micros(after[0]), after[1])
        if self._is_idle:
            # All of them are due at the first moment that there is.
            first = NEVER if micros == FIRST else "NULL"
            lower = f"{first}, {self._put(id)}"
        else:
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
        if self._query.after is not None or self._is_idle:
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
                (">", last, "<=" if self._query.kind == "delay" else "<", NEVER),
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
            f" <= (flows.flow, {NEVER}) ORDER BY flow, {self._due} LIMIT 1) AS found"
        )

    def _others(self) -> str:
        if not self._query.others:
            return "NULL"
        given = "SELECT flow FROM " + ("flows" if self._by_flow else "every")
        is_known = "flow IS NOT NULL" if self._is_idle else "flow <> ''"
        first = NEVER if self._is_idle else "timestamptz '-infinity'"
        low, high = f"(every.flow, {first})", "(every.flow, (SELECT last FROM span))"
        return (
            f"ARRAY(SELECT flow FROM every WHERE {is_known} AND flow <> ALL ({given})"
            f" AND (SELECT true FROM {self._table} WHERE (flow, {self._due}) >= {low}"
            f" AND (flow, {self._due}) <= {high} AND {self._due} IS NOT NULL"
            f" ORDER BY flow, {self._due} LIMIT 1)"
            f" ORDER BY flow LIMIT {MAX_OTHERS})"
        )
