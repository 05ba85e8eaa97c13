"""One request and its answer, as calls of HTTP and of OpenAPI have them."""

import base64
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Unpack
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5

import attrs
import httpx
import msgspec

from flowstate.engines.tasks.calls.authentication import Authorization, authorization
from flowstate.engines.tasks.calls.outgoing import Answer, Options, outgoing_of
from flowstate.engines.tasks.calls.secrets import concealed
from flowstate.engines.tasks.calls.uri_templates import as_text, expanded
from flowstate.engines.tasks.errors import TaskError, error_type
from flowstate.engines.tasks.runtime import Call

__all__ = ["Request", "endpoint_of", "exchanged", "header_texts", "opened"]

FORM = "application/x-www-form-urlencoded"
READ_ONLY = {"GET", "HEAD", "OPTIONS", "TRACE"}
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
OF_THE_CONNECTION = {"connection", "content-length", "expect", "host", "keep-alive", "te"}
OF_THE_CONNECTION |= {"trailer", "transfer-encoding", "upgrade"}
CREDENTIALS = {"authorization", "cookie", "proxy-authorization"}
EXPRESSION = re.compile(r"\s*\$\{.*\}\s*", re.DOTALL)
# Those that browsers know and that take no longer than others.
CHARSET = re.compile(
    r"charset=\"?(utf-(?:8|16|32)|us-ascii|iso-8859-(?:[1-9]|1[013-6])|windows-125[0-8]"
    r"|shift_jis|euc-jp|gbk|big5)(?![\w-])"
)
MOST_OF_ERROR = 4_096  # Bytes of an answer that becomes part of an error.


@attrs.frozen
class Request:
    """What is asked of a server.

    Attributes:
        method: of HTTP.
        url: absolute, with its query.
        headers: by name.
        body: JSON, or a text, which is sent as it is; ``None``: there is none.
        policy: of authentication.
        output: ``content``, ``raw`` or ``response``.
        redirect: redirects are followed, and no error.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: Any = None
    policy: Mapping[str, Any] | None = None
    output: str = "content"
    redirect: bool = False


def endpoint_of(endpoint: Any, written: Any, call: Call) -> tuple[str, Mapping[str, Any] | None]:
    """Return the URI of an endpoint, with the values of the input in it, and its policy.

    Args:
        endpoint: a text or an object, evaluated.
        written: the same as it is written: what an expression gave is no template.
        call: whose input it is.
    """
    fields = endpoint if isinstance(endpoint, Mapping) else {"uri": endpoint}
    uri = fields.get("uri")
    if not isinstance(uri, str):
        raise TaskError.of("validation", "the endpoint has no URI")
    as_written = written.get("uri") if isinstance(written, Mapping) else written
    if not (isinstance(as_written, str) and EXPRESSION.fullmatch(as_written)):
        uri = expanded(uri, call.input)
    return uri, fields.get("authentication")


def header_texts(headers: Any) -> dict[str, str]:
    """Return headers as texts, without those that are null.

    Raises:
        TaskError: ``validation``: one of them cannot be sent.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise TaskError.of("validation", "headers are an object")
    found = {name: as_text(value) for name, value in headers.items() if value is not None}
    for name, text in found.items():
        if not TOKEN.fullmatch(name) or name.lower() in OF_THE_CONNECTION:
            raise TaskError.of("validation", f"the header {name[:100]!r} cannot be set")
        if not text.isprintable() or not text.isascii():
            raise TaskError.of("validation", f"the header {name!r} has a value that none can have")
    return found


