"""Calls of HTTP: what is sent, what a task puts out, and what is an error."""

import base64
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from flowstate.engines.tasks.calls.built_in import BUILT_IN
from flowstate.engines.tasks.calls.secrets import MappedSecrets
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.calling import Caller, caller
from tests.engines.tasks.calls.serving import served

http = BUILT_IN["http"]
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


async def told(request: Request) -> Response:
    """Answer with what was asked."""
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": str(request.url.query),
            "headers": dict(request.headers),
            "body": (await request.body()).decode("latin-1"),
        }
    )


async def answered(request: Request) -> Response:
    """Answer with what is asked for."""
    query = request.query_params
    return Response(
        bytes.fromhex(query.get("hex", "")),
        int(query.get("status", "200")),
        {"content-type": query["type"]} if "type" in query else {},
    )


async def moved(request: Request) -> Response:
    return RedirectResponse("/moved?there", int(request.path_params["status"]))


@contextlib.asynccontextmanager
async def open_http(**options: Any) -> AsyncIterator[tuple[str, Caller]]:
    app = Starlette(
        routes=[
            Route("/answer", answered, methods=METHODS),
            Route("/go/{status}", moved, methods=METHODS),
            Route("/{path:path}", told, methods=METHODS),
        ]
    )
    async with served(app) as origin, caller(**options) as task:
        yield origin, task


async def sent(arguments: Mapping[str, Any], **more: Any) -> Any:
    """Return what a server is told by a call whose endpoint is relative to it."""
    async with open_http() as (origin, task):
        endpoint = origin + arguments.get("endpoint", "/")
        return await task(http, {"method": "post", **arguments, "endpoint": endpoint}, **more)


async def got(type_: str, content: bytes, **arguments: Any) -> Any:
    """Return what a task puts out when it gets a content."""
    query = {"hex": content.hex(), "type": type_}
    async with open_http() as (origin, task):
        more = {"query": query, **arguments}
        return await task(http, {"method": "get", "endpoint": f"{origin}/answer", **more})


@pytest.mark.parametrize(
    ("template", "values", "path"),
    [
        ("/pet/{petId}", {"petId": 7}, "/pet/7"),
        ("/pet/{a}/{b}", {"a": "x/y?z&#", "b": "é ü"}, "/pet/x%2Fy%3Fz%26%23/%C3%A9%20%C3%BC"),
        (
            "/{yes}/{no}/{none}/{missing}/end",
            {"yes": True, "no": False, "none": None},
            "/true/false///end",
        ),
        ("/{pet.id}", {"pet.id": 1, "pet": {"id": 2}}, "/1"),
        ("/{n}", {"n": 1.5}, "/1.5"),
        ("/{x}/{y}", {"x": "...", "y": "..%2f"}, "/.../..%252f"),
        ("/{x}", "no object", "/"),
        ("/{x}", {"x": "{y}", "y": "z"}, "/%7By%7D"),
    ],
)
async def test_a_name_in_braces_stands_for_a_value_of_the_input(
    template: str, values: Any, path: str
) -> None:
    assert (await sent({"endpoint": template}, input=values))["path"] == path


@pytest.mark.parametrize("value", [{}, [], {"a": 1}, [1], ".", ".."])
async def test_what_is_no_single_part_of_a_path_cannot_stand_in_a_uri(value: Any) -> None:
    async with open_http() as (origin, task):
        arguments = {"method": "get", "endpoint": f"{origin}/{{x}}"}
        kind, status, _ = await task.refused(http, arguments, input={"x": value})
    assert (kind, status) == ("expression", 400)


@pytest.mark.parametrize("written", ["${ .uri }", {"uri": " ${ .uri }\n"}])
async def test_a_uri_that_an_expression_gave_is_no_template(written: Any) -> None:
    found = await sent(
        {"endpoint": "/%7Bx%7D/{x}"}, input={"x": "leaked"}, written={"endpoint": written}
    )
    assert found["path"] == "/%7Bx%7D/%7Bx%7D"


async def test_an_endpoint_can_be_an_object() -> None:
    async with open_http() as (origin, task):
        arguments = {"method": "get", "endpoint": {"uri": f"{origin}/{{x}}"}}
        assert (await task(http, arguments, input={"x": "y"}))["path"] == "/y"


@pytest.mark.parametrize(
    ("endpoint", "query", "expected"),
    [
        ("/", {"a": 1, "b": True, "c": "x y&z", "d": None}, "a=1&b=true&c=x+y%26z"),
        ("/?a=1", {"b": [1, "two", None]}, "a=1&b=1&b=two&b="),
        ("/?a=1#there", {"b": {"c": 1}}, "a=1&b=%7B%22c%22%3A1%7D"),
        ("/?a=1", {}, "a=1"),
        ("/?s={s}", {}, "s=a%26b%3D1"),
    ],
)
async def test_the_query_is_added_to_that_of_the_endpoint(
    endpoint: str, query: Any, expected: str
) -> None:
    found = await sent({"endpoint": endpoint, "query": query}, input={"s": "a&b=1"})
    assert found["query"] == expected


