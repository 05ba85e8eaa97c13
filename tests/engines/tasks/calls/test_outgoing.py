"""What outgoing requests may reach, and what an answer may do to whom it is for."""

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from flowstate.engines.tasks.calls import outgoing
from flowstate.engines.tasks.calls.addresses import host_name, is_public
from flowstate.engines.tasks.calls.authentication import Authorization
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.serving import bytes_served, served, trusting

LOCAL = ("127.0.0.1", "localhost")

NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.8.9.10
168.63.129.16 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
192.88.99.1 192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250 240.0.0.1
255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1::1
2002:a9fe:a9fe::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1
"""

PUBLIC = """
1.1.1.1 8.8.8.8 93.184.216.34 172.32.0.1 192.169.0.1 ::ffff:8.8.8.8 64:ff9b::808:808
2606:4700:4700::1111 2a00:1450:4001:81b::200e
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_an_address_that_is_not_everyones_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC.split())
def test_an_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "127.1",
        "0177.0.0.1",
        "127.0.0.0x1",
        "1.2.3.4.5",
        "a b",
        "a/b",
        "",
        ".",
        "a..b",
        "[::1]",
        "localhost\0.example",
        "①②⑦.0.0.1",
        "x" * 64,
        ".".join(["x" * 60] * 5),
    ],
)
def test_other_spellings_of_addresses_are_no_names_of_hosts(host: str) -> None:
    with pytest.raises(ValueError, match="no name of a host"):
        host_name(host)


def test_a_name_is_compared_in_lower_case_and_without_its_last_dot() -> None:
    assert host_name("API.Example.") == "api.example"


def answers(*addresses: str) -> Any:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


