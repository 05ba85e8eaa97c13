"""Errors as problem details over HTTP (RFC 9457)."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.responses import Response

from flowstate import (
    CommitUnknownError,
    DriverError,
    EngineOverloadedError,
    EngineStoppedError,
    HistoryRewoundError,
    InvalidCommandError,
    InvalidInputError,
    MailboxFullError,
    RevisionMismatchError,
    StateNotFoundError,
)
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.tasks.errors import DocumentError, TaskError
from flowstate.ground.frozen import EMPTY

__all__ = ["RefusedError", "answered", "problem"]

logger = logging.getLogger("flowstate.engines")

UNAVAILABLE = (CommitUnknownError, DriverError, EngineOverloadedError, EngineStoppedError)
STATUSES: list[tuple[type[BaseException] | tuple[type[BaseException], ...], int]] = [
    (msgspec.MsgspecError, 400),  # The first that fits counts.
    (StateNotFoundError, 404),
    ((InvalidCommandError, MisfitError, RevisionMismatchError), 409),
    ((InvalidInputError, HistoryRewoundError), 400),
    (DocumentError, 422),
    (MailboxFullError, 429),
    (UNAVAILABLE, 503),
]


class RefusedError(Exception):
    """A request is refused.

    Attributes:
        status: as of HTTP.
        detail: for people.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] = EMPTY) -> None:
        super().__init__(status, detail)
        self.status, self.detail, self.headers = status, detail, headers


def answered(value: Any, status: int = 200, headers: Mapping[str, str] = EMPTY) -> Response:
    """Return a value as an answer."""
    return Response(msgspec.json.encode(value), status, dict(headers), "application/json")


def problem(error: Exception) -> Response:
    """Return an error as an answer; what is not expected is logged, and not told."""
    headers = {"Retry-After": "1"} if isinstance(error, UNAVAILABLE) else {}
    match error:
        case TaskError():
            # A document chooses its status, which need not be one of HTTP for an error.
            is_known = 400 <= error.status <= 599  # noqa: PLR2004 - as HTTP has it
            return _problem(error.status if is_known else 500, error.to_json())
        case RefusedError():
            return _problem(error.status, {"detail": error.detail}, error.headers)
        case DocumentError():
            return _problem(422, {"detail": str(error), "problems": error.problems})
    for kind, status in STATUSES:
        if isinstance(error, kind):
            return _problem(status, {"detail": str(error)}, headers)
    logger.error("a request has failed", exc_info=error)
    return _problem(500, {"detail": "see the log of the server"})


def _problem(
    status: int, fields: Mapping[str, Any], headers: Mapping[str, str] = EMPTY
) -> Response:
    title = HTTPStatus(status).phrase if status in {*HTTPStatus} else "Error"
    content = {"type": "about:blank", "title": title, "status": status, **fields}
    return Response(msgspec.json.encode(content), status, dict(headers), "application/problem+json")
