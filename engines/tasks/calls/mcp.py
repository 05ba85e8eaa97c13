"""``call: mcp``: servers that speak the Model Context Protocol, over HTTP or as programs."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import attrs
import msgspec

from flowstate.engines.tasks.calls.exchange import endpoint_of
from flowstate.engines.tasks.calls.json_rpc import Server, decoded, request_of, result_of
from flowstate.engines.tasks.calls.outgoing import outgoing_of
from flowstate.engines.tasks.calls.programs import kill, start_program, text_of
from flowstate.engines.tasks.durations import seconds_of
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call
from flowstate.ground.frozen import EMPTY

__all__ = ["mcp"]

VERSION = "2025-06-18"
SESSION = "mcp-session-id"
ENDING = 5.0  # Seconds.

Send = Callable[[Mapping[str, Any]], Awaitable[Any]]
"""Sends a message, and returns the one that answers it; a notification is answered by none."""


async def mcp(arguments: Mapping[str, Any], call: Call) -> Any:
    """Call a method of a server: ``{method, parameters, transport, timeout, ...}``.

    Each call is a session of its own.

    Raises:
        TaskError: ``runtime``: the server answers with an error; ``authorization``: it may not be
            called or started; ``communication``, ``timeout``.
    """
    transport, parameters = arguments["transport"], arguments.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise TaskError.of("validation", "parameters are an object")
    seconds = outgoing_of(call).timeout
    if "timeout" in arguments:
        seconds = seconds_of(arguments["timeout"])
    is_http = "http" in transport
    session = _over_http(transport, call, seconds) if is_http else _as_program(transport, call)
    version = arguments.get("protocolVersion", VERSION)
    client = arguments.get("client") or {"name": "flowstate", "version": call.runtime.version}
    hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": client}
    try:
        async with asyncio.timeout(seconds), session as send:
            result_of(await send(request_of("initialize", hello, "initialize")))
            await send({"jsonrpc": "2.0", "method": "notifications/initialized"})
            return result_of(await send(request_of(arguments["method"], parameters, call.key)))
    except TimeoutError:
        raise TaskError.of("timeout", f"no answer within {seconds:g} s") from None


@contextlib.asynccontextmanager
async def _over_http(
    transport: Mapping[str, Any], call: Call, seconds: float
) -> AsyncIterator[Send]:
    http = transport["http"]
    written = (call.written.get("transport", {}).get("http") or EMPTY).get("endpoint")
    url, policy = endpoint_of(http["endpoint"], written, call)
    server = Server(url, policy, http.get("headers", {}), seconds)

    async def send(message: Mapping[str, Any]) -> Any:
        nonlocal server
        answers, headers = await server.post(call, message)
        if message["method"] == "initialize":
            version = (answers[0].get("result") or {}).get("protocolVersion", VERSION)
            more = {"mcp-protocol-version": version}
            if SESSION in headers:
                more[SESSION] = headers[SESSION]
            server = attrs.evolve(server, headers={**server.headers, **more})
        return answers[0] if answers else None

    try:
        yield send
    finally:
        if SESSION in server.headers:
            with contextlib.suppress(TaskError):  # It may not let sessions be ended.
                await attrs.evolve(server, timeout=ENDING).end(call)


@contextlib.asynccontextmanager
async def _as_program(transport: Mapping[str, Any], call: Call) -> AsyncIterator[Send]:
    processes, stdio = call.runtime.processes, transport["stdio"]
    processes.check("mcp")
    words = [stdio["command"], *map(text_of, stdio.get("arguments", []))]
    environment = {key: text_of(value) for key, value in stdio.get("environment", {}).items()}
    with tempfile.TemporaryDirectory(prefix="flowstate-mcp-", ignore_cleanup_errors=True) as folder:
        process = await start_program(
            words,
            environment,
            folder,
            stderr=asyncio.subprocess.DEVNULL,
            limit=processes.most_bytes,
        )
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None  # noqa: S101 - it is a pipe
        assert stdout is not None  # noqa: S101 - it is a pipe

        async def send(message: Mapping[str, Any]) -> Any:
            try:
                stdin.write(msgspec.json.encode(message) + b"\n")
                await stdin.drain()
                while "id" in message:
                    line = await stdout.readline()
                    if not line:
                        raise TaskError.of("communication", f"{words[0]} has ended")
                    answer = decoded(line)
                    if answer.get("id") == message["id"] and "method" not in answer:
                        return answer
            except (ConnectionError, ValueError):
                raise TaskError.of(
                    "communication", f"{words[0]} has ended, or says too much"
                ) from None

        try:
            yield send
        finally:
            await kill(process)