async def refused(outgoing: Outgoing, url: str, **options: Any) -> tuple[str, int, str]:
    with pytest.raises(TaskError) as caught:
        await outgoing.request("GET", url, **options)
    return caught.value.type.rpartition("/")[2], caught.value.status, caught.value.detail


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://public.example:22/",
        "https://user:word@public.example/",
        "http://public.example/",
        "ftp://public.example/",
        "file:///etc/passwd",
        "gopher://public.example/",
        "//public.example/",
        "/etc/passwd",
        "https://",
    ],
)
async def test_what_is_not_a_public_host_over_https_is_refused(url: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host == "localhost" else ["8.8.8.8"]

    async with Outgoing(resolve=resolve) as outgoing:
        kind, status, _ = await refused(outgoing, url)
    assert (kind, status) == ("authorization", 403)


@pytest.mark.parametrize(
    "url",
    ["https://a:x/", "https://0177.0.0.1/", "https://\0/", "https://exa mple/", "https://[::1/"],
)
async def test_what_is_no_url_is_refused(url: str) -> None:
    async with Outgoing() as outgoing:
        kind, _, detail = await refused(outgoing, url)
    assert kind in {"validation", "authorization"}
    assert url not in detail


@pytest.mark.parametrize(
    "url",
    [
        "http://public.example\\@127.0.0.1:{port}/",
        "http://public.example\\\\127.0.0.1:{port}/",
        "http://127.0.0.1:{port}#@public.example/",
        "http://127.0.0.1:{port}\\.public.example/",
        "http://127。0。0。1:{port}/",
        "http://\uff11\uff12\uff17.0.0.1:{port}/",
        "http://%31%32%37.0.0.1:{port}/",
        "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/",
        "http://l\tocalhost:{port}/",
        "\thttp://localhost:{port}/",
        "http:\\\\localhost:{port}/",
        "http:///localhost:{port}/",
        "http:localhost:{port}/",
        "HTTP://LOCALHOST.:{port}/",
        "http://localhost%00.public.example:{port}/",
        "http://localhost%2epublic.example:{port}/",
        "http://[::ffff:7f00:1]:{port}/",
        "http://[0:0:0:0:0:ffff:127.0.0.1]:{port}/",
        "http://[::127.0.0.1%25lo]:{port}/",
        "http://0/",
        "http://0:{port}/",
        "http://127.0.0.1.:{port}/",
        "http://017700000001:{port}/",
    ],
)
async def test_no_spelling_of_a_url_reaches_a_server_that_is_not_allowed(url: str) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        if host.strip().rstrip(".").lower() == "localhost":
            return ["127.0.0.1"]
        raise OSError("there is no other host")

    reached = []

    async def answer(request: Request) -> Response:
        reached.append(request.url)
        return Response()

    app = Starlette(routes=[Route("/{path:path}", answer)])
    schemes = ["http", "https"]
    async with served(app) as origin, Outgoing(schemes=schemes, resolve=resolve) as outgoing:
        await refused(outgoing, url.replace("{port}", origin.rpartition(":")[2]))
    assert reached == []


async def test_one_private_address_among_public_ones_is_enough_to_refuse_a_host() -> None:
    async with Outgoing(resolve=answers("8.8.8.8", "10.0.0.1")) as outgoing:
        kind, _, detail = await refused(outgoing, "https://public.example/")
    assert (kind, detail) == (
        "authorization",
        "the host 'public.example' has an address that is not public",
    )


async def test_only_hosts_that_match_a_glob_are_reached() -> None:
    async with Outgoing(hosts=["*.example"], resolve=answers("8.8.8.8")) as outgoing:
        assert await outgoing.addresses("api.example", 443) == ("8.8.8.8",)
        with pytest.raises(TaskError, match=r"'api\.other' is not among those that are allowed"):
            await outgoing.addresses("api.other", 443)
        with pytest.raises(TaskError, match="not among"):
            await outgoing.addresses("example", 443)


async def test_a_host_that_does_not_exist_is_a_failure_of_communication() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    async with Outgoing(resolve=resolve) as outgoing:
        assert await refused(outgoing, "https://no.example/") == (
            "communication",
            500,
            "the host 'no.example' was not found",
        )


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A name is resolved once: a second answer, to another address, would never be asked for."""
    asked = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    async with served(echo()) as origin:
        port = origin.rpartition(":")[2]
        async with Outgoing(private=["api.example"], resolve=resolve) as outgoing:
            answer = await outgoing.request("GET", f"http://api.example:{port}/")
    assert answer.status == 200
    assert asked == ["api.example"]


def echo() -> Starlette:
    async def say(request: Request) -> Response:
        return Response(
            f"{request.method} {sorted(request.headers)} {len(await request.body())}",
            headers={"set-cookie": "session=1"},
        )

    async def go(request: Request) -> Response:
        return RedirectResponse(request.query_params["to"], int(request.query_params["status"]))

    methods = ["GET", "POST"]
    return Starlette(
        routes=[Route("/go", go, methods=methods), Route("/{x:path}", say, methods=methods)]
    )


@contextlib.asynccontextmanager
async def open_echo(**options: Any) -> AsyncIterator[tuple[str, Outgoing]]:
    async with served(echo()) as origin, Outgoing(**{"private": LOCAL, **options}) as outgoing:
        yield origin, outgoing


@pytest.mark.parametrize(
    "to",
    [
        "https://169.254.169.254/",
        "https://private.example/",
        "http://public.example/",
        "file:///etc/passwd",
        "https://[::1]/",
        "//10.0.0.1/",
    ],
)
async def test_a_redirect_is_checked_like_a_request(to: str) -> None:
    resolve = answers("10.1.1.1")
    async with open_echo(private=["127.0.0.1"], resolve=resolve) as (origin, outgoing):
        kind, _, _ = await refused(
            outgoing, str(httpx.URL(f"{origin}/go", params={"to": to, "status": 302})), follow=True
        )
    assert kind == "authorization"


async def test_redirects_are_followed_only_if_asked_for_and_a_few_times() -> None:
    async with open_echo(most_redirects=2) as (origin, outgoing):
        once = f"{origin}/go?status=302&to=/there"
        twice = str(httpx.URL(f"{origin}/go", params={"to": once, "status": 307}))
        thrice = str(httpx.URL(f"{origin}/go", params={"to": twice, "status": 301}))
        assert (await outgoing.request("GET", once)).status == 302
        found = await outgoing.request("GET", twice, follow=True)
        assert (found.status, found.url) == (200, f"{origin}/there")
        assert await refused(outgoing, thrice, follow=True) == (
            "communication",
            500,
            "more than 2 redirects",
        )


async def test_another_host_is_not_told_who_asks() -> None:
    headers = {"x-api-key": "k", "cookie": "c=1", "content-type": "text/plain"}
    proof = Authorization("Bearer", "t").auth
    async with served(echo()) as other, open_echo() as (origin, outgoing):
        for status in (302, 307):
            url = httpx.URL(f"{origin}/go", params={"to": f"{other}/", "status": status})
            found = await outgoing.request(
                "POST", str(url), headers=headers, content=b"body", auth=proof, follow=True
            )
            for told in (b"x-api-key", b"cookie", b"authorization"):
                assert told not in found.content
        here = httpx.URL(f"{origin}/go", params={"to": "/x", "status": 307})
        found = await outgoing.request(
            "POST", str(here), headers=headers, content=b"body", auth=proof, follow=True
        )
        assert b"x-api-key" in found.content
        assert b"authorization" in found.content


async def test_cookies_of_one_answer_are_not_sent_with_the_next_request() -> None:
    async with open_echo() as (origin, outgoing):
        for _ in range(2):
            found = await outgoing.request("GET", origin)
            assert found.headers["set-cookie"] == "session=1"
            assert b"cookie" not in found.content


async def test_proxies_and_credentials_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with open_echo() as (origin, outgoing):
        assert (await outgoing.request("GET", origin)).status == 200


async def test_a_stand_in_answers_for_another_origin() -> None:
    async with served(echo()) as origin:
        stand_ins = {"https://petstore.swagger.io": origin}
        async with Outgoing(stand_ins=stand_ins) as outgoing:
            found = await outgoing.request("GET", "https://petstore.swagger.io/v2/pet/1")
            assert (found.status, found.url) == (200, "https://petstore.swagger.io/v2/pet/1")
            assert (await refused(outgoing, origin))[0] == "authorization"


async def test_tls_is_checked() -> None:
    async with served(echo(), tls=True) as origin:
        port = origin.rpartition(":")[2]
        async with Outgoing(private=["*"], tls=trusting()) as outgoing:
            assert (await outgoing.request("GET", origin)).status == 200
            kind, _, detail = await refused(outgoing, f"https://127.0.0.1:{port}/")
            assert (kind, "TLS" in detail) == ("communication", True)
        async with Outgoing(private=["*"]) as outgoing:
            kind, _, detail = await refused(outgoing, origin)
            assert (kind, "TLS" in detail) == ("communication", True)


async def test_a_port_that_nothing_listens_on_is_a_failure_of_communication() -> None:
    async with open_echo() as (origin, outgoing):
        pass
    async with Outgoing(private=LOCAL) as outgoing:
        assert await refused(outgoing, f"{origin}/path?key=secret") == (
            "communication",
            500,
            f"cannot connect to {origin}: it takes no connections",
        )


async def never(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def slowly(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)  # As a server does that holds a connection for as long as it can.


@pytest.mark.parametrize("behaviour", [never, slowly])
async def test_a_slow_answer_ends_after_the_time_of_the_whole(behaviour: Any) -> None:
    async with bytes_served(behaviour) as origin, Outgoing(private=LOCAL, timeout=0.1) as outgoing:
        assert await refused(outgoing, f"{origin}/?key=secret") == (
            "timeout",
            408,
            f"{origin} has not answered within 0.1 seconds",
        )


def answer_of(head: str, *parts: bytes) -> Any:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + head.encode() + b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def bomb(layers: int) -> bytes:
    content = b"\0" * 3_000_000
    for _ in range(layers):
        content = gzip.compress(content)
    return content


@pytest.mark.parametrize(
    ("head", "parts", "text"),
    [
        ("connection: close", [b"x" * 70_000] * 20, "has more than 1000000 bytes"),
        ("content-length: 3000000", [b"x" * 3_000_000], "has more than 1000000 bytes"),
        ("content-encoding: gzip", [bomb(1)], "has more than 1000000 bytes"),
        ("content-encoding: gzip, gzip", [bomb(2)], "has an encoding that was not asked for"),
        ("content-encoding: br", [b"x"], "has an encoding that was not asked for"),
        ("content-encoding: gzip", [b"x" * 100], "is no gzip"),
        ("content-encoding: gzip", [gzip.compress(b"x" * 1000)[:-10]], "is cut short"),
    ],
)
async def test_a_body_is_bounded_also_when_it_is_decompressed(
    head: str, parts: list[bytes], text: str
) -> None:
    async with (
        bytes_served(answer_of(head, *parts)) as origin,
        Outgoing(private=LOCAL, most_bytes=1_000_000) as outgoing,
    ):
        assert await refused(outgoing, origin) == (
            "communication",
            500,
            f"the body of the answer {text}",
        )


async def test_a_compressed_body_is_given_decompressed() -> None:
    content = bytes(range(256)) * 400
    one = zlib.compressobj(wbits=31)
    parts = [
        one.compress(content),
        one.flush(zlib.Z_SYNC_FLUSH),
        one.compress(content),
        one.flush(),
    ]
    async with (
        bytes_served(answer_of("content-encoding: gzip", *parts)) as origin,
        Outgoing(private=LOCAL) as outgoing,
    ):
        found = await outgoing.request("GET", origin)
    assert found.content == content * 2
    assert "content-encoding" not in found.headers


@pytest.mark.parametrize(
    "head",
    [
        "x: " + "y" * 200_000,
        "\r\n".join(f"x{n}: {n}" for n in range(20_000)),
        "content-length: x",
        "transfer-encoding: chunked\r\n\r\nzz",
        "no header at all",
        "content-length: 10\r\n\r\nshort",
        "location: https://[::1",
    ],
)
async def test_what_is_not_http_is_a_failure_of_communication(head: str) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 302 Found\r\n" + head.encode() + b"\r\n\r\n")

    async with bytes_served(answer) as origin, Outgoing(private=LOCAL) as outgoing:
        assert await refused(outgoing, origin, follow=True) == (
            "communication",
            500,
            f"{origin} has not answered as HTTP demands",
        )


async def test_an_answer_can_be_read_piece_by_piece() -> None:
    async with (
        bytes_served(answer_of("connection: close", b"one\n", b"two\n")) as origin,
        Outgoing(private=LOCAL) as outgoing,
        outgoing.stream("GET", origin) as response,
    ):
        assert [line async for line in response.aiter_lines()] == ["one", "two"]


async def test_long_answers_keep_no_others_waiting_and_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing, "MOST_AT_ONCE", 1)
    app = Starlette(routes=[Route("/", lambda _: Response("x"))])
    async with served(app) as origin, Outgoing(private=LOCAL, timeout=5.0) as client:
        async with client.stream("GET", origin, timeout=1000.0):
            assert (await client.request("GET", origin)).status == 200
            with pytest.raises(TaskError, match="communication 503"):
                await client.request("GET", origin, timeout=1000.0)
        assert (await client.request("GET", origin, timeout=1000.0)).status == 200


async def test_a_caller_who_is_cancelled_leaves_no_connection() -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        closed.set()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Outgoing(private=LOCAL) as outgoing:
        task = asyncio.create_task(outgoing.request("GET", f"http://127.0.0.1:{port}/"))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await closed.wait()
    server.close()
