"""JSON Schemas of what instances of a definition take and give."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from flowstate.engines.kernel.code import Code, stops_of
from flowstate.engines.workflow.compiler.lookup import hints_of

__all__ = ["schemas_of", "types_of", "with_schemas"]


def types_of(code: Code) -> dict[str, Any]:
    """Return the types that a definition has, in the form of ``schemas_of``."""
    updates = code.options.updates.items()
    return {
        "data": code.data,
        "arguments": dict(code.takes),
        "messages": {name: of for stop in stops_of(code) for name, of in stop.messages.items()},
        "updates": {
            name: {"takes": each.takes, "gives": hints_of(each.call).get("return", Any)}
            for name, each in updates
        },
        "result": code.gives,
    }


def with_schemas(types: Mapping[str, Any], refs: str) -> tuple[Any, dict[str, Any]]:
    """Return a tree with a schema in place of each type, and the schemas that these refer to."""
    schemas, named = msgspec.json.schema_components(_leaves(types), ref_template=refs)
    return _filled(types, iter(schemas)), named


def _leaves(tree: Mapping[str, Any]) -> list[Any]:
    parts = [_leaves(each) if isinstance(each, dict) else [each] for each in tree.values()]
    return [each for part in parts for each in part]


def _filled(tree: Mapping[str, Any], schemas: Iterator[Any]) -> Any:
    return {
        key: _filled(each, schemas) if isinstance(each, dict) else next(schemas)
        for key, each in tree.items()
    }


def schemas_of(code: Code) -> dict[str, Any]:
    """Return the JSON Schemas of a definition; see ``Defined.schemas``."""
    found, named = with_schemas(types_of(code), "#/$defs/{name}")
    return {**found, "$defs": named}
