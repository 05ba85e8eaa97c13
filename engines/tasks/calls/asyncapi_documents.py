"""What AsyncAPI documents, 2 and 3, say of an operation: the server, the address, the bindings."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from flowstate.engines.tasks.calls.uri_templates import VARIABLE
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.pointers import resolved
from flowstate.ground.frozen import EMPTY

__all__ = ["PROTOCOLS", "Place", "place_of"]

PROTOCOLS = frozenset({"http", "nats", "redis", "ws"})
"""Those that have a client here; in documents also https, rediss and wss."""

SECURE = {"https": "http", "rediss": "redis", "wss": "ws"}
SECURE_SCHEMES = {*SECURE, "tls"}


@attrs.frozen
class Place:
    """Where messages go to or come from.

    Attributes:
        protocol: one of ``PROTOCOLS``.
        is_secure: TLS is spoken.
        host: of the server.
        port: of the server; ``None``: the usual one.
        path: of the server.
        address: of the channel.
        bindings: of the operation and the channel, for the protocol.
        correlation: the JSON pointer within a message of its correlation id.
    """

    protocol: str
    is_secure: bool
    host: str
    port: int | None
    path: str
    address: str
    bindings: Mapping[str, Any] = EMPTY
    correlation: str = "/headers/correlationId"


def place_of(document: Any, arguments: Mapping[str, Any]) -> Place:
    """Return where an operation takes place.

    Raises:
        TaskError: ``configuration``: the document does not say, or says it wrongly.
    """
    try:
        return _place(document, arguments)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        detail = f"the AsyncAPI document does not fit: {type(error).__name__}: {error}"
        raise TaskError.of("configuration", detail[:500]) from None


def _place(document: Any, arguments: Mapping[str, Any]) -> Place:
    def at(value: Any) -> Any:
        return resolved(document, value)

    version = str(document["asyncapi"])
    if version.startswith("2."):
        address = arguments["channel"]
        channel = at(document["channels"][address])
        operation = at(channel["publish" if "message" in arguments else "subscribe"])
        names = channel.get("servers") or document["servers"]
        servers = {name: at(document["servers"][name]) for name in names}
        messages = [at(operation.get("message", {}))]
    elif version.startswith("3."):
        operation = at(document["operations"][arguments["operation"]])
        channel = at(operation["channel"])
        address = channel["address"]
        found = channel.get("servers") or [{"$ref": f"#/servers/{n}"} for n in document["servers"]]
        servers = {each["$ref"].rpartition("/")[2]: at(each) for each in found}
        messages = [at(each) for each in channel.get("messages", {}).values()]
    else:
        raise ValueError(f"version {version[:20]}")
    wanted = arguments.get("server", {})
    given = wanted.get("variables", {})
    protocol, server = _server(servers, wanted.get("name"), arguments.get("protocol"))
    variables = {name: at(each) for name, each in server.get("variables", {}).items()}
    url = server.get("url") or f"{server['host']}{server.get('pathname', '')}"
    url = VARIABLE.sub(_filled(variables, given), url)
    parts = urlsplit(url if "://" in url else f"//{url}")
    if not parts.hostname:
        raise ValueError("a server without a host")
    parameters = {name: at(each) for name, each in channel.get("parameters", {}).items()}
    kinds = {protocol, *(name for name, plain in SECURE.items() if plain == protocol)}
    return Place(
        protocol,
        is_secure=bool({str(server["protocol"]), parts.scheme} & SECURE_SCHEMES),
        host=parts.hostname,
        port=parts.port,
        path=parts.path.rstrip("/"),
        address=VARIABLE.sub(_filled(parameters, given), address),
        bindings={
            key: value
            for part in (channel, operation)
            for name, bound in at(part.get("bindings", {})).items()
            if name in kinds
            for key, value in at(bound).items()
        },
        correlation=next(_correlations(messages, at), "/headers/correlationId"),
    )


def _server(
    servers: Mapping[str, Any], name: str | None, protocol: str | None
) -> tuple[str, Mapping[str, Any]]:
    candidates = {name: servers[name]} if name else servers
    for server in candidates.values():
        kind = SECURE.get(server["protocol"], server["protocol"])
        if kind in PROTOCOLS and (name or protocol in {None, kind, server["protocol"]}):
            return kind, server
    raise ValueError(f"no server with a protocol among {', '.join(sorted(PROTOCOLS))}")


def _filled(
    described: Mapping[str, Any], given: Mapping[str, Any]
) -> Callable[[re.Match[str]], str]:
    def filled(match: re.Match[str]) -> str:
        name = match[1]
        about = described.get(name, {})
        schema = about.get("schema", about)
        value = given.get(name, schema.get("default"))
        if value is None:
            raise LookupError(f"no value for {name!r}")
        if schema.get("enum") and value not in schema["enum"]:
            raise ValueError(f"{name!r} is none of {schema['enum']}")
        return str(value)

    return filled


def _correlations(messages: list[Any], at: Callable[[Any], Any]) -> Iterator[str]:
    for message in messages:
        location = str(at(message.get("correlationId", {})).get("location", ""))
        if location.startswith(("$message.header#", "$message.payload#")):
            kind, _, pointer = location.partition("#")
            yield {"$message.header": "/headers"}.get(kind, "/payload") + pointer