async def exchanged(request: Request, call: Call) -> Any:
    """Send a request, and return what the task puts out.

    Raises:
        TaskError: ``communication``, with the status of an answer that is an error; and see
            ``Outgoing.request``.
    """
    headers = dict(request.headers)
    content = _encoded(request.body, headers)
    method = request.method.upper()
    if not TOKEN.fullmatch(method) or method == "CONNECT":
        raise TaskError.of("validation", "there is no such method")
    if method not in READ_ONLY:
        _default(headers, "idempotency-key", str(uuid5(NAMESPACE_URL, call.key)))
    options = Options(headers=headers, content=content, follow=request.redirect)
    async with opened(call, method, request.url, request.policy, **options) as (response, proof):
        answer = await Answer.of(response)
    granted = [proof.parameter] if proof is not None and proof.is_granted else []
    if not 200 <= answer.status < (400 if request.redirect else 300):  # noqa: PLR2004 - of HTTP
        raise await _error(method, answer, call, granted)
    if request.output == "raw":
        return base64.b64encode(answer.content).decode()
    found = await concealed(_content(answer), call, also=granted)
    if request.output != "response":
        return found
    shown = {name: each for name, each in headers.items() if name.lower() not in CREDENTIALS}
    asked = {"method": request.method, "uri": request.url, "headers": shown}
    return {
        "request": await concealed(asked, call, 1, granted),
        "statusCode": answer.status,
        "headers": await concealed(dict(answer.headers), call, also=granted),
        "content": found,
    }


@asynccontextmanager
async def opened(
    call: Call, method: str, url: str, policy: Any = None, **options: Unpack[Options]
) -> AsyncIterator[tuple[httpx.Response, Authorization | None]]:
    """Send a request with authentication; once more if a token was revoked before its time.

    As ``Outgoing.stream``, which gives nothing more while another token is asked for.
    """
    proof = None if policy is None else await authorization(policy, call)
    for may_renew in (True, False):
        options["auth"] = None if proof is None else proof.auth
        async with outgoing_of(call).stream(method, url, **options) as response:
            is_revoked = response.status_code == HTTPStatus.UNAUTHORIZED
            if not (may_renew and is_revoked and proof is not None and proof.is_granted):
                yield response, proof
                return
        proof = await authorization(policy, call, renewed=proof)


def _encoded(body: Any, headers: dict[str, str]) -> bytes:
    if body is None:
        return b""
    if isinstance(body, str):
        _default(headers, "content-type", "text/plain; charset=utf-8")
        return body.encode()
    kind = _default(headers, "content-type", "application/json")
    if kind.startswith(FORM) and isinstance(body, Mapping):
        return urlencode({name: form_value(each) for name, each in body.items()}, True).encode()
    return msgspec.json.encode(body)


def form_value(value: Any) -> Any:
    """Return a value as it stands in a query or a form; lists are repeated."""
    if isinstance(value, list):
        return [form_value(each) for each in value]
    return msgspec.json.encode(value).decode() if isinstance(value, Mapping) else as_text(value)


def _default(headers: dict[str, str], name: str, value: str) -> str:
    found = next((each for key, each in headers.items() if key.lower() == name), None)
    return headers.setdefault(name, value) if found is None else found


def _content(answer: Answer) -> Any:
    if not answer.content:
        return None
    kind, _, parameters = answer.headers.get("content-type", "").lower().partition(";")
    kind = kind.strip()
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return msgspec.json.decode(answer.content)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise TaskError.of("communication", "the answer is no JSON, as it says") from None
    if kind.startswith("text/") or kind.endswith(("+xml", "/xml", "/yaml", "+yaml", "/javascript")):
        charset = CHARSET.search(parameters)
        return answer.content.decode(charset[1] if charset else "utf-8", errors="replace")
    return base64.b64encode(answer.content).decode()


async def _error(method: str, answer: Answer, call: Call, granted: list[str]) -> TaskError:
    try:
        title = HTTPStatus(answer.status).phrase
    except ValueError:
        title = f"Status {answer.status}"
    place = answer.url.partition("?")[0]
    detail = await concealed(f"{method} {place} was answered with {answer.status}", call, 1)
    extra = {}
    if 0 < len(answer.content) <= MOST_OF_ERROR:
        with contextlib.suppress(TaskError):  # It says nothing that can be read.
            told = await concealed(_content(answer), call, also=granted)
            extra["response"] = {"content": told}
    return TaskError(error_type("communication"), answer.status, title, detail, extra=extra)
