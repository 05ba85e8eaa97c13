"""All of a trip is booked, or what was booked is cancelled, the last booking first."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.engines.tasks.examples.driving import example


class Travel:
    """A service that refuses one kind of booking, and is down for the first cancellations."""

    def __init__(self, refuses: str = "", down: int = 0) -> None:
        self.refuses, self.down = refuses, down
        self.asked: list[str] = []

    async def answer(self, request: Request) -> Response:
        what = request.path_params["what"]
        self.asked.append(f"{request.method} {what}")
        if request.method == "DELETE" and self.down:
            self.down -= 1
            return Response(status_code=503)
        if what == self.refuses:
            return JSONResponse({"why": "sold out"}, 409)
        return JSONResponse({"id": f"{what}-1"})

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{what:path}", self.answer, methods=["POST", "DELETE"])])


async def test_all_parts_are_booked() -> None:
    travel = Travel()
    async with example("trip-saga", travel.app, hosts=("travel.example",)) as tasks:
        id = await tasks.start("examples/trip-saga", {"traveller": "anna"})

        assert await tasks.result(id) == {"booked": ["hotel-1", "flight-1", "car-1"]}
    assert travel.asked == ["POST hotel", "POST flight", "POST car"]


@pytest.mark.parametrize("down", [0, 3])
async def test_a_refused_part_undoes_those_before_it(down: int) -> None:
    travel = Travel("car", down)
    async with example("trip-saga", travel.app, hosts=("travel.example",)) as tasks:
        id = await tasks.start("examples/trip-saga", {"traveller": "anna"})

        assert await tasks.result(id) == {"cancelled": ["flight-1", "hotel-1"], "why": 409}
    undone = [f"DELETE bookings/{part}-1" for part in ("flight", "hotel")]
    assert travel.asked[3:] == [undone[0]] * down + undone


async def test_nothing_is_undone_where_nothing_was_booked() -> None:
    travel = Travel("hotel")
    async with example("trip-saga", travel.app, hosts=("travel.example",)) as tasks:
        id = await tasks.start("examples/trip-saga", {"traveller": "anna"})

        assert await tasks.result(id) == {"cancelled": [], "why": 409}
    assert travel.asked == ["POST hotel"]
