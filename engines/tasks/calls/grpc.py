"""``call: grpc``: unary calls, and calls that are answered by a stream."""

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from flowstate.engines.tasks.calls.authentication import authorization
from flowstate.engines.tasks.calls.outgoing import Outgoing, outgoing_of
from flowstate.engines.tasks.calls.programs import Processes, run_program
from flowstate.engines.tasks.calls.resources import resource
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call

__all__ = ["STATUSES", "grpc"]

# Of what a server answers: kinds of errors with their statuses; as Google maps codes to HTTP.
STATUSES = {
    "CANCELLED": ("communication", 499),
    "UNKNOWN": ("communication", 500),
    "INVALID_ARGUMENT": ("communication", 400),
    "DEADLINE_EXCEEDED": ("timeout", 408),
    "NOT_FOUND": ("communication", 404),
    "ALREADY_EXISTS": ("communication", 409),
    "PERMISSION_DENIED": ("communication", 403),
    "RESOURCE_EXHAUSTED": ("communication", 429),
    "FAILED_PRECONDITION": ("communication", 400),
    "ABORTED": ("communication", 409),
    "OUT_OF_RANGE": ("communication", 400),
    "UNIMPLEMENTED": ("communication", 501),
    "INTERNAL": ("communication", 500),
    "UNAVAILABLE": ("communication", 503),
    "DATA_LOSS": ("communication", 500),
    "UNAUTHENTICATED": ("communication", 401),
}

COMPILING = Processes(seconds=20.0)
MOST_ANSWERS = 10_000
TLS_PORT = 443


async def grpc(arguments: Mapping[str, Any], call: Call) -> Any:
    """Call a method of a service: ``{proto, service, method, arguments}``.

    Messages are JSON as Protocol Buffers map it. A stream of answers becomes an array. The
    metadata has ``idempotency-key``: the key of this call.

    Raises:
        TaskError: ``configuration``: the proto file has errors, or no such method; ``validation``:
            the arguments do not fit; ``communication``: the status of gRPC, as one of HTTP;
            ``authorization``: the host may not be called; ``timeout``.
    """
    from google.protobuf import json_format  # type: ignore[import-untyped] # noqa: PLC0415

    service = arguments["service"]
    pool = await _pool(await resource(arguments["proto"], call), call)
    method = _method(pool, service["name"], arguments["method"])
    try:
        request = json_format.ParseDict(
            arguments.get("arguments", {}), _class(method.input_type)(), descriptor_pool=pool
        )
    except json_format.ParseError as error:
        raise TaskError.of("validation", str(error)[:500]) from None
    metadata = [("idempotency-key", call.key)]
    if "authentication" in service:
        header = (await authorization(service["authentication"], call)).header
        metadata.append(("authorization", header))
    answers = await _answers(service, method, request, metadata, call)
    given = [
        json_format.MessageToDict(
            each, always_print_fields_with_no_presence=True, descriptor_pool=pool
        )
        for each in answers
    ]
    return given if method.server_streaming else given[0]


async def _answers(
    service: Mapping[str, Any],
    method: Any,
    request: Any,
    metadata: Sequence[tuple[str, str]],
    call: Call,
) -> Sequence[Any]:
    from grpc import aio  # type: ignore[import-untyped] # noqa: PLC0415

    outgoing = outgoing_of(call)
    path = f"/{method.containing_service.full_name}/{method.name}"
    ways = {
        "request_serializer": type(request).SerializeToString,
        "response_deserializer": _class(method.output_type).FromString,
    }
    more = {"metadata": metadata, "timeout": outgoing.timeout}
    async with await _channel(service["host"], service.get("port", TLS_PORT), outgoing) as channel:
        try:
            if not method.server_streaming:
                return [await channel.unary_unary(path, **ways)(request, **more)]
            answers, size = [], 0
            async for answer in channel.unary_stream(path, **ways)(request, **more):
                answers.append(answer)
                size += answer.ByteSize()
                if size > outgoing.most_bytes or len(answers) > MOST_ANSWERS:
                    raise TaskError.of("communication", "more answers than are allowed")
        except aio.AioRpcError as error:
            raise _failure(error.code().name, error.details() or "") from None
    return answers


async def _channel(host: str, port: int, outgoing: Outgoing) -> Any:
    from grpc import aio, ssl_channel_credentials  # noqa: PLC0415

    found = await outgoing.addresses(host, port)
    kind = "ipv6" if ":" in found[0] else "ipv4"
    places = [f"[{each}]:{port}" if kind == "ipv6" else f"{each}:{port}" for each in found]
    same = [each for each in places if each.startswith("[") == (kind == "ipv6")]
    options = [
        ("grpc.default_authority", f"{host}:{port}"),
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_receive_message_length", outgoing.most_bytes),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.enable_retries", 0),  # The document says what is tried again.
    ]
    target = f"{kind}:{','.join(same)}"
    is_plain = outgoing.is_private(host) or "http" in outgoing.schemes
    if is_plain and port != TLS_PORT:
        return aio.insecure_channel(target, options)
    credentials = ssl_channel_credentials(outgoing.roots.encode() if outgoing.roots else None)
    return aio.secure_channel(
        target, credentials, [*options, ("grpc.ssl_target_name_override", host)]
    )


def _failure(name: str, details: str) -> TaskError:
    kind, status = STATUSES[name]
    error = TaskError.of(kind, details[:500], status=status)
    error.extra["code"] = name
    return error


def _class(descriptor: Any) -> Any:
    from google.protobuf.message_factory import GetMessageClass  # type: ignore[import-untyped] # noqa: PLC0415

    return GetMessageClass(descriptor)


def _method(pool: Any, service: str, name: str) -> Any:
    try:
        method = pool.FindServiceByName(service).FindMethodByName(name)
    except KeyError:
        raise TaskError.of("configuration", f"no method {service}/{name}") from None
    if method.client_streaming:
        raise TaskError.of("configuration", f"{service}/{name} takes a stream, which none can give")
    return method


async def _pool(proto: bytes, call: Call) -> Any:
    async def make(_: Any) -> tuple[Any, float]:
        return await _compiled(proto), math.inf

    key, clock = f"proto {sha256(proto).hexdigest()}", call.runtime.engine.clock
    return await outgoing_of(call).resources.get(key, clock.monotonic, make)


async def _compiled(proto: bytes) -> Any:
    """Compile in a process of its own, which an input that harms it cannot outlive."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet  # type: ignore[import-untyped] # noqa: PLC0415
    from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped] # noqa: PLC0415

    words = [sys.executable, "-I", "-m", "grpc_tools.protoc", "--include_imports"]
    words += ["-I.", "--descriptor_set_out=compiled", "service.proto"]
    with tempfile.TemporaryDirectory(prefix="flowstate-grpc-") as folder:
        Path(folder, "service.proto").write_bytes(proto)  # noqa: ASYNC240 - small
        ended = await run_program(words, folder=folder, within=COMPILING)
        if ended.code:
            raise TaskError.of("configuration", f"the proto file: {ended.stderr[:500].strip()}")
        compiled = Path(folder, "compiled").read_bytes()  # noqa: ASYNC240 - small
    pool = DescriptorPool()
    for each in FileDescriptorSet.FromString(compiled).file:
        pool.Add(each)
    return pool
