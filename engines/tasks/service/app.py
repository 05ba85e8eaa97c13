"""The service over HTTP, as an ASGI application that can be mounted anywhere."""

import hmac
import logging
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, get_origin

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowstate.engines.tasks.service.endpoints import ENDPOINTS, Endpoint
from flowstate.engines.tasks.service.openapi import description
from flowstate.engines.tasks.service.problems import RefusedError, answered, problem
from flowstate.engines.tasks.service.tasks import Tasks

__all__ = ["app"]

logger = logging.getLogger("flowstate.engines")

MOST_BYTES = 2 * 1024 * 1024  # Of a body.


def app(tasks: Tasks, *, tokens: Collection[str] = (), most_bytes: int = MOST_BYTES) -> Starlette:
    """Return the service of some tasks.

    It has no CORS headers, so pages of other origins cannot read its answers.

    Args:
        tasks: open while it serves.
        tokens: one of them is needed as ``Authorization: Bearer``, but for ``/health``; empty: it
            needs none, and a warning is logged.
        most_bytes: of the body of a request.
    """
    if not tokens:
        logger.warning("tasks are served without tokens: everyone who reaches them may do anything")
    known = [each.encode() for each in tokens]
    serve = partial(_serve, tasks, known, most_bytes)
    routes = [Route(each.path, partial(serve, each), methods=[each.method]) for each in ENDPOINTS]
    routes.append(Route("/openapi.json", _openapi))
    return Starlette(routes=routes, exception_handlers={HTTPException: _refused})


async def _serve(
    tasks: Tasks, tokens: Collection[bytes], most: int, endpoint: Endpoint, request: Request
) -> Response:
    """Answer a request; an error becomes problem details."""
    try:
        if tokens and not endpoint.is_open:
            _check_token(request, tokens)
        query = _query(endpoint, request)
        body = await _body(endpoint, request, most)
        found = await endpoint.call(tasks, request, query, body)
    except Exception as error:  # noqa: BLE001 - all become problem details
        return problem(error)
    if isinstance(found, Response):
        return found
    return Response(status_code=204) if endpoint.gives is None else answered(found, endpoint.status)


def _check_token(request: Request, tokens: Collection[bytes]) -> None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    matches = [hmac.compare_digest(given.strip().encode(), each) for each in tokens]
    if scheme.lower() != "bearer" or not any(matches):
        raise RefusedError(401, "a token is needed", {"WWW-Authenticate": "Bearer"})


def _query(endpoint: Endpoint, request: Request) -> Any:
    """Return the parameters of a request, as their type."""
    given: dict[str, Any] = {**request.query_params, **request.path_params}
    for field in msgspec.structs.fields(endpoint.query):
        if get_origin(field.type) is Sequence and field.name in request.query_params:
            given[field.name] = request.query_params.getlist(field.name)
    return msgspec.convert(given, endpoint.query, strict=False)


async def _body(endpoint: Endpoint, request: Request, most: int) -> Any:
    """Return the body of a request, as its type."""
    if endpoint.takes is None:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise RefusedError(413, f"the body has more than {most} bytes")
    if isinstance(endpoint.takes, str):
        return bytes(body)
    try:
        return msgspec.json.decode(body, type=endpoint.takes)
    except RecursionError:
        raise RefusedError(400, "the body is nested too deeply") from None


async def _openapi(request: Request) -> Response:
    return answered(description(ENDPOINTS, request.scope.get("root_path", "") or "/"))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    headers = error.headers or {}
    return problem(RefusedError(error.status_code, error.detail, headers))
