"""Stand-ins for the two public sites that the conformance kit calls."""

import contextlib
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flowstate.engines.tasks.calls.outgoing import Outgoing
from tests.engines.tasks.calls.serving import served

__all__ = ["sites"]

PETS = [
    {"id": 1, "name": "Rex", "status": "available", "photoUrls": []},
    {"id": 2, "name": "Tom", "status": "available", "photoUrls": []},
    {"id": 3, "name": "Bim", "status": "sold", "photoUrls": []},
]


async def by_id(request: Request) -> Response:
    """Return a pet."""
    found = [each for each in PETS if str(each["id"]) == request.path_params["id"]]
    return JSONResponse(found[0]) if found else Response(status_code=404)


async def by_status(request: Request) -> Response:
    """Return the pets that have one of some statuses."""
    wanted = ",".join(request.query_params.getlist("status")).split(",")
    return JSONResponse([each for each in PETS if each["status"] in wanted])


async def nothing(_: Request) -> Response:
    """Find nothing."""
    return JSONResponse({"message": "no such pet"}, 404)


def _parameter(name: str, place: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "required": True, **more}


async def described(_: Request) -> Response:
    """Describe the pet store, as of Swagger 2."""
    by_status_ = _parameter("status", "query", type="array", items={"type": "string"})
    paths = {
        "/pet/findByStatus": {
            "get": {"operationId": "findPetsByStatus", "parameters": [by_status_]}
        },
        "/pet/{petId}": {
            "get": {
                "operationId": "getPetById",
                "parameters": [_parameter("petId", "path", type="integer")],
            }
        },
    }
    head = {"swagger": "2.0", "info": {"title": "pets", "version": "1.0.0"}}
    where = {"host": "petstore.swagger.io", "basePath": "/v2", "schemes": ["https"]}
    return JSONResponse({**head, **where, "paths": paths})


async def guarded(request: Request) -> Response:
    """Let in who has the user name and the password of the path."""
    user, password = request.path_params["user"], request.path_params["password"]
    scheme, _, parameter = request.headers.get("authorization", "").partition(" ")
    given = b64decode(parameter).decode() if scheme == "Basic" else ""
    is_right = given == f"{user}:{password}"
    return JSONResponse({"authenticated": is_right, "user": user}, 200 if is_right else 401)


APP = Starlette(
    routes=[
        Route("/v2/swagger.json", described),
        Route("/v2/pet/findByStatus", by_status),
        Route("/v2/pet/getPetByName/{name}", nothing),
        Route("/v2/pet/{id}", by_id),
        Route("/basic-auth/{user}/{password}", guarded),
    ]
)


@contextlib.asynccontextmanager
async def sites() -> AsyncIterator[Outgoing]:
    """Serve both, and give the rules by which they stand in."""
    async with served(APP) as origin:
        names = ("https://petstore.swagger.io", "https://httpbin.org")
        async with Outgoing(stand_ins=dict.fromkeys(names, origin)) as outgoing:
            yield outgoing
