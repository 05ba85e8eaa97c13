"""What a definition takes and gives, as JSON Schemas and as an OpenAPI document."""

import json
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate

from flowstate import Engine, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.workflow import Workflows, any_of, each, go, helper, sub, wait, workflow
from flowstate.engines.workflow.openapi import openapi
from flowstate.engines.workflow.sections import Go, On, Sections, Wait


class Item(msgspec.Struct):
    name: str
    count: int = 1


class Order(msgspec.Struct):
    items: list[Item]


class Approved(msgspec.Struct):
    by: str


class Refused(msgspec.Struct):
    why: str


class Packed(msgspec.Struct):
    parcels: int


class Delivered(msgspec.Struct):
    item: Item


@helper
async def packing(s: Order) -> int:
    return (await wait(Packed)).parcels


@workflow("delivery")
async def delivery(s: Item) -> None:
    await wait("delivered", Delivered)


@workflow("sales/order")
async def order(s: Order, urgent: bool) -> str | None:
    go(packing)
    await any_of(wait("approval", Approved), wait("refusal", Refused))
    await sub(packing, name="more")
    await each(delivery, s.items)
    return None


@order.update
def add(s: Order, item: Item) -> int:
    s.items.append(item)
    return len(s.items)


def note(s: Order, approved: Approved) -> str:
    return approved.by


sections = Sections(
    "sections",
    Order,
    Go("thread", Wait("inner", On("packed", lambda _, packed: packed))),
    Wait("outer", On("approved", note)),
    updates={"note": note},
)

INTEGER = {"type": "integer"}
ITEM = {
    "title": "Item",
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer", "default": 1}},
    "required": ["name"],
}


def test_the_schemas_of_a_definition_are_of_all_that_its_instances_take_and_give() -> None:
    schemas = order.schemas()

    assert schemas["data"] == {"$ref": "#/$defs/Order"}
    assert schemas["arguments"] == {"urgent": {"type": "boolean"}}
    assert schemas["result"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert schemas["updates"] == {"add": {"takes": {"$ref": "#/$defs/Item"}, "gives": INTEGER}}
    assert schemas["$defs"]["Item"] == ITEM


def test_messages_of_branches_and_helpers_are_among_them_and_those_of_children_are_not() -> None:
    assert list(order.schemas()["messages"]) == ["Approved", "Refused", "Packed"]
    assert list(delivery.schemas()["messages"]) == ["Delivered"]


def test_sections_have_the_messages_of_all_their_threads() -> None:
    schemas = sections.schemas()

    assert schemas["messages"] == {"approved": {"$ref": "#/$defs/Approved"}, "packed": {}}
    assert schemas["updates"]["note"]["gives"] == {"type": "string"}


@pytest.fixture
async def document() -> dict[str, Any]:
    async with (
        Engine(MemoryDriver(), FlowRegistry()) as engine,
        Workflows(engine, [order, sections]) as workflows,
    ):
        return openapi(workflows, title="Shop", prefix="/api")


async def test_the_document_has_a_path_for_each_thing_that_can_be_asked(
    document: dict[str, Any],
) -> None:
    own = {
        f"{method} {path}": each["operationId"]
        for path, methods in document["paths"].items()
        for method, each in methods.items()
        if path.startswith("/api/sales%2Forder/")
    }

    assert own == {
        "put /api/sales%2Forder/{id}": "start_sales/order",
        "get /api/sales%2Forder/{id}": "query_sales/order",
        "delete /api/sales%2Forder/{id}": "cancel_sales/order",
        "get /api/sales%2Forder/{id}/result": "result_sales/order",
        "post /api/sales%2Forder/{id}/messages/Packed": "send_sales/order_Packed",
        "post /api/sales%2Forder/{id}/messages/Approved": "send_sales/order_Approved",
        "post /api/sales%2Forder/{id}/messages/Refused": "send_sales/order_Refused",
        "post /api/sales%2Forder/{id}/updates/add": "update_sales/order_add",
    }
    assert {"/api/delivery/{id}", "/api/sections/{id}"} < document["paths"].keys()
    assert not any("packing" in path for path in document["paths"])


async def test_the_document_is_valid(document: dict[str, Any]) -> None:
    validate(json.loads(json.dumps(document)))


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = [*_references(document)]

    assert {"#/components/schemas/Item", "#/components/responses/404"} <= {*references}
    for reference in references:
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def _references(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        own = [tree["$ref"]] if "$ref" in tree else []
        return own + [each for value in tree.values() for each in _references(value)]
    return [each for value in tree for each in _references(value)] if isinstance(tree, list) else []
