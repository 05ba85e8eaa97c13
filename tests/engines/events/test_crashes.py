"""Wherever processes die, no event is missed or given twice, and each start happens once."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from random import Random
from typing import Any

import attrs
import pytest

from flowstate import Command, Engine, FlowRegistry, StateContext
from flowstate.engines.events.consuming import Filter, Key, Strategy
from flowstate.engines.events.publishing import publish
from flowstate.engines.events.starting import Plan, Starters
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.starting import flow_of
from flowstate.engines.kernel.turn import Turn
from flowstate.testing import explore_crashes
from tests.engines.events.listeners import Gathered, gathering, paid
from tests.engines.events.starters import job, starting

Act = Callable[[Kernel, Starters], Awaitable[object]]


async def events_in_a_row(kernel: Kernel, _: Starters) -> None:
    await kernel.start(kernel.codes["code"], "i", Gathered(3, [("type", "paid")]))
    for n in "123":
        await publish(kernel.engine, paid(n))
    assert await kernel.result("i") == ["1", "2", "3"]


async def events_for_two(kernel: Kernel, _: Starters) -> None:
    for id in "ij":
        await kernel.start(kernel.codes["code"], id, Gathered(2, [("type", "a"), ("type", "b")]))
    for n in "ab":
        await publish(kernel.engine, paid(n, type=n))
    for id in "ij":
        assert await kernel.result(id) == ["a", "b"]


async def starts_by_events(kernel: Kernel, starters: Starters) -> None:
    key = {"order": Key(".data.order")}
    both = Strategy("all", [Filter({"type": each}, keys=key) for each in "ab"])
    await starters.set("n", "v1", Plan(on=both), order=1)
    for id, kind, order in (("1", "a", 1), ("2", "a", 2), ("3", "b", 1), ("4", "b", 2)):
        await publish(kernel.engine, paid(id, {"order": order}, type=kind))
    await jobs(kernel, 2)
    await starters.end("n")


async def starts_one_after_the_other(kernel: Kernel, starters: Starters) -> None:
    await starters.set("n", "v1", Plan(after=10), order=1)
    await jobs(kernel, 2)
    await starters.end("n")


async def jobs(kernel: Kernel, count: int) -> None:
    """Return when so many jobs have ended."""
    done = set()
    async with kernel.engine.watch(labels={"workflow": "job", "outcome": "done"}) as states:
        async for state in states:
            done.add(state.id)
            if len(done) == count:
                return


@attrs.define
class World:
    """What a process has, and tells the time of its engine."""

    engine: Engine | None = None

    def now(self) -> datetime:
        assert self.engine is not None
        return self.engine.clock.now()

    def codes(self) -> list[Any]:
        async def start(target: str, id: str, given: Any, after: int | None) -> None:
            ids = given and [each["id"] for each in given]
            data = {"target": target, "given": ids, "has_after": after is not None}
            await Kernel(current_step().engine, [job]).start(job, id, data)

        return [gathering("code"), job, starting(start, self.now)]

    def flows(self) -> FlowRegistry:
        registry, codes = FlowRegistry(), Codes(self.codes(), rng=Random(0))
        register(registry, codes)

        async def turn(ctx: StateContext, engine: Engine) -> Command[Any]:
            self.engine = engine
            return await Turn(ctx, engine, codes).run()

        registry.set(flow_of("starter"), turn, replace=True)
        return registry


def explored(act: Act, most: int) -> None:
    async def run(engine: Engine, world: World) -> None:
        world.engine = engine
        codes = world.codes()
        kernel = Kernel(engine, codes, rng=Random(0))
        await act(kernel, Starters(kernel, codes[-1]))

    ignore = ("data", "notes")  # They have numbers of revisions.
    explore_crashes(World, World.flows, run, crashes=2, max_runs=most, ignore=ignore)


ACTS: list[Act] = [events_in_a_row, events_for_two, starts_by_events, starts_one_after_the_other]


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_it_ends_alike(act: Act) -> None:
    explored(act, 16)


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("act", ACTS)
def test_it_ends_alike_with_more_crashes(act: Act) -> None:
    explored(act, 2_000)
