"""CloudEvents in JSON and over HTTP."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstate import InvalidInputError
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.http import BATCH, STRUCTURED, binary, received, structured

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
PLAIN = CloudEvent("1", "/shop", "paid")
FULL = CloudEvent(
    "1",
    "/shop",
    "paid",
    "order 7 ä\n%",
    AT,
    "application/vnd.shop+json",
    "https://shop/schema",
    {"cents": 5, "tags": ["x"]},
    {"traceparent": "00-ab", "count": 3, "fast": True},
)
BYTES = CloudEvent("1", "/shop", "photo", datacontenttype="image/png", data=b"\x89PNG\0")
TEXT = CloudEvent("1", "/shop", "note", datacontenttype="text/plain", data="hä?")


@pytest.mark.parametrize("event", [PLAIN, FULL, BYTES, TEXT])
def test_json_and_structured_mode_give_an_event_back(event: CloudEvent) -> None:
    assert CloudEvent.from_json(event.to_json()) == event
    assert received(*structured(event)) == [event]


def test_the_form_in_json_is_flat() -> None:
    assert FULL.to_json() == {
        "specversion": "1.0",
        "id": "1",
        "source": "/shop",
        "type": "paid",
        "subject": "order 7 ä\n%",
        "time": "2026-01-02T03:04:05Z",
        "datacontenttype": "application/vnd.shop+json",
        "dataschema": "https://shop/schema",
        "data": {"cents": 5, "tags": ["x"]},
        "traceparent": "00-ab",
        "count": 3,
        "fast": True,
    }
    assert BYTES.to_json()["data_base64"] == "iVBORwA="
    assert PLAIN.to_json() == {"specversion": "1.0", "id": "1", "source": "/shop", "type": "paid"}


def test_binary_mode() -> None:
    headers, body = binary(FULL)

    assert body == b'{"cents":5,"tags":["x"]}'
    assert headers["ce-subject"] == "order%207%20%C3%A4%0A%25"
    assert headers["content-type"] == "application/vnd.shop+json"
    [event] = received({name.title(): value for name, value in headers.items()}, body)
    as_texts = {"traceparent": "00-ab", "count": "3", "fast": "true"}  # Headers have no types.
    assert event.extensions == as_texts
    assert {**event.to_json(), **FULL.extensions} == FULL.to_json()
    assert received(*binary(BYTES)) == [BYTES]
    assert received(*binary(TEXT)) == [TEXT]
    assert received(*binary(PLAIN)) == [PLAIN]


def test_a_batch() -> None:
    assert received({"Content-Type": BATCH}, b"[]") == []
    two = b'[{"specversion":"1.0","id":"1","source":"/s","type":"a"},'
    two += b'{"specversion":"1.0","id":"2","source":"/s","type":"b","subject":null}]'
    assert [each.type for each in received({"content-type": BATCH}, two)] == ["a", "b"]
    with pytest.raises(InvalidInputError, match="at most 1000"):
        received({"content-type": BATCH}, b"[" + b"{}," * 1_000 + b"{}]")
    with pytest.raises(InvalidInputError, match="at most 1000"):
        received({"content-type": BATCH}, b"{}")


OK: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "/s", "type": "a"}


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "event"),
        ({**OK, "specversion": "0.3"}, "specversion"),
        ({**OK, "id": ""}, "id"),
        ({**OK, "id": None}, "id"),
        ({**OK, "id": 5}, "id"),
        ({**OK, "type": ["a"]}, "type"),
        ({**OK, "time": "yesterday"}, "event"),
        ({**OK, "time": "2026-01-01T00:00:00"}, "time"),
        ({**OK, "time": 1.5}, "time"),
        ({**OK, "data_base64": "?"}, "event"),
        ({**OK, "data_base64": 5}, "event"),
        ({**OK, "Big": "x"}, "extensions"),
        ({**OK, "list": ["x"]}, "extensions"),
        ({**OK, "n": 1.5}, "extensions"),
    ],
)
def test_what_is_no_event(value: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        CloudEvent.from_json(value)
    assert raised.value.field in (field, "event")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, b"{}"),
        ({"content-type": "application/json"}, b"{}"),
        ({"content-type": STRUCTURED}, b"{"),
        ({"content-type": STRUCTURED}, b"[" * 100_000),
        ({"ce-specversion": "1.0", "ce-id": "1"}, b""),
        ({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/", "ce-type": "a"}, b"{"),
        (
            {
                "ce-specversion": "1.0",
                "ce-id": "1",
                "ce-source": "/",
                "ce-type": "a",
                "content-type": "text/plain",
            },
            b"\xff",
        ),
    ],
)
def test_what_is_no_request_with_events(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        received(headers, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = st.sampled_from([*OK, "time", "subject", "data", "data_base64", "dataschema", "x1", "X"])
PARTS = st.sampled_from(
    [b"{", b"}", b"[", b"]", b'"', b":", b",", b"1e999", b"\\ud800", b"\xff", b"a"]
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=6), st.booleans())
def test_odd_values_are_refused_or_read_back(value: dict[str, Any], is_filled: bool) -> None:
    try:
        event = CloudEvent.from_json({**value, **OK} if is_filled else value)
    except InvalidInputError:
        return
    assert CloudEvent.from_json(event.to_json()).to_json().keys() == event.to_json().keys()


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["ce-id", "ce-time", "ce-x", "ce-data"]), st.text(max_size=6)),
    st.sampled_from(["", STRUCTURED, BATCH, "application/json", "text/plain; charset=x", "a/b"]),
    st.lists(PARTS, max_size=8).map(b"".join) | st.binary(max_size=20),
)
def test_odd_requests_are_refused(headers: dict[str, str], kind: str, body: bytes) -> None:
    own = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/", "ce-type": "a"}
    try:
        received({**own, **headers, "content-type": kind}, body)
    except InvalidInputError:
        return
