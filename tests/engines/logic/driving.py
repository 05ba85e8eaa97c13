"""Machines on the memory driver, in virtual time, and what their steps act on."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

from flowstate import Delayer, Engine, FakeClock, FlowRegistry, State
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.steps import effect_key
from flowstate.engines.logic import CloudEvent, Machines, Problem
from flowstate.testing import stands_at

__all__ = ["Shop", "event", "machines_of", "revisions", "seconds", "shop", "stands", "work"]

stands = partial(stands_at, timeout=20.0)


class Shop:
    """What steps do, seen from outside; outlives processes.

    Attributes:
        acts: what was done, by key.
        did: what was called.
        broken: codes of the problems that a step of this name has, one for each call; the last
            one stays.
        held: what does not return before it is set.
        begun: set when something was called.
    """

    def __init__(self) -> None:
        self.acts: dict[str, str] = {}
        self.did: list[str] = []
        self.broken: dict[str, list[str | None]] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.begun = defaultdict[str, asyncio.Event](asyncio.Event)

    async def do(self, name: str) -> str:
        self.did.append(name)
        self.begun[name].set()
        if name in self.held:
            await self.held[name].wait()
        codes = self.broken.get(name, [None])
        code = codes[0] if len(codes) == 1 else codes.pop(0)
        if code is not None:
            raise Problem(code, f"{name} is down")
        self.acts.setdefault(effect_key(), name)
        return f"{name} done"


shop = Shop()


async def work(name: str) -> str:
    """Act on the shop."""
    return await shop.do(name)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def event(kind: str, id: str = "1", data: Any = None, **extensions: str) -> CloudEvent:
    return CloudEvent(id, "test", kind, data=data, extensions=extensions)


@contextlib.asynccontextmanager
async def machines_of(
    *machines: Code, driver: Any = None, clock: FakeClock | None = None, **options: Any
) -> AsyncIterator[Machines]:
    """Open an engine with a delayer and machines, and a shop where nothing has happened."""
    shop.__init__()  # type: ignore[misc]
    clock = clock or FakeClock()
    async with (
        Engine(driver or MemoryDriver(clock), FlowRegistry(), clock=clock) as engine,
        Delayer(engine),
        Machines(engine, machines, **options) as client,
    ):
        yield client


async def revisions(machines: Machines, id: str) -> list[State]:
    return [state async for state in machines.engine.history(id)]
