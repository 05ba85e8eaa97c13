"""Calls of services that describe themselves by OpenAPI 3 or Swagger 2."""

import contextlib
import copy
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowstate.engines.tasks.calls.built_in import BUILT_IN
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.calling import Caller, caller
from tests.engines.tasks.calls.serving import served
from tests.engines.tasks.calls.test_http import METHODS, told

openapi = BUILT_IN["openapi"]


def parameter(name: str, place: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "schema": {}, "required": place == "path", **more}


PETS: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Pets", "version": "1"},
    "servers": [{"url": "/v1/"}, {"url": "https://other.example"}],
    "paths": {
        "/pets/{petId}": {
            "parameters": [
                {"$ref": "#/components/parameters/pet~1id"},
                parameter("depth", "query", required=True),
            ],
            "get": {"operationId": "getPet", "parameters": [parameter("depth", "query")]},
            "put": {
                "operationId": "putPet",
                "requestBody": {"$ref": "#/components/requestBodies/pet"},
            },
        },
        "/find": {
            "get": {
                "operationId": "find",
                "parameters": [
                    parameter("tags", "query"),
                    parameter("csv", "query", explode=False),
                    parameter("pipes", "query", style="pipeDelimited", explode=False),
                    parameter("spaces", "query", style="spaceDelimited", explode=False),
                    parameter("deep", "query", style="deepObject"),
                    parameter("object", "query"),
                    parameter("flat", "query", explode=False),
                    {"name": "json", "in": "query", "content": {"application/json": {}}},
                    parameter("x-trace", "header"),
                    parameter("session", "cookie"),
                    parameter("theme", "cookie"),
                ],
            }
        },
        "/text": {
            "servers": [
                {
                    "url": "{root}/{stage}",
                    "variables": {"root": {"default": "/base"}, "stage": {"default": "dev"}},
                }
            ],
            "post": {
                "operationId": "text",
                "requestBody": {"required": True, "content": {"text/plain": {}}},
            },
        },
    },
    "components": {
        "parameters": {"pet/id": parameter("petId", "path")},
        "requestBodies": {"pet": {"content": {"application/json": {}}}},
    },
}

SWAGGER: dict[str, Any] = {
    "swagger": "2.0",
    "basePath": "/v2",
    "paths": {
        "/pet/{petId}": {
            "get": {
                "operationId": "getPetById",
                "parameters": [
                    {"name": "petId", "in": "path", "required": True, "type": "integer"}
                ],
            },
            "post": {
                "operationId": "updateForm",
                "consumes": ["application/x-www-form-urlencoded"],
                "parameters": [
                    {"name": "petId", "in": "path", "required": True},
                    {"name": "name", "in": "formData"},
                    {"name": "age", "in": "formData"},
                ],
            },
        },
        "/pet": {
            "post": {
                "operationId": "addPet",
                "parameters": [{"name": "pet", "in": "body", "required": True}],
            },
        },
        "/find": {
            "get": {
                "operationId": "findPets",
                "parameters": [
                    {"name": "status", "in": "query", "collectionFormat": "multi"},
                    {"name": "csv", "in": "query"},
                    {"name": "pipes", "in": "query", "collectionFormat": "pipes"},
                ],
            }
        },
        "/upload": {
            "post": {
                "operationId": "upload",
                "consumes": ["multipart/form-data"],
                "parameters": [{"name": "image", "in": "formData"}],
            }
        },
    },
}


@contextlib.asynccontextmanager
async def open_service(document: Any, name: str = "api.json") -> AsyncIterator[tuple[str, Caller]]:
    reads = []

    async def described(request: Request) -> Response:
        reads.append(request.url.path)
        is_yaml = name.endswith("yaml")
        made = yaml.safe_dump(document) if is_yaml else msgspec.json.encode(document)
        return Response(made)

    routes = [Route(f"/{name}", described), Route("/{path:path}", told, methods=METHODS)]
    async with served(Starlette(routes=routes)) as origin, caller() as task:
        yield f"{origin}/{name}", task
        assert len(reads) <= 1, "a document is kept"


async def called(document: Any, operation: str, file: str = "api.json", **parameters: Any) -> Any:
    async with open_service(document, file) as (uri, task):
        arguments = {"document": {"endpoint": uri}, "operationId": operation}
        found = [await task(openapi, {**arguments, "parameters": parameters}) for _ in range(2)]
        return found[0]


@pytest.mark.parametrize("file", ["api.json", "api.yaml"])
async def test_parameters_are_placed_where_the_description_has_them(file: str) -> None:
    found = await called(PETS, "getPet", file, petId="a/b", depth=2)
    assert (found["method"], found["path"]) == ("GET", "/v1/pets/a%2Fb")
    assert found["query"] == "depth=2"


@pytest.mark.parametrize(
    ("parameters", "query"),
    [
        ({"tags": ["a", "b"]}, "tags=a&tags=b"),
        ({"tags": "a"}, "tags=a"),
        ({"tags": []}, ""),
        ({"csv": ["a", "b"]}, "csv=a%2Cb"),
        ({"pipes": ["a", "b"]}, "pipes=a%7Cb"),
        ({"spaces": ["a", "b"]}, "spaces=a+b"),
        ({"deep": {"a": 1, "b": [2, 3]}}, "deep%5Ba%5D=1&deep%5Bb%5D=2&deep%5Bb%5D=3"),
        ({"object": {"a": 1, "b": True}}, "a=1&b=true"),
        ({"flat": {"a": 1, "b": 2}}, "flat=a%2C1%2Cb%2C2"),
        ({"json": {"a": [1]}}, "json=%7B%22a%22%3A%5B1%5D%7D"),
        ({}, ""),
    ],
)
async def test_a_query_has_the_style_of_its_parameter(parameters: Any, query: str) -> None:
    assert (await called(PETS, "find", **parameters))["query"] == query


