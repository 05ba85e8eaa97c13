"""CloudEvents over HTTP: structured, in batches, and binary."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from flowstate import InvalidInputError
from flowstate.engines.events.cloud_event import CloudEvent, text_of

__all__ = ["BATCH", "STRUCTURED", "binary", "received", "structured"]

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
MOST = 1_000  # Events of a batch.
JSON = re.compile(r"(application|text)/([\w.-]+\+)?json")
SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def structured(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a request in structured mode."""
    return {"content-type": f"{STRUCTURED}; charset=utf-8"}, msgspec.json.encode(event.to_json())


def binary(event: CloudEvent) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a request in binary mode."""
    value = event.to_json()
    value.pop("data", None), value.pop("data_base64", None)
    kind = value.pop("datacontenttype", "application/json")
    headers = {f"ce-{name}": quote(text_of(each), safe=SAFE) for name, each in value.items()}
    if event.data is None:
        return headers, b""
    is_text = isinstance(event.data, str) and not JSON.fullmatch(_media_type(kind))
    body = event.data.encode() if is_text else event.data
    body = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return {**headers, "content-type": kind}, body


def received(headers: Mapping[str, str], body: bytes) -> list[CloudEvent]:
    """Return the events of a request, or of a message that has such headers.

    Args:
        headers: by their names, in any case.
        body: as it came.

    Raises:
        InvalidInputError: they are no CloudEvents, or more than 1,000.
    """
    own = {name.lower(): value for name, value in headers.items()}
    kind = _media_type(own.get("content-type", ""))
    if kind == STRUCTURED:
        return [CloudEvent.from_json(_json(body))]
    if kind == BATCH:
        found = _json(body)
        if not isinstance(found, list) or len(found) > MOST:
            raise InvalidInputError("events", f"must be an array of at most {MOST}")
        return [CloudEvent.from_json(each) for each in found]
    if "ce-specversion" not in own:
        raise InvalidInputError("content-type", f"must be {STRUCTURED}, or headers begin with ce-")
    value: dict[str, Any] = {
        name[3:]: unquote(each) for name, each in own.items() if name.startswith("ce-")
    }
    if "content-type" in own:
        value["datacontenttype"] = own["content-type"]
    event = CloudEvent.from_json({name: each for name, each in value.items() if name != "data"})
    return [msgspec.structs.replace(event, data=_data(kind, body))] if body else [event]


def _data(kind: str, body: bytes) -> Any:
    if not kind or JSON.fullmatch(kind):
        return _json(body)
    if kind.startswith("text/"):
        try:
            return body.decode()
        except UnicodeDecodeError as error:
            raise InvalidInputError("data", str(error)) from error
    return body


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidInputError("body", str(error)) from error


def _media_type(header: str) -> str:
    return header.partition(";")[0].strip().lower()
