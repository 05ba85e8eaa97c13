"""The workflows whose instances run in workloads."""

from collections.abc import Callable
from datetime import timedelta

import msgspec

from flowstate.engines.workflow import Workflow, each, sleep, step, wait, workflow

__all__ = ["Items", "Nothing", "Ping", "child", "counter", "echo", "parent", "sleeper", "three"]


class Nothing(msgspec.Struct):
    """Data of instances that have none."""


class Items(msgspec.Struct):
    """Data of an instance with children."""

    numbers: list[int]


class Ping(msgspec.Struct):
    """A message."""

    number: int


async def number_of(number: int) -> int:
    """Return a number; the work of most steps."""
    return number


@workflow("three")
async def three(data: Nothing) -> int:
    """Run three steps, each durable before the next begins."""
    first = await step(number_of, 1, name="first")
    second = await step(number_of, 2, name="second")
    third = await step(number_of, 3, name="third")
    return first + second + third


@workflow("counter")
async def counter(data: Nothing, stops: int) -> int:
    """Stop so often, with three names that are alive at each stop."""
    total, text = 0, "text"
    for number in range(stops):
        total += await step(number_of, number)
    return total + len(text)


@workflow("sleeper")
async def sleeper(data: Nothing) -> int:
    """Sleep for longer than any run takes."""
    await sleep(timedelta(days=365))
    return await step(number_of, 1)


@workflow("child")
async def child(number: int) -> int:
    """Run one step for a parent."""
    return await step(number_of, number)


@workflow("parent")
async def parent(data: Items) -> int:
    """Start a child for each item."""
    return sum(await each(child, data.numbers))


def echo(arrived: Callable[[int], None]) -> Workflow[None]:
    """Return a workflow that runs a step after each message, in which it calls a function."""

    async def arrive(number: int) -> None:
        arrived(number)

    @workflow("echo")
    async def echoing(data: Nothing) -> None:
        while True:
            ping = await wait(Ping)
            await step(arrive, ping.number)

    return echoing
