"""Run recipes on the memory driver: ``python -m examples.cookbook [NAME ...]``."""

import asyncio
import importlib
import logging
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, cast

from examples.cookbook.helpers import pick_up
from flowstate import Clock, Delayer, Driver, Engine, FakeClock, FlowRegistry
from flowstate.drivers.memory import MemoryDriver

NAMES = (
    "actor",
    "approval",
    "batch_import",
    "call",
    "cron",
    "escalation",
    "fork_join",
    "idempotent",
    "mutex",
    "rate_limit",
    "rename",
    "saga",
    "schedule",
    "webhook",
    "work_queue",
)


class Recipe(Protocol):
    """What each of these modules has; ``demo`` goes on where a crash has left it."""

    flows: FlowRegistry
    demo: Callable[[Engine], Coroutine[Any, Any, list[str]]]


def load(name: str) -> Recipe:
    """Import a recipe."""
    return cast("Recipe", importlib.import_module(f"examples.cookbook.{name}"))


async def run(recipe: Recipe, driver: Driver, clock: Clock) -> list[str]:
    """Run a recipe on any driver; return what came out."""
    async with Engine(driver, recipe.flows, clock=clock) as engine, Delayer(engine):
        await pick_up(engine)
        return await recipe.demo(engine)


def main(names: Sequence[str]) -> None:
    """Run recipes, and print what came out of each."""
    logging.basicConfig(level=logging.CRITICAL)  # Some of the services fail, as services do.
    for name in names:
        clock = FakeClock()
        print(f"{name}:")
        for line in asyncio.run(run(load(name), MemoryDriver(clock), clock)):
            print(f"  {line}")


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
