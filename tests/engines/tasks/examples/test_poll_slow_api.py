"""A job is started once, and asked for every 30 seconds until it has ended."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.examples.driving import example


class Jobs:
    """A service whose one job answers with these states in turn, and then with the last one."""

    def __init__(self, *states: dict[str, Any]) -> None:
        self.states, self.started, self.asked = list(states), 0, 0

    async def start(self, _: Request) -> JSONResponse:
        self.started += 1
        return JSONResponse({"id": "j-1"}, 202)

    async def look(self, _: Request) -> JSONResponse:
        self.asked += 1
        return JSONResponse(self.states.pop(0) if len(self.states) > 1 else self.states[0])

    @property
    def app(self) -> Starlette:
        return Starlette(
            routes=[Route("/jobs", self.start, methods=["POST"]), Route("/jobs/j-1", self.look)]
        )


RUNS = {"status": "running"}


async def test_the_result_of_the_job_is_given() -> None:
    jobs = Jobs(RUNS, RUNS, {"status": "done", "result": [1, 2]})
    async with example("poll-slow-api", jobs.app, hosts=("jobs.example",)) as tasks:
        id = await tasks.start("examples/poll-slow-api", {"text": "x"})

        assert await tasks.result(id) == [1, 2]
        assert 60 <= tasks.engine.clock.monotonic() < 90
    assert (jobs.started, jobs.asked) == (1, 3)


async def test_a_job_that_fails_is_an_error() -> None:
    jobs = Jobs(RUNS, {"status": "failed", "why": "no disk"})
    async with example("poll-slow-api", jobs.app, hosts=("jobs.example",)) as tasks:
        id = await tasks.start("examples/poll-slow-api", {"text": "x"})
        with pytest.raises(TaskError) as raised:
            await tasks.result(id)

    assert (raised.value.status, raised.value.detail) == (502, "no disk")


async def test_a_job_without_an_end_is_left_when_its_time_has_passed() -> None:
    jobs, shorter = Jobs(RUNS), {"days: 1": "minutes: 10"}
    async with example(
        "poll-slow-api", jobs.app, hosts=("jobs.example",), instead=shorter
    ) as tasks:
        id = await tasks.start("examples/poll-slow-api", {"text": "x"})
        with pytest.raises(TaskError) as raised:
            await tasks.result(id)

        assert 600 <= tasks.engine.clock.monotonic() < 640
    assert raised.value.status == 408