async def test_parameters_can_be_headers_and_cookies() -> None:
    parameters: dict[str, Any] = {"x-trace": [1, 2], "session": "a b", "theme": "dark"}
    found = await called(PETS, "find", **parameters)
    assert found["headers"]["x-trace"] == "1,2"
    assert found["headers"]["cookie"] == "session=a%20b; theme=dark"


async def test_what_is_no_parameter_is_the_body() -> None:
    found = await called(PETS, "putPet", petId=1, depth=1, body={"name": "Milou"})
    assert (found["method"], found["body"]) == ("PUT", '{"name":"Milou"}')
    found = await called(PETS, "putPet", petId=1, depth=1, name="Milou", age=3)
    assert found["body"] == '{"name":"Milou","age":3}'
    assert found["headers"]["content-type"] == "application/json"
    found = await called(PETS, "putPet", petId=1, depth=1)
    assert found["body"] == ""


async def test_a_server_can_have_variables_and_a_body_another_type() -> None:
    found = await called(PETS, "text", body="hello")
    assert found["path"] == "/base/dev/text"
    assert found["headers"]["content-type"] == "text/plain"
    assert found["body"] == "hello"


@pytest.mark.parametrize(
    ("operation", "parameters", "detail"),
    [
        ("getPet", {}, "the parameter 'petId' is missing"),
        ("putPet", {"petId": 1}, "the parameter 'depth' is missing"),
        ("find", {"other": 1}, "the operation has no parameter 'other'"),
        ("text", {}, "the body is missing"),
    ],
)
async def test_parameters_that_do_not_fit_are_errors_of_validation(
    operation: str, parameters: Any, detail: str
) -> None:
    async with open_service(PETS) as (uri, task):
        arguments = {"document": {"endpoint": uri}, "operationId": operation}
        found = await task.refused(openapi, {**arguments, "parameters": parameters})
    assert found == ("validation", 400, detail)


async def test_a_parameter_cannot_lead_out_of_its_place() -> None:
    with pytest.raises(TaskError, match="dots"):
        await called(PETS, "getPet", petId="..")


async def test_swagger_2_is_understood() -> None:
    found = await called(SWAGGER, "getPetById", petId=1)
    assert found["path"] == "/v2/pet/1"
    found = await called(SWAGGER, "findPets", status=["a", "b"], csv=[1, 2], pipes=["x", "y"])
    assert found["query"] == "status=a&status=b&csv=1%2C2&pipes=x%7Cy"
    found = await called(SWAGGER, "addPet", pet={"name": "Milou"})
    assert found["body"] == '{"name":"Milou"}'
    found = await called(SWAGGER, "updateForm", petId=1, name="a b", age=2)
    assert found["body"] == "name=a+b&age=2"
    assert found["headers"]["content-type"] == "application/x-www-form-urlencoded"


async def test_swagger_2_can_name_another_host() -> None:
    async with served(Starlette(routes=[Route("/{p:path}", told)])) as other:
        scheme, _, host = other.partition("://")
        document = {**SWAGGER, "schemes": [scheme], "host": host}
        async with open_service(document) as (uri, task):
            arguments = {"document": {"endpoint": uri}, "operationId": "getPetById"}
            found = await task(openapi, {**arguments, "parameters": {"petId": 1}})
    assert found["headers"]["host"] == host


async def test_output_and_authentication_are_those_of_http() -> None:
    async with open_service(PETS) as (uri, task):
        found = await task(
            openapi,
            {
                "document": {"endpoint": {"uri": uri}},
                "operationId": "getPet",
                "parameters": {"petId": 1},
                "authentication": {"bearer": {"token": "t"}},
                "output": "response",
            },
        )
    assert found["statusCode"] == 200
    assert found["request"]["method"] == "get"
    assert found["content"]["headers"]["authorization"] == "Bearer t"


def broken() -> list[Any]:
    """Descriptions that are none, each in another way."""
    found: list[Any] = [None, [], "text", 7, {}, {"openapi": "3.1.0"}]
    changes: list[dict[str, Any]] = [
        {"paths": []},
        {"paths": {"/x": None}},
        {"paths": {"/x": {"$ref": "other.yaml"}}},
        {"paths": {"/x": {"$ref": "#/paths/~1x"}}},
        {"paths": {"/x": {"$ref": "#/nowhere/at/all"}}},
        {"paths": {"/x": {"get": {"operationId": "other"}}}},
        {"paths": {"/x": {"get": {"operationId": "getPet", "parameters": [{}]}}}},
        {"paths": {"/x": {"get": {"operationId": "getPet", "parameters": ["x"]}}}},
        {"paths": {"/x": {"get": {"operationId": "getPet", "servers": ["x"]}}}},
        {"paths": {"/x": {"get": {"operationId": "getPet", "requestBody": 1}}}},
    ]
    return found + [{**copy.deepcopy(PETS), **change} for change in changes]


@pytest.mark.parametrize("document", broken())
async def test_a_description_that_is_none_is_an_error_of_configuration(document: Any) -> None:
    async with open_service(document) as (uri, task):
        arguments = {"document": {"endpoint": uri}, "operationId": "getPet"}
        found = await task.refused(openapi, {**arguments, "parameters": {"petId": 1}})
    assert found[0] == "configuration"


async def test_files_are_not_uploaded() -> None:
    with pytest.raises(TaskError, match="multipart/form-data is not supported"):
        await called(SWAGGER, "upload", image="x")
