"""Wherever processes die, each construct ends as without a crash."""

import contextlib
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest

from flowstate import Engine, FlowRegistry, Status
from flowstate.engines.kernel.errors import InstanceCancelledError, InstanceFailedError
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.logic import (
    AllArrived,
    AllReturned,
    AnyArrived,
    AnyReturned,
    Arrived,
    Await,
    AwaitAll,
    AwaitAny,
    Cancelled,
    Done,
    Entered,
    Event,
    Machine,
    Machines,
    Next,
    Problem,
    Retry,
    Returned,
    Run,
    RunAll,
    RunAny,
    Sleep,
    Slept,
    TimedOut,
    To,
    Wake,
    emit,
    log,
    set_variables,
)
from flowstate.testing import explore_crashes
from tests.engines.logic.driving import Shop, event, seconds, shop, work

pytestmark = pytest.mark.slow
RUNS = pytest.mark.parametrize("runs", [12, pytest.param(500, marks=pytest.mark.nightly)])

Values = dict[str, Any]


def machine(name: str, **options: Any) -> Machine:
    """Return a machine whose first state is made by the decorator."""
    return Machine(name, **options)


sleeps = machine("sleeps")


@sleeps.state("sleep", timeout=seconds(50))
async def sleep(s: Values, wake: Wake) -> Next:
    s.setdefault("wakes", []).append(str(wake))
    match wake:
        case Entered():
            return Sleep(seconds(10))
        case Slept():
            return Sleep(seconds(100))
    return To("next")


@sleeps.state("next")
def sleep_next(s: Values, _: Wake) -> Next:
    log("slept")
    return Done(s["wakes"])


retries = machine("retries", catch={"retries.*": "caught"})


@retries.state("run", retry=Retry(["busy"], attempts=3, first=1), timeout=seconds(1_000))
async def retried(_: Values, wake: Wake) -> Next:
    match wake:
        case Entered():
            return Run(work, "flaky")
        case Returned(value):
            log("worked", value=value)
            return Run(work, "down") if value == "flaky done" else Done(value)
    raise AssertionError(wake)


@retries.state("caught")
async def caught(_: Values, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    assert wake.problem is not None
    return Run(work, "make good") if len(wake.problem.failed) > 1 else Done(wake.problem.code)


child = machine("child")


@child.state("work")
async def child_work(s: Values, wake: Wake) -> Next | None:
    match wake:
        case Entered():
            return Run(work, s["input"])
        case Returned(value):
            return Done(value)
    return None


parallel = machine("parallel", catch={"*": "some"})


@parallel.state("all")
async def run_all(s: Values, wake: Wake) -> Next:
    match wake:
        case Entered():
            return RunAll([Run(work, "a"), Run(child, "b"), Run(work, "c")], limit=2)
        case AllReturned(values):
            s["values"] = values
            return To("any")
    raise AssertionError(wake)


@parallel.state("any")
async def run_any(s: Values, wake: Wake) -> Next:
    match wake:
        case Entered():
            return RunAny([Run(work, "down"), Run(child, "d")])
        case AnyReturned(value, index):
            s["values"] += [value, index]
            return RunAll([Run(work, "down"), Run(work, "e")], strict=False)
    raise AssertionError(wake)


@parallel.state("some")
async def some(s: Values, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    assert wake.problem is not None
    return Done([*s["values"], *wake.problem.failed])


listens = machine("listens")


@listens.state("listen", timeout=seconds(10_000))
async def listen(s: Values, wake: Wake) -> Next | None:
    got = s.setdefault("got", [])
    match wake:
        case Entered():
            return AwaitAny(Event("a", by="anna"), Event("b"))
        case AnyArrived(each, index):
            got.append([each.data, index])
            return AwaitAll(Event("a"), Event("b")) if len(got) == 1 else Await(Event("c"))
        case AllArrived(events):
            got.append([each.data for each in events])
            return Await(Event("c"))
        case Arrived(each):
            got.append(each.data)
            return Await(Event("never"), timeout=seconds(60))
        case TimedOut(what):
            return Done([*got, what])
    return None


async def publishes(machines: Machines) -> None:
    for number, kind in enumerate("abaacb"):
        await machines.publish(event(kind, str(number), number, by="anna" if number > 1 else "x"))
        if number == 3:
            await machines.send_event("it", event("c", "sent", "sent"))


sets = machine("sets")


@sets.state("set")
async def sets_variables(s: Values, wake: Wake) -> Next:
    match wake:
        case Entered():
            return Run(set_variables, "machine", {"a": 1})
        case Returned(int()) if "once" not in s:
            s["once"] = True
            return Run(set_variables, "instance", {"b": 2})
        case Returned(int()):
            return Run(emit, Event("a", by="anna"))
    return Done()


ends = machine("ends")


@ends.state("work")
async def ends_work(_: Values, wake: Wake) -> Next:
    match wake:
        case Entered():
            return Sleep(seconds(1_000_000))
        case Cancelled():
            return Run(work, "undo")
    return To("bad", fails=Problem("bad", "in the end"))


@ends.state("bad")
async def ends_bad(_: Values, __: Wake) -> Next:
    return Done()


@ends.cleanup
async def clean(_: Values, error: BaseException | None) -> None:
    await shop.do(f"clean {type(error).__name__}")


async def cancels(machines: Machines) -> None:
    await machines.engine.wait_for("it", until=lambda state: state.status != Status.ACTIVE)
    await machines.cancel("it")


async def nothing(_: Machines) -> None:
    pass


def world() -> Shop:
    shop.__init__()  # type: ignore[misc]
    shop.broken = {"flaky": ["busy", None], "down": ["busy"]}
    return shop


@pytest.mark.parametrize(
    ("code", "use"),
    [
        (sleeps, nothing),
        (retries, nothing),
        (parallel, nothing),
        (listens, publishes),
        (sets, nothing),
        (ends, cancels),
        (ends, nothing),
    ],
    ids=["sleeps", "retries", "parallel", "listens", "sets", "cancelled", "fails"],
)
@RUNS
def test_it_ends_alike(
    code: Machine, use: Callable[[Machines], Awaitable[None]], runs: int
) -> None:
    def flows(_: Shop) -> FlowRegistry:
        registry = FlowRegistry()
        register(registry, Codes([code, child], rng=Random(0)))
        return registry

    async def run(engine: Engine, _: Shop) -> None:
        async with Machines(engine, [code, child], rng=Random(0)) as machines:
            await machines.start(code, "it")
            await use(machines)
            with contextlib.suppress(InstanceFailedError, InstanceCancelledError):
                await machines.result("it")

    explored = explore_crashes(
        world,
        flows,
        run,
        outside=lambda world: sorted(world.acts.values()),
        ignore=("threads", "notes", "at", "rev", "after"),
        crashes=2,
        max_runs=runs,
    )
    assert explored.runs >= min(runs, 10)