@pytest.mark.parametrize(
    ("headers", "body", "type_", "expected"),
    [
        ({}, {"a": [1, None]}, "application/json", '{"a":[1,null]}'),
        ({}, [], "application/json", "[]"),
        ({}, False, "application/json", "false"),
        ({}, 0, "application/json", "0"),
        ({}, "text", "text/plain; charset=utf-8", "text"),
        ({"Content-Type": "application/xml"}, "<a/>", "application/xml", "<a/>"),
        ({"CONTENT-TYPE": "application/ld+json"}, {}, "application/ld+json", "{}"),
        (
            {"content-type": "application/x-www-form-urlencoded"},
            {"a": "x y", "b": [1, 2], "c": {"d": 1}},
            "application/x-www-form-urlencoded",
            "a=x+y&b=1&b=2&c=%7B%22d%22%3A1%7D",
        ),
        ({}, None, None, ""),
    ],
)
async def test_a_body_is_json_unless_a_header_says_otherwise(
    headers: Any, body: Any, type_: str | None, expected: str
) -> None:
    found = await sent({"headers": headers, "body": body})
    assert (found["headers"].get("content-type"), found["body"]) == (type_, expected)


async def test_headers_are_sent_as_texts_without_those_that_are_null() -> None:
    found = await sent({"headers": {"x-a": 1, "x-b": True, "x-c": None, "User-Agent": "me"}})
    assert found["headers"]["x-a"] == "1"
    assert found["headers"]["x-b"] == "true"
    assert "x-c" not in found["headers"]
    assert found["headers"]["user-agent"] == "me"


@pytest.mark.parametrize(
    "headers",
    [
        {"x": "a\r\nevil: 1"},
        {"x\r\n": "a"},
        {"x y": "a"},
        {"": "a"},
        {"x": "é"},
        {"x": "\0"},
        {"Host": "other.example"},
        {"content-length": "1"},
        {"Transfer-Encoding": "chunked"},
        {"connection": "close"},
        [],
        "x",
    ],
)
async def test_headers_that_would_make_another_request_are_refused(headers: Any) -> None:
    async with open_http() as (origin, task):
        arguments = {"method": "post", "endpoint": origin, "headers": headers}
        kind, _, detail = await task.refused(http, arguments)
    assert kind == "validation"
    assert "evil" not in detail


@pytest.mark.parametrize("method", ["", "GET /x HTTP/1.1\r\n", "connect", "a b"])
async def test_methods_that_are_none_are_refused(method: str) -> None:
    async with open_http() as (origin, task):
        assert (await task.refused(http, {"method": method, "endpoint": origin}))[0] == "validation"


@pytest.mark.parametrize("endpoint", [None, 1, {}, {"uri": None}, {"uri": {}}])
async def test_an_endpoint_without_a_uri_is_refused(endpoint: Any) -> None:
    async with open_http() as (_, task):
        arguments = {"method": "get", "endpoint": endpoint}
        assert (await task.refused(http, arguments))[0] == "validation"


async def test_what_may_change_something_has_a_key_that_stays_the_same() -> None:
    async with open_http() as (origin, task):

        async def key_of(method: str, key: str, **headers: str) -> str | None:
            arguments = {"method": method, "endpoint": origin, "headers": headers}
            found = await task(http, arguments, key=key)
            text: str | None = found["headers"].get("idempotency-key")
            return text

        first = await key_of("post", "i/main/ü/1")
        assert first == await key_of("post", "i/main/ü/1")
        assert first != await key_of("post", "i/main/ü/2")
        for method in ("PUT", "PATCH", "delete"):
            assert await key_of(method, "i/main/ü/1") == first
        assert await key_of("get", "i/main/ü/1") is None
        assert await key_of("post", "i", **{"Idempotency-Key": "mine"}) == "mine"


@pytest.mark.parametrize(
    ("type_", "content", "value"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/problem+json; charset=utf-8", b"[1]", [1]),
        ("Application/JSON", b"null", None),
        ("text/html", "é".encode(), "é"),
        ('text/plain; charset="ISO-8859-1"', b"\xe9", "é"),
        ("text/plain; charset=utf-16", "é".encode("utf-16"), "é"),
        ("text/plain; charset=iso-8859-12", b"x", "x"),
        ("text/plain; charset=punycode", b"x-", "x-"),
        ("text/plain; charset=nonsense", b"x", "x"),
        ("text/plain", b"\xff", "\N{REPLACEMENT CHARACTER}"),
        ("image/svg+xml", b"<a/>", "<a/>"),
        ("application/xml", b"<a/>", "<a/>"),
        ("application/octet-stream", b"\xff", "/w=="),
        ("image/png", b"\x89PNG", "iVBORw=="),
        ("application/json", b"", None),
    ],
)
async def test_content_is_read_by_its_type(type_: str, content: bytes, value: Any) -> None:
    assert await got(type_, content) == value


