"""External resources of documents: got over HTTP, or read from a folder."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from flowstate.engines.tasks.calls.authentication import inlined
from flowstate.engines.tasks.calls.exchange import endpoint_of, opened
from flowstate.engines.tasks.calls.outgoing import Answer, Outgoing, outgoing_of
from flowstate.engines.tasks.documents.reading import read
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call

__all__ = ["parsed", "resource", "uri_of"]

KEPT = 300.0  # Seconds.


def uri_of(source: Any, call: Call) -> str:
    """Return the URI of a resource."""
    return _endpoint(source, call)[0]


async def resource(source: Any, call: Call) -> bytes:
    """Return the content of an external resource.

    Args:
        source: ``{endpoint: ...}``, evaluated, or a URI. A ``file:`` URI names a file in the
            folder ``Outgoing.files``.
        call: for which it is.

    Raises:
        TaskError: ``communication``: it cannot be got. ``authorization``: it may not be.
    """
    found: bytes = await _kept("content", source, call, _fetched)
    return found


async def parsed(source: Any, call: Call) -> Any:
    """Return the value of an external resource that is JSON or YAML.

    Raises:
        TaskError: as of :func:`resource`; ``communication`` also if it is neither.
    """
    return await _kept("value", source, call, _parsed)


async def _kept(form: str, source: Any, call: Call, make: Any) -> Any:
    uri, policy = _endpoint(source, call)
    if policy is not None:  # Its name does not tell whose it is: it can have expressions.
        policy = await inlined(policy, call)
    key = msgspec.json.encode([form, uri, call.document.key, policy]).decode()

    async def made(_: Any) -> tuple[Any, float]:
        return await make(uri, policy, call), KEPT

    return await outgoing_of(call).resources.get(key, call.runtime.engine.clock.monotonic, made)


def _endpoint(source: Any, call: Call) -> tuple[str, Mapping[str, Any] | None]:
    endpoint = source.get("endpoint", source) if isinstance(source, Mapping) else source
    return endpoint_of(endpoint, None, call)


async def _fetched(uri: str, policy: Mapping[str, Any] | None, call: Call) -> bytes:
    outgoing = outgoing_of(call)
    if uri.startswith("file:"):
        return await asyncio.to_thread(_of_file, uri, outgoing)
    async with opened(call, "GET", uri, policy, follow=True) as (response, _):
        answer = await Answer.of(response)
    if answer.status != 200:  # noqa: PLR2004 - of HTTP
        place = uri.partition("?")[0]
        raise TaskError.of(
            "communication", f"{place} was answered with {answer.status}", status=answer.status
        )
    return answer.content


async def _parsed(uri: str, policy: Mapping[str, Any] | None, call: Call) -> Any:
    return await asyncio.to_thread(_value, await _fetched(uri, policy, call), uri)


def _value(content: bytes, uri: str) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        pass
    place = uri.partition("?")[0]
    try:
        source = read(content.decode())
    except UnicodeDecodeError:
        raise TaskError.of("communication", f"{place} is no text") from None
    if source.problems:
        raise TaskError.of("communication", f"{place}: {source.problems[0].text}")
    return source.value


def _of_file(uri: str, outgoing: Outgoing) -> bytes:
    if outgoing.files is None:
        raise TaskError.of("authorization", "files are no resources here")
    parts, folder = urlsplit(uri), outgoing.files.resolve()
    name = unquote(f"{parts.netloc}{parts.path}")
    try:
        content = _read(folder, name, outgoing.most_bytes + 1)
    except (OSError, ValueError):
        raise TaskError.of("authorization", f"there is no file {name!r} for this use") from None
    if len(content) > outgoing.most_bytes:
        raise TaskError.of("communication", f"the file {name!r} is too large")
    return content


def _read(folder: Path, name: str, most: int) -> bytes:
    """Return the beginning of a file, if links and dots do not lead out of its folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        path = (folder / name.lstrip("/")).resolve()
    if not path.is_relative_to(folder):
        raise ValueError("is out of the folder")
    with path.open("rb") as file:
        return file.read(most)
