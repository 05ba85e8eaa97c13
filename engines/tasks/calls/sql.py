"""``call: sql``: statements with bound parameters on databases that the host program names."""

from collections.abc import Mapping
from typing import Any

from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call

__all__ = ["sql"]


async def sql(arguments: Mapping[str, Any], call: Call) -> Any:
    """Run one statement in a transaction of its own: ``{database, query, parameters}``.

    It returns the rows as an array of objects, or ``{"changed": n}`` if it gives none. The query
    is a text as the document has it; parameters are written as ``:name``, and ``:key`` is the key
    of this call, the same whenever it is repeated.

    Raises:
        TaskError: ``configuration``: no such database, or the query was put together by an
            expression; ``communication``, ``timeout``, ``runtime``: see :class:`Database`.
    """
    database, query = call.runtime.databases.get(arguments["database"]), arguments["query"]
    if database is None:
        raise TaskError.of("configuration", f"no database {arguments['database']!r}")
    if call.written.get("query") != query:
        raise TaskError.of("configuration", "a query is a text; values belong in parameters")
    return await database.run(query, {"key": call.key, **(arguments.get("parameters") or {})})
