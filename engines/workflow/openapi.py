"""The HTTP interface of workflows, as an OpenAPI document."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.workflow.schemas import types_of, with_schemas

__all__ = ["openapi"]

Json = dict[str, Any]


def _parameter(name: str, place: str, about: str, **schema: Any) -> Json:
    described = {"name": name, "in": place, "description": about, "schema": schema}
    return {**described, "required": place == "path"}


ID = _parameter("id", "path", "of the instance", type="string")
KEY = _parameter("Idempotency-Key", "header", "makes it safe to ask again", type="string")
SECONDS = _parameter("timeout", "query", "seconds to wait", type="number", minimum=0)
HARD = _parameter("hard", "query", "end it at once; nothing cleans up", type="boolean")
TEXT = {"type": "string"}
ERROR: Json = {"type": "object", "required": ["error"], "properties": {"error": TEXT}}
ERRORS = {
    "404": "there is no such instance",
    "409": "it has failed, was cancelled, or is of another workflow",
    "410": "it has ended, or does not wait for this",
    "422": "what was sent is refused",
}


def openapi(
    workflows: Kernel, *, title: str = "Workflows", version: str = "1", prefix: str = ""
) -> Json:
    """Return an OpenAPI 3.1 document, with the paths by which each workflow can be served.

    Each path does what the method of ``Workflows`` does that begins its ``operationId``: ``start``,
    ``query``, ``cancel``, ``result``, ``send`` and ``update``. Serving them is left to a web
    framework. Messages whose class the source does not name plainly have no path.

    Args:
        workflows: those that are described.
        title: of the document.
        version: of the document.
        prefix: comes before each path, such as ``/api``.

    Raises:
        CompileError: a definition cannot be compiled.
        TypeError: a type has no JSON Schema.
    """
    codes = [each for each in workflows.codes if each.data is not None]
    types = {each.name: types_of(each) for each in codes}
    found, named = with_schemas(types, "#/components/schemas/{name}")
    paths = {}
    for name, schemas in found.items():
        paths.update(_paths(f"{prefix}/{quote(name, safe='')}/{{id}}", name, schemas))
    responses = {code: _response(text, ERROR) for code, text in ERRORS.items()}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": named, "responses": responses},
    }


def _paths(path: str, name: str, schemas: Json) -> Json:
    """Return the paths of one workflow."""
    arguments = {"type": "object", "properties": schemas["arguments"]}
    start = {
        "type": "object",
        "required": ["data"],
        "properties": {"data": schemas["data"], "args": arguments},
    }
    started = {"201": {"description": "it was started"}, "200": {"description": "it was there"}}
    done = {"202": {"description": "it is on its way"}}
    result = {
        "200": _response("what it returned", schemas["result"]),
        "202": {"description": "it has not ended in time"},
    }
    paths = {
        path: {
            "put": _operation("start", name, started, body=start),
            "get": _operation("query", name, {"200": _response("the data", schemas["data"])}),
            "delete": _operation("cancel", name, done, HARD),
        },
        f"{path}/result": {"get": _operation("result", name, result, SECONDS)},
    }
    for each, body in schemas["messages"].items():
        post = _operation("send", f"{name}_{each}", done, KEY, body=body)
        paths[f"{path}/messages/{quote(each, safe='')}"] = {"post": post}
    for each, update in schemas["updates"].items():
        answer = {"200": _response("the answer", update["gives"])}
        post = _operation("update", f"{name}_{each}", answer, KEY, SECONDS, body=update["takes"])
        paths[f"{path}/updates/{quote(each, safe='')}"] = {"post": post}
    return paths


def _operation(
    method: str, what: str, responses: Json, *parameters: Json, body: Json | None = None
) -> Json:
    errors = {code: {"$ref": f"#/components/responses/{code}"} for code in ERRORS}
    operation: Json = {
        "operationId": f"{method}_{what}",
        "parameters": [ID, *parameters],
        "responses": responses | errors,
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _content(body)}
    return operation


def _response(text: str, schema: Json) -> Json:
    return {"description": text, "content": _content(schema)}


def _content(schema: Mapping[str, Any]) -> Json:
    return {"application/json": {"schema": schema}}
