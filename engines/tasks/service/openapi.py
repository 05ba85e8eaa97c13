"""The description of the service in OpenAPI 3.1, made of its operations and their types."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from flowstate.engines.tasks.service.endpoints import Endpoint

__all__ = ["description"]

PLACE = re.compile(r"{(\w+)(?::path)?}")
PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def description(endpoints: Iterable[Endpoint], base: str) -> dict[str, Any]:
    """Return the description of operations.

    Args:
        endpoints: the operations.
        base: where they are.
    """
    known = [*endpoints]
    types = [kind for each in known for kind in (each.query, each.takes, each.gives)]
    kinds = [each for each in types if each is not None and not isinstance(each, str)]
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    found = dict(zip(map(repr, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in known:
        operation = _operation(each, found, components)
        paths.setdefault(PLACE.sub(r"{\1}", each.path), {})[each.method.lower()] = operation
    hidden = {each.query.__name__ for each in known}
    components = {name: each for name, each in components.items() if name not in hidden}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tasks", "version": "0.1.0"},
        "servers": [{"url": base}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(
    endpoint: Endpoint, schemas: Mapping[str, Any], components: Mapping[str, Any]
) -> dict[str, Any]:
    path = PLACE.sub(r"by_\1", endpoint.path)
    name = re.sub(r"\W+", "_", f"{endpoint.method.lower()} {path}")
    answer: dict[str, Any] = {"description": endpoint.summary}
    if endpoint.gives is not None:
        answer["content"] = _content(endpoint.gives, schemas)
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": endpoint.summary,
        "parameters": [*_parameters(endpoint, components[endpoint.query.__name__])],
        "responses": {
            str(endpoint.status): answer,
            "default": {
                "description": "A problem",
                "content": {"application/problem+json": problem},
            },
        },
    }
    if endpoint.takes is not None:
        content = _content(endpoint.takes, schemas)
        operation["requestBody"] = {"required": True, "content": content}
    if endpoint.is_open:
        operation["security"] = []
    return operation


def _content(kind: Any, schemas: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(kind, str):
        return {kind: {"schema": {"type": "string"}}}
    return {"application/json": {"schema": schemas[repr(kind)]}}


def _parameters(endpoint: Endpoint, schema: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    in_path = PLACE.findall(endpoint.path)
    for name, each in schema.get("properties", {}).items():
        if each.get("type") != "object":
            where = "path" if name in in_path else "query"
            yield {"name": name, "in": where, "required": name in in_path, "schema": each}
