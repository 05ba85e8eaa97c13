"""Waits for the end of other instances, and for events."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from flowstate import (
    Delayer,
    Engine,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    StateNotFoundError,
    Status,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.errors import InstanceCancelledError, InstanceFailedError
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Wait
from flowstate.engines.kernel.outside import Event, Result
from tests.engines.kernel.running import kernel_of, revisions, stands
from tests.engines.kernel.tables import Table, join, line, run, wait

HOUR = timedelta(hours=1)


class Note(msgspec.Struct):
    n: int


class Paid(msgspec.Struct):
    order: str
    cents: int = 0


async def one() -> int:
    return 1


async def broken() -> None:
    raise ValueError("bad")


other = line("other", wait("a", Note), run("b", one))
failing = line("failing", run("a", broken))


def waits_for(code: Code, id: str, *more: Any, seconds: float | None = None) -> Table:
    return line("code", wait("a", Result(code, id), *more, seconds=seconds), catch=True)


async def test_the_result_of_one_that_ends_later() -> None:
    code = waits_for(other, "o")

    async with kernel_of(code, other) as kernel:
        await kernel.start(other, "o", {})
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.send("o", Note(1))

        assert await kernel.result("i") == [[{"n": 1}, 1]]
