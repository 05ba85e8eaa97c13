"""Wherever processes die, each construct ends as without a crash, and acts once for each key."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import attrs
import msgspec
import pytest

from flowstate import End, Engine, FlowRegistry, RetryPolicy
from flowstate.engines.kernel.code import CodeOptions, Update
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Call, Each, Go, Until
from flowstate.engines.kernel.steps import effect_key
from flowstate.testing import Exploration, explore_crashes
from tests.engines.kernel.tables import Done, Table, join, line, run, wait

RETRY = RetryPolicy(attempts=3, first=10.0, jitter=False)
LONG = 1e6


class Note(msgspec.Struct):
    n: int


@attrs.define
class Service:
    """Acts once for each key; outlives the processes."""

    acts: dict[str, str] = attrs.Factory(dict)
    failures: dict[str, int] = attrs.Factory(dict)

    async def act(self, what: str) -> str:
        await asyncio.sleep(0)
        self.acts.setdefault(effect_key(), what)
        return what

    async def fail(self, times: int) -> str:
        key = effect_key()
        failed = self.failures.get(key, 0)
        if failed < times:
            self.failures[key] = failed + 1
            raise ConnectionError(key)
        return await self.act("did")


Client = Callable[[Kernel], Awaitable[object]]
Make = Callable[[Service], Table]


async def only_start(kernel: Kernel) -> None:
    pass


def explored(make: Make, client: Client = only_start, most: int = 40) -> Exploration:
    def flows(service: Service) -> FlowRegistry:
        registry = FlowRegistry()
        register(registry, Codes([make(service)], retry=RETRY, rng=Random(0)))
        return registry

    async def use(engine: Engine, service: Service) -> None:
        code = make(service)
        kernel = Kernel(engine, [code], retry=RETRY, rng=Random(0))
        await kernel.start(code, "i", {})
        await client(kernel)
        await kernel.result("i")

    return explore_crashes(
        Service,
        flows,
        use,
        outside=lambda service: sorted(service.acts.items()),
        crashes=2,
        max_runs=most,
    )


def steps(service: Service) -> Table:
    return line("code", *[run(name, service.act, name) for name in "abc"])


def failing(service: Service) -> Table:
    return line(
        "code",
        run("a", service.fail, 2),
        run("b", service.fail, 9),
        run("c", service.act, "undo"),
        catch=True,
    )


def local(service: Service) -> Table:
    return line(
        "code", run("a", lambda: 1, local=True), run("b", service.act, "b"), wait("c", seconds=5)
    )


def joined(service: Service) -> Table:
    return line(
        "code",
        join(
            "a",
            run("x", service.act, "x"),
            run("y", service.fail, 1),
            join("z", run("z1", service.act, "z1"), run("z2", service.act, "z2")),
        ),
        run("b", service.act, "b"),
    )


def racing(service: Service) -> Table:
    loser = Table(
        "loser",
        {
            "w": (wait("w", seconds=LONG), lambda *_: Done()),
            "undo": (run("undo", service.act, "undo"), lambda *_: Done()),
        },
        catches={"w": lambda *_: "undo"},
        data=None,
    )
    return line(
        "code",
        join("a", lambda *_: Call("l", loser, {}), run("x", service.fail, 1), wanted=1),
        run("b", service.act, "b"),
        uses={"loser": loser},
    )


def threads(service: Service) -> Table:
    def count(names: object, data: dict[str, int], value: object) -> Done:
        data["n"] = data.get("n", 0) + 1
        return Done()

    other = Table("other", {"x": (run("x", service.act, "x"), count)}, data=None)
    return line(
        "code",
        lambda *_: Go("a", other, {}),
        lambda *_: Go("b", other, {}),
        lambda *_: Until("c", lambda data: data.get("n") == 2),
        run("d", service.act, "d"),
        uses={"other": other},
    )


def parent(service: Service) -> Table:
    child = line("child", run("x", service.act, "x"), data=dict)
    return line(
        "code",
        lambda *_: Each("a", child, [{}] * 3, 2),
        run("b", service.act, "b"),
        uses={"child": child},
    )


def failing_parent(service: Service) -> Table:
    def ask(names: object, data: dict[str, int]) -> Any:
        times = 9 if data["n"] == 1 else 0
        return run("x", service.fail, times)({}, data)

    child = Table("child", {"x": (ask, lambda _, __, v: Done(v))}, data=dict)
    return line(
        "code",
        lambda *_: Each("a", child, [{"n": 1}], 2),
        run("b", service.act, "b"),
        catch=True,
        uses={"child": child},
    )


def waiting(service: Service) -> Table:
    return line(
        "code",
        wait("a", Note, seconds=LONG),
        run("b", service.act, "b"),
        join("c", wait("x", Note), run("y", service.act, "y")),
        catch=True,
    )


def sends(*numbers: int) -> Client:
    async def client(kernel: Kernel) -> None:
        for n in numbers:
            await kernel.send("i", Note(n), key=str(n))

    return client


def late(service: Service) -> Table:
    return line("code", wait("a", Note, seconds=60), run("b", service.act, "b"), catch=True)


def cleaning(service: Service) -> Table:
    child = line("child", wait("w", Note), run("undo", service.act, "undo"), catch=True, data=dict)
    return line(
        "code",
        lambda *_: Each("a", child, [{}] * 2, 2),
        run("b", service.act, "undo"),
        catch=True,
        uses={"child": child},
    )


def when(stop: str, *then: Client, status: str = "paused") -> Client:
    async def client(kernel: Kernel) -> None:
        await kernel.engine.wait_for(
            "i",
            until=lambda each: (
                each.status == "ended"
                or (each.labels.get("stop") == stop and each.status == status)
            ),
        )
        for each in then:
            await each(kernel)

    return client


async def pause(kernel: Kernel) -> None:
    await kernel.pause("i")


async def resume(kernel: Kernel) -> None:
    await kernel.resume("i")


async def cancel_parent(kernel: Kernel) -> None:
    # Whether a child waits by then decides whether it needs a mailbox; so each has one.
    for n in range(2):
        await kernel.engine.signal(f"i.a.0.{n}", "other", key="x", early=True)
    await kernel.cancel("i")


def bereft(service: Service) -> Table:
    child = line("child", wait("w", Note), data=dict)
    return line(
        "code",
        lambda *_: Each("a", child, [{}], 1),
        run("b", service.act, "b"),
        catch=True,
        uses={"child": child},
    )


async def end_child(kernel: Kernel) -> None:
    await kernel.engine.wait_for("i.a.0.0", until=lambda each: each.status != "active")
    await kernel.engine.update(
        "i.a.0.0", lambda ctx: () if ctx.current.status == "ended" else (End(ctx),)
    )


def counting(service: Service) -> Table:
    def add(data: dict[str, int], n: int) -> int:
        data["n"] = data.get("n", 0) + n
        return data["n"]

    return line(
        "code",
        lambda *_: Until("a", lambda data: data.get("n", 0) >= 5),
        run("b", service.act, "b"),
        options=CodeOptions(updates={"add": Update(int, add)}),
    )


async def updates(kernel: Kernel) -> None:
    assert await kernel.update("i", "add", 2, key="x") == 2
    assert await kernel.update("i", "add", 3, key="y") == 5


CASES = {
    "steps": (steps, only_start),
    "steps that fail": (failing, only_start),
    "local steps": (local, only_start),
    "a join": (joined, only_start),
    "a race": (racing, only_start),
    "threads": (threads, only_start),
    "children": (parent, only_start),
    "a child that fails": (failing_parent, only_start),
    "a child that is ended by force": (bereft, when("a", end_child)),
    "messages": (waiting, sends(1, 2)),
    "a wait that ends in time": (late, only_start),
    "a cancel": (cleaning, when("a", cancel_parent)),
    "a pause": (waiting, when("a", pause, sends(1, 2), resume)),
    "updates": (counting, updates),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(CASES))
def test_it_ends_alike(case: str) -> None:
    explored(*CASES[case])


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("case", list(CASES))
def test_it_ends_alike_with_more_crashes(case: str) -> None:
    explored(*CASES[case], most=2_000)