async def test_raw_is_the_content_in_base_64() -> None:
    text = await got("application/json", b'{"a": 1}', output="raw")
    assert base64.b64decode(text) == b'{"a": 1}'


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"NaN", b"{} {}"])
async def test_json_that_is_none_is_a_failure_of_communication(content: bytes) -> None:
    with pytest.raises(TaskError, match="the answer is no JSON, as it says") as caught:
        await got("application/json", content) if len(content) < 99 else await deep(content)
    assert caught.value.status == 500


async def deep(content: bytes) -> Any:
    async def answer(request: Request) -> Response:
        return Response(content, media_type="application/json")

    async with served(Starlette(routes=[Route("/", answer)])) as origin, caller() as task:
        return await task(http, {"method": "get", "endpoint": origin})


async def test_response_has_the_request_without_what_proves_who_asks() -> None:
    async with open_http() as (origin, task):
        arguments = {
            "method": "get",
            "endpoint": {
                "uri": f"{origin}/pet/1",
                "authentication": {"basic": {"username": "anna", "password": "word"}},
            },
            "headers": {"Accept": "application/json", "Cookie": "c=1", "Authorization": "x"},
            "query": {"a": 1},
            "output": "response",
        }
        found = await task(http, arguments)
    assert found["request"] == {
        "method": "get",
        "uri": f"{origin}/pet/1?a=1",
        "headers": {"Accept": "application/json"},
    }
    assert found["statusCode"] == 200
    assert found["headers"]["content-type"] == "application/json"
    assert found["content"]["headers"]["authorization"] == "Basic YW5uYTp3b3Jk"


async def test_secrets_in_the_request_are_not_part_of_the_response() -> None:
    content = {"use": {"secrets": ["key"]}}
    secrets = MappedSecrets({"key": "s3c/ret"})
    async with open_http(content=content, secrets=secrets) as (origin, task):
        arguments = {
            "method": "get",
            "endpoint": f"{origin}/answer",
            "headers": {"x-api-key": "s3c/ret"},
            "query": {"key": "s3c/ret", "other": 1},
            "output": "response",
        }
        found = await task(http, arguments)
    assert found["request"]["headers"] == {"x-api-key": "***"}
    assert found["request"]["uri"] == f"{origin}/answer?key=***&other=1"


async def fails(origin: str, task: Caller, path: str, **arguments: Any) -> TaskError:
    with pytest.raises(TaskError) as caught:
        await task(http, {"method": "get", "endpoint": origin + path, **arguments})
    return caught.value


@pytest.mark.parametrize(
    ("status", "title"),
    [
        (300, "Multiple Choices"),
        (304, "Not Modified"),
        (400, "Bad Request"),
        (401, "Unauthorized"),
        (403, "Forbidden"),
        (404, "Not Found"),
        (408, "Request Timeout"),
        (429, "Too Many Requests"),
        (500, "Internal Server Error"),
        (503, "Service Unavailable"),
        (599, "Status 599"),
    ],
)
async def test_a_status_that_is_no_success_is_an_error_of_communication(
    status: int, title: str
) -> None:
    async with open_http() as (origin, task):
        error = await fails(origin, task, f"/answer?status={status}&key=secret")
    assert error.to_json() == {
        "type": "https://open-workflow-specification.org/spec/1.0.0/errors/communication",
        "status": status,
        "title": title,
        "detail": f"GET {origin}/answer was answered with {status}",
    }


async def test_an_error_has_the_content_of_the_answer_if_it_is_small() -> None:
    async with open_http() as (origin, task):
        path = "/answer?status=400&type=application/json&hex="
        error = await fails(origin, task, path + b'{"why": "x"}'.hex())
        assert error.extra == {"response": {"content": {"why": "x"}}}
        for unreadable in (b"{", b'"' + b"x" * 5_000 + b'"'):
            assert (await fails(origin, task, path + unreadable.hex())).extra == {}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_error_unless_it_is_wanted(status: int) -> None:
    async with open_http() as (origin, task):
        error = await fails(origin, task, f"/go/{status}")
        assert error.status == status
        arguments = {"method": "post", "endpoint": f"{origin}/go/{status}", "redirect": True}
        found = await task(http, {**arguments, "body": {"a": 1}})
        again = await task(http, {**arguments, "method": "put", "body": 1})
    keeps = status in {307, 308}
    assert again["method"] == ("GET" if status == 303 else "PUT")
    assert (found["method"], found["query"]) == ("POST" if keeps else "GET", "there")
    assert found["body"] == ('{"a":1}' if keeps else "")


async def test_a_redirect_that_leads_nowhere_is_no_error_if_redirects_are_wanted() -> None:
    async with open_http() as (origin, task):
        arguments = {"method": "get", "endpoint": f"{origin}/answer?status=304", "redirect": True}
        assert await task(http, arguments) is None


async def test_a_runtime_without_outgoing_requests_says_so() -> None:
    async with open_http() as (origin, task):
        task.call.runtime.outgoing, outgoing = None, task.call.runtime.outgoing
        found = await task.refused(http, {"method": "get", "endpoint": origin})
        task.call.runtime.outgoing = outgoing
    assert found == ("configuration", 400, "this runtime makes no outgoing requests")
