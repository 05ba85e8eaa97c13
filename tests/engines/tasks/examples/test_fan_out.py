"""Pictures are drawn three at a time, and given in the order of their names."""

import asyncio

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.engines.tasks.examples.driving import example


class Pictures:
    """A service that answers when three wait for it, or the rest, and notes how many do so."""

    def __init__(self, names: int) -> None:
        self.left, self.now, self.most = names, 0, 0
        self.changed = asyncio.Condition()

    async def draw(self, request: Request) -> JSONResponse:
        name = (await request.json())["name"]
        async with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            await self.changed.wait_for(lambda: self.now >= min(3, self.left) or self.most >= 3)
            self.now -= 1
            self.left -= 1
        return JSONResponse({"url": f"/{name}.png"})

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/draw", self.draw, methods=["POST"])])


@pytest.mark.parametrize("count", [0, 1, 3, 7])
async def test_three_are_drawn_at_a_time(count: int) -> None:
    pictures = Pictures(count)
    names = [f"p{n}" for n in range(count)]
    async with example("fan-out", pictures.app, hosts=("pictures.example",)) as tasks:
        id = await tasks.start("examples/fan-out", {"names": names})

        assert await tasks.result(id) == {"pictures": [f"/{name}.png" for name in names]}
    assert pictures.most == min(3, count)
