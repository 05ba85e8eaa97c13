"""Wherever processes die, no end and no event is missed by one that waits, or given twice."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from random import Random
from typing import Any

import attrs
import msgspec
import pytest

from flowstate import Engine, FlowRegistry, RetryPolicy
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Wait
from flowstate.engines.kernel.outside import Event, Result
from flowstate.testing import explore_crashes
from tests.engines.kernel.tables import Done, Table, line, run, wait

RETRY = RetryPolicy(attempts=3, first=10.0, jitter=False)
HOUR = timedelta(hours=1)


class Paid(msgspec.Struct):
    order: str
    cents: int = 0


@attrs.define
class Service:
    """Acts once for each key; outlives the processes."""

    acts: dict[str, str] = attrs.Factory(dict)
    failures: int = 0

    async def act(self, what: str) -> str:
        await asyncio.sleep(0)
        self.acts.setdefault(current_step().key, what)
        return what

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise ConnectionError

    async def copy(self) -> int:
        """Copy twelve rows, a row in a second; the seventh fails once."""
        step = current_step()
        for n in range(step.progress or 0, 12):
            if n == 7 and not self.failures:
                self.failures += 1
                raise ConnectionError
            await step.engine.clock.sleep(1)
            self.acts[f"row {n}"] = "copied"
            step.heartbeat(n + 1)
        return 12


Use = Callable[[Kernel, Mapping[str, Table]], Awaitable[object]]


def results(service: Service) -> list[Table]:
    other = line("other", run("x", service.act, "x"), run("y", service.act, "y"))
    failing = line("failing", run("x", service.fail))
    code = line(
        "code",
        wait("a", Result(other, "o")),
        run("b", service.act, "b"),
        wait("c", Result(failing, "f")),
        catch=True,
    )
    return [code, other, failing]


async def start_all(kernel: Kernel, codes: Mapping[str, Table]) -> None:
    for name, code in codes.items():
        await kernel.start(code, name[0], {})


async def start_the_last_first(kernel: Kernel, codes: Mapping[str, Table]) -> None:
    for name, code in reversed([*codes.items()]):
        await kernel.start(code, name[0], {})


async def cancel_what_is_waited_for(kernel: Kernel, codes: Mapping[str, Table]) -> None:
    await kernel.start(codes["code"], "c", {})
    await kernel.start(codes["other"], "o", {})
    await kernel.cancel("o", hard=True)
    await kernel.start(codes["failing"], "f", {})


def cancelled(service: Service) -> list[Table]:
    other = line("other", wait("w", Paid))
    failing = line("failing", run("x", service.act, "x"))
    both = wait("a", Result(other, "o")), wait("b", Result(failing, "f"))
    return [line("code", *both, catch=True), other, failing]


def takes_all(service: Service) -> list[Table]:
    def ask(*_: object) -> Wait:
        return Wait("a", [Event(Paid, order="x")], lookback=HOUR)

    def take(_: object, data: dict[str, Any], paid: Paid) -> str:
        data.setdefault("got", []).append(paid.cents)
        return "b"

    def acted(_: object, data: dict[str, Any], __: object) -> str | Done:
        return "a" if len(data["got"]) < 2 else Done(sorted(data["got"]))

    return [Table("code", {"a": (ask, take), "b": (run("b", service.act, "b"), acted)})]


async def publish_two(kernel: Kernel, codes: Mapping[str, Table]) -> None:
    await kernel.publish(Paid("x", 1), key="1")
    await kernel.start(codes["code"], "c", {})
    await kernel.publish(Paid("y", 9), key="9")
    await kernel.publish(Paid("x", 2), key="2")


def takes_one(service: Service) -> list[Table]:
    return [line("code", wait("a", Event(Paid, order="x")), run("b", service.act, "b"))]


async def publish_for_three(kernel: Kernel, codes: Mapping[str, Table]) -> None:
    for id in "cde":
        await kernel.start(codes["code"], id, {})
        await kernel.engine.wait_for(
            id, until=lambda each: each.status == "paused" or "outcome" in each.labels
        )
    await kernel.publish(Paid("x", 1), key="1")
    for id in "cde":
        await kernel.result(id)


def copies(service: Service) -> list[Table]:
    return [line("code", run("a", service.copy), run("b", service.act, "b"))]


CASES: dict[str, tuple[Callable[[Service], list[Table]], Use]] = {
    "results": (results, start_all),
    "results of those that end first": (results, start_the_last_first),
    "the result of one that is cancelled": (cancelled, cancel_what_is_waited_for),
    "events": (takes_all, publish_two),
    "an event for several": (takes_one, publish_for_three),
    "progress": (copies, start_all),
}


def explored(case: str, most: int) -> None:
    make, use = CASES[case]

    def flows(service: Service) -> FlowRegistry:
        registry = FlowRegistry()
        register(registry, Codes(make(service), retry=RETRY, rng=Random(0)))
        return registry

    async def act(engine: Engine, service: Service) -> None:
        codes = {code.name: code for code in make(service)}
        kernel = Kernel(engine, codes.values(), retry=RETRY, rng=Random(0))
        await use(kernel, codes)
        await kernel.result("c")

    explore_crashes(
        Service,
        flows,
        act,
        outside=lambda service: sorted(service.acts.items()),
        crashes=2,
        max_runs=most,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_ends_alike(case: str) -> None:
    explored(case, 40)


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("case", CASES)
def test_it_ends_alike_with_more_crashes(case: str) -> None:
    explored(case, 2_000)
