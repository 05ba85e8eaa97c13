"""AsyncAPI documents of both versions name the server, the address and the bindings."""

from typing import Any

import pytest

from flowstate.engines.tasks.calls.asyncapi_documents import Place, place_of
from flowstate.engines.tasks.errors import TaskError

SECOND: dict[str, Any] = {
    "asyncapi": "2.6.0",
    "servers": {
        "events": {"url": "amqp://mq.example", "protocol": "amqp"},
        "web": {
            "url": "https://{stage}.example:{port}/v1/",
            "protocol": "https",
            "variables": {
                "stage": {"enum": ["live", "test"], "default": "test"},
                "port": {"$ref": "#/components/serverVariables/port"},
            },
        },
        "bus": {"$ref": "#/components/servers/bus"},
    },
    "channels": {
        "orders/{shop}": {
            "parameters": {"shop": {"schema": {"default": "main"}}},
            "bindings": {"nats": {"queue": "all"}},
            "publish": {"bindings": {"http": {"method": "PUT"}}, "message": {}},
            "subscribe": {
                "message": {"$ref": "#/components/messages/order"},
                "bindings": {"nats": {"$ref": "#/components/bindings/nats"}},
            },
        },
        "only-web": {"servers": ["web"], "publish": {}},
    },
    "components": {
        "servers": {"bus": {"url": "nats.example", "protocol": "nats"}},
        "serverVariables": {"port": {"default": "8443"}},
        "bindings": {"nats": {"queue": "mine"}},
        "messages": {"order": {"correlationId": {"location": "$message.payload#/order/id"}}},
    },
}
THIRD: dict[str, Any] = {
    "asyncapi": "3.0.0",
    "servers": {
        "web": {"host": "live.example", "pathname": "/v2", "protocol": "wss"},
        "bus": {"host": "nats.example:4223", "protocol": "nats"},
    },
    "channels": {
        "a/b": {
            "address": "orders.{shop}",
            "servers": [{"$ref": "#/servers/bus"}],
            "parameters": {"shop": {"default": "main"}},
            "messages": {"order": {"correlationId": {"location": "$message.header#/x-id"}}},
        },
        "all": {"address": "all"},
    },
    "operations": {
        "order": {"action": "send", "channel": {"$ref": "#/channels/a~1b"}},
        "all": {"action": "receive", "channel": {"$ref": "#/channels/all"}},
    },
}


def second(channel: str = "orders/{shop}", **more: Any) -> dict[str, Any]:
    return {"channel": channel, "subscription": {}, **more}


def publishing(**more: Any) -> dict[str, Any]:
    arguments = second(**more)
    del arguments["subscription"]
    return {**arguments, "message": {}}


@pytest.mark.parametrize(
    ("document", "arguments", "place"),
    [
        (
            SECOND,
            publishing(),
            Place("http", True, "test.example", 8443, "/v1", "orders/main", {"method": "PUT"}),
        ),
        (
            SECOND,
            publishing(server={"name": "web", "variables": {"stage": "live", "shop": "b"}}),
            Place("http", True, "live.example", 8443, "/v1", "orders/b", {"method": "PUT"}),
        ),
        (
            SECOND,
            second(protocol="nats"),
            Place(
                "nats",
                False,
                "nats.example",
                None,
                "",
                "orders/main",
                {"queue": "mine"},
                "/payload/order/id",
            ),
        ),
        (
            SECOND,
            publishing(channel="only-web", protocol="https"),
            Place("http", True, "test.example", 8443, "/v1", "only-web"),
        ),
        (
            THIRD,
            {"operation": "order", "message": {}},
            Place("nats", False, "nats.example", 4223, "", "orders.main", {}, "/headers/x-id"),
        ),
        (
            THIRD,
            {"operation": "all", "subscription": {}},
            Place("ws", True, "live.example", None, "/v2", "all"),
        ),
        (
            THIRD,
            {"operation": "all", "subscription": {}, "server": {"name": "bus"}, "protocol": "ws"},
            Place("nats", False, "nats.example", 4223, "", "all"),
        ),
    ],
)
def test_a_place_is_found(document: Any, arguments: dict[str, Any], place: Place) -> None:
    assert place_of(document, arguments) == place


CIRCLE = {"$ref": "#/components/circle"}


@pytest.mark.parametrize(
    ("document", "arguments"),
    [
        (None, second()),
        ([], second()),
        ({"asyncapi": "1.0.0"}, second()),
        (SECOND, second("none")),
        (SECOND, second("only-web")),
        (SECOND, second(protocol="redis")),
        (SECOND, second(server={"name": "none"})),
        (SECOND, second(server={"name": "events"})),
        (SECOND, second(server={"name": "web", "variables": {"stage": "evil.example/"}})),
        (SECOND, {"operation": "order", "message": {}}),
        (THIRD, second()),
        (THIRD, {"operation": "none", "message": {}}),
        ({**SECOND, "servers": {}}, second()),
        ({**SECOND, "servers": {"a": {"url": "", "protocol": "nats"}}}, second()),
        ({**SECOND, "servers": {"a": {"url": "x:y", "protocol": "nats"}}}, second()),
        ({**SECOND, "servers": {"a": CIRCLE}, "components": {"circle": CIRCLE}}, second()),
        ({**SECOND, "servers": {"a": {"$ref": "other.yaml#/a"}}}, second()),
        ({**SECOND, "channels": {"orders/{shop}": 5}}, second()),
    ],
)
def test_what_a_document_does_not_say_is_a_matter_of_configuration(
    document: Any, arguments: dict[str, Any]
) -> None:
    with pytest.raises(TaskError) as raised:
        place_of(document, arguments)
    assert raised.value.type.endswith("/configuration")
    assert len(raised.value.detail) <= 500
