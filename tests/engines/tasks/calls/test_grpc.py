"""gRPC against a real server: unary, streams, statuses, TLS, and what is refused."""

import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc as library  # type: ignore[import-untyped]
import pytest

from flowstate.engines.tasks.calls.grpc import STATUSES, grpc
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.calling import Caller, caller

CERTIFICATE = Path(__file__).parent / "localhost.pem"
PROTO = """
syntax = "proto3";
package shop.v1;
import "google/protobuf/timestamp.proto";
message Order { string item = 1; int32 pieces = 2; google.protobuf.Timestamp sent_at = 3; }
message Receipt { string text = 1; int64 number = 2; repeated string notes = 3; }
service Shop {
  rpc Buy (Order) returns (Receipt);
  rpc Follow (Order) returns (stream Receipt);
  rpc Fill (stream Order) returns (Receipt);
}
"""


def receipt(text: str, number: int = 0) -> bytes:
    """A Receipt as its bytes, so that the server needs no generated code."""
    return bytes([0x0A, len(text), *text.encode(), *([0x10, number] if number else [])])


class Shop(library.GenericRpcHandler):  # type: ignore[misc]
    """A service that is written out by hand."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, str]] = []

    def service(self, details: Any) -> Any:
        self.metadata.append(dict(details.invocation_metadata))
        if details.method == "/shop.v1.Shop/Buy":
            return library.unary_unary_rpc_method_handler(self.buy)
        if details.method == "/shop.v1.Shop/Follow":
            return library.unary_stream_rpc_method_handler(self.follow)
        return None

    async def buy(self, request: bytes, context: Any) -> bytes:
        item = request[2 : 2 + request[1]].decode()
        if item in STATUSES:
            await context.abort(library.StatusCode[item], f"no {item}")
        if item == "slow":
            await context.abort(library.StatusCode.DEADLINE_EXCEEDED, "late")
        return receipt(f"bought {item}", len(request))

    async def follow(self, request: bytes, context: Any) -> AsyncIterator[bytes]:  # noqa: ARG002
        for n in range(1, 21 if b"many" in request else 4):
            yield receipt("x" * 100, n)


@contextlib.asynccontextmanager
async def serving(credentials: Any = None) -> AsyncIterator[tuple[Shop, int]]:
    shop, server = Shop(), library.aio.server()
    server.add_generic_rpc_handlers([shop])
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield shop, port
    finally:
        await server.stop(None)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "shop.proto").write_text(PROTO)
    return tmp_path


@pytest.fixture
async def call(files: Path) -> AsyncIterator[Caller]:
    async with caller(outgoing={"private": ("127.0.0.1", "localhost"), "files": files}) as opened:
        yield opened


def asked(port: int, method: str = "Buy", **arguments: Any) -> dict[str, Any]:
    return {
        "proto": {"endpoint": "file:///shop.proto"},
        "service": {"name": "shop.v1.Shop", "host": "localhost", "port": port},
        "method": method,
        "arguments": arguments,
    }


async def test_a_method_is_called(call: Caller) -> None:
    async with serving() as (shop, port):
        answer = await call(grpc, asked(port, item="tea"))

    assert answer == {"text": "bought tea", "number": "5", "notes": []}
    assert shop.metadata[0]["idempotency-key"] == "i/main/call/1"


async def test_a_stream_of_answers_is_an_array(call: Caller) -> None:
    async with serving() as (_, port):
        answers = await call(grpc, asked(port, "Follow", item="tea"))

    assert [each["number"] for each in answers] == ["1", "2", "3"]


async def test_known_types_and_both_spellings_of_a_field_are_understood(call: Caller) -> None:
    async with serving() as (_, port):
        for name in ("sent_at", "sentAt"):
            arguments = {"item": "tea", name: "2026-12-01T00:00:00Z"}
            assert (await call(grpc, asked(port, **arguments)))["text"] == "bought tea"


@pytest.mark.parametrize("name", STATUSES)
async def test_each_status_is_an_error_with_the_status_of_http(call: Caller, name: str) -> None:
    async with serving() as (_, port):
        with pytest.raises(TaskError) as raised:
            await call(grpc, asked(port, item=name))

    kind, status = STATUSES[name]
    assert raised.value.type.endswith(f"/{kind}")
    assert (raised.value.status, raised.value.detail) == (status, f"no {name}")
    assert raised.value.extra["code"] == name


async def test_all_statuses_but_success_are_known() -> None:
    assert STATUSES.keys() == {each.name for each in library.StatusCode} - {"OK"}


async def test_a_policy_becomes_metadata(call: Caller) -> None:
    async with serving() as (shop, port):
        arguments = asked(port, item="tea")
        arguments["service"]["authentication"] = {"bearer": {"token": "hush"}}
        await call(grpc, arguments)

    assert shop.metadata[0]["authorization"] == "Bearer hush"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"method": "Sell"}, "configuration"),
        ({"method": "Fill"}, "configuration"),
        ({"service": {"name": "shop.v1.Other", "host": "localhost", "port": 1}}, "configuration"),
        ({"arguments": {"price": 1}}, "validation"),
        ({"arguments": {"pieces": "many"}}, "validation"),
        ({"arguments": {"pieces": 2**40}}, "validation"),
        ({"proto": {"endpoint": "file:///none.proto"}}, "authorization"),
    ],
)
async def test_what_does_not_fit_is_refused(
    call: Caller, change: dict[str, Any], kind: str
) -> None:
    assert (await call.refused(grpc, {**asked(1), **change}))[0] == kind


@pytest.mark.parametrize(
    "proto",
    [
        "syntax = 'proto3'; message",
        "import 'none.proto';",
        "import '/etc/passwd';",
        "import '../../../../etc/passwd';",
        "\0\1\2",
        "",
    ],
)
async def test_a_proto_file_with_errors_is_refused(call: Caller, files: Path, proto: str) -> None:
    (files / "shop.proto").write_text(proto)

    kind, status, detail = await call.refused(grpc, asked(1))
    assert (kind, status) == ("configuration", 400)
    assert "root:" not in detail


async def test_a_server_that_is_not_there_is_unavailable(call: Caller) -> None:
    async with serving() as (_, port):
        pass
    assert (await call.refused(grpc, asked(port)))[:2] == ("communication", 503)


async def test_only_hosts_that_are_allowed_are_called(files: Path) -> None:
    async with caller(outgoing={"files": files}) as call, serving() as (shop, port):
        assert (await call.refused(grpc, asked(port)))[:2] == ("authorization", 403)

    assert shop.metadata == []


async def test_a_proto_file_is_compiled_once(call: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (_, port):
        await call(grpc, asked(port, item="tea"))
        monkeypatch.setattr("sys.executable", "/no/such/program")
        await call(grpc, asked(port, item="tea"))


async def test_answers_are_bounded(files: Path) -> None:
    outgoing = {"private": ("localhost",), "files": files, "most_bytes": 1_200}
    async with caller(outgoing=outgoing) as call, serving() as (_, port):
        assert await call.refused(grpc, asked(port, "Follow", item="many")) == (
            "communication",
            500,
            "more answers than are allowed",
        )


async def test_tls_is_spoken_and_checked(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = CERTIFICATE.read_bytes()
    credentials = library.ssl_server_credentials([(pem, pem)])
    allowed = {"private": ("localhost",), "files": files}
    trusting = {**allowed, "tls": ssl.create_default_context(cafile=str(CERTIFICATE))}
    async with serving(credentials) as (_, port):
        monkeypatch.setattr("flowstate.engines.tasks.calls.grpc.TLS_PORT", port)
        async with caller(outgoing=trusting) as call:
            assert (await call(grpc, asked(port, item="tea")))["text"] == "bought tea"
        async with caller(outgoing=allowed) as call:
            assert (await call.refused(grpc, asked(port)))[:2] == ("communication", 503)
