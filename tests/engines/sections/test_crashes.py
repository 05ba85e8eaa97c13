"""Wherever processes die, sections end as without a crash, and act once for each key."""

import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import attrs
import pytest

from flowstate import Engine, FlowRegistry, RetryPolicy
from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.steps import effect_key
from flowstate.engines.workflow.sections import (
    Break,
    Continue,
    For,
    Go,
    If,
    On,
    Return,
    Sections,
    Step,
    Wait,
    WaitFor,
)
from flowstate.testing import explore_crashes
from tests.engines.sections.bells import Bell, Ringing
from tests.engines.sections.definitions import Data, Note, noted

RETRY = RetryPolicy(attempts=3, first=10.0, jitter=False)
Client = Callable[[Kernel], Awaitable[object]]
Make = Callable[["World"], Sections]


@attrs.define(eq=False)
class World(Bell):
    """Acts once for each key; outlives the processes."""

    acts: dict[str, str] = attrs.Factory(dict)
    fails: dict[str, int] = attrs.Factory(lambda: {"setup": 1, "teardown": 1})

    def step(self, name: str, field: str = "log") -> Step:
        async def act(data: Data) -> None:
            self.acts.setdefault(effect_key(), name)
            if field == "log":
                data.log += name[0]
            else:
                data.n += 1

        return Step(name, act)

    def source(self) -> Ringing:
        return Ringing(self, RETRY)


def control(world: World) -> Sections:
    return Sections(
        "it",
        Data,
        For(
            lambda s: s.n < 9,
            world.step("n", "n"),
            If(lambda s: s.n == 1, world.step("a"), Continue()),
            If(lambda s: s.n == 3, Break()).Else(world.step("b")),
            world.step("c"),
        ),
        Return(lambda s: s.log),
    )


def threads(world: World) -> Sections:
    return Sections(
        "it",
        Data,
        For(lambda s: s.n < 2, world.step("n", "n"), Go("go", world.step("a"), world.step("b"))),
        WaitFor("all", lambda s: len(s.log) == 4, lambda s: setattr(s, "log", "all")),
        world.step("c"),
    )


def waiting(world: World) -> Sections:
    body = world.step("a")
    return Sections(
        "it",
        Data,
        For(lambda s: s.n < 2, Wait("w", On("note", noted, body)), world.step("n", "n")),
    )


def sources(world: World) -> Sections:
    return Sections(
        "it",
        Data,
        Go("go", Wait("other", On("never", world.source()))),
        Wait("w", On("note", world.source(), world.step("a"))),
        world.step("b"),
    )


async def only_start(kernel: Kernel) -> None:
    pass


async def notes(kernel: Kernel) -> None:
    await kernel.send("i", Note("x"), name="note", key="1")
    await kernel.send("i", Note("y"), name="note", key="2")


async def one(kernel: Kernel) -> None:
    await kernel.send("i", Note("x"), name="note", key="1")


async def waits(kernel: Kernel) -> None:
    """Wait until the instance waits, or has ended already when it is asked again."""
    await kernel.engine.wait_for(
        "i",
        until=lambda each: (
            each.status == "ended" or (each.labels.get("stop") == "w" and each.status == "paused")
        ),
    )


async def cancel(kernel: Kernel) -> None:
    await waits(kernel)
    await kernel.cancel("i")


async def answer(kernel: Kernel) -> None:
    await waits(kernel)
    assert await kernel.update("i", "note", Note("x"), key="1") == "x"


@pytest.mark.parametrize(
    ("make", "client"),
    [
        (control, only_start),
        (threads, only_start),
        (waiting, notes),
        (sources, one),
        (sources, cancel),
        (sources, answer),
    ],
)
@pytest.mark.parametrize("runs", [25, pytest.param(400, marks=pytest.mark.nightly)])
def test_it_ends_alike(make: Make, client: Client, runs: int) -> None:
    def flows(world: World) -> FlowRegistry:
        registry = FlowRegistry()
        register(registry, Codes([make(world)], retry=RETRY, rng=Random(0)))
        return registry

    async def use(engine: Engine, world: World) -> None:
        kernel = Kernel(engine, [make(world)], retry=RETRY, rng=Random(0))
        await kernel.start(make(world), "i", Data())
        await client(kernel)
        with contextlib.suppress(InstanceCancelledError):
            await kernel.result("i")

    def outside(world: World) -> Any:
        return sorted(world.acts.items()), world.listening

    explored = explore_crashes(
        World, flows, use, outside=outside, ignore=["answers"], crashes=2, max_runs=runs
    )
    assert len(explored.points) > 5
