"""Calls of HTTP."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from flowstate.engines.tasks.calls.exchange import (
    Request,
    endpoint_of,
    exchanged,
    form_value,
    header_texts,
)
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call

__all__ = ["http"]


async def http(arguments: Mapping[str, Any], call: Call) -> Any:
    """Send a request, and return the content of the answer, or what ``output`` says.

    Every request that may change something has the header ``Idempotency-Key``, which is the same
    whenever the task is tried again, unless the document sets its own.

    Raises:
        TaskError: ``communication``, with the status of an answer that is an error;
            ``authorization``: the host may not be requested; ``timeout``; ``validation``: the
            arguments make no request.
    """
    uri, policy = endpoint_of(arguments.get("endpoint"), call.written.get("endpoint"), call)
    query = arguments.get("query", {})
    if not isinstance(query, Mapping):
        raise TaskError.of("validation", "the query is an object")
    return await exchanged(
        Request(
            str(arguments.get("method", "GET")),
            with_query(uri, [*query.items()]),
            header_texts(arguments.get("headers")),
            arguments.get("body"),
            policy,
            arguments.get("output", "content"),
            bool(arguments.get("redirect", False)),
        ),
        call,
    )


def with_query(uri: str, query: list[tuple[str, Any]]) -> str:
    """Return a URI with parameters added to its query; those that are null are left out."""
    added = urlencode([(name, form_value(each)) for name, each in query if each is not None], True)
    base = uri.partition("#")[0]
    return f"{base}{'&' if '?' in base else '?'}{added}" if added else base
