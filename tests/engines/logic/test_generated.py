"""Random machines end as their scripts say, and so they do wherever their processes die."""

from random import Random
from typing import Any

import pytest

from flowstate import Engine, FlowRegistry
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
    TimedOut,
    To,
    Wake,
)
from flowstate.testing import explore_crashes
from tests.engines.logic.driving import Shop, event, machines_of, seconds, shop, work
from tests.engines.logic.test_crashes import child

RETRY = Retry(["busy"], attempts=3, first=1)
STATES = 3


def acts(rng: Random) -> tuple[str, int]:
    kinds = ["sleep", "run", "flaky", "child", "all", "flows", "none", "any", "await", "both"]
    kinds += [*kinds, "either", "late", "down", "problem"]
    return rng.choice(kinds), rng.randrange(1, 4)


def next_of(act: tuple[str, int], name: str) -> Next:  # noqa: C901, PLR0911 - one for each
    """Return what a state wants for an act of its script."""
    kind, number = act
    names = [f"{name}{each}" for each in range(number)]
    match kind:
        case "sleep":
            return Sleep(seconds(number))
        case "run":
            return Run(work, name)
        case "flaky" | "down":
            return Run(work, kind, retry=RETRY if kind == "flaky" else None)
        case "child":
            return Run(child, name)
        case "all":
            return RunAll([Run(work, each) for each in names], limit=2)
        case "flows":
            return RunAll([Run(child, each) for each in names], limit=1)
        case "none":
            return RunAll([])
        case "any":
            return RunAny([Run(work, "down"), Run(child, name)], limit=1)
        case "await":
            return Await(Event("a"))
        case "both":
            return AwaitAll(Event("b"), Event("a"))
        case "either":
            return AwaitAny(Event("never"), Event("b"))
        case "late":
            return Await(Event("never"), timeout=seconds(number))
    raise Problem("planned", name)


def seen(wake: Wake) -> str:  # noqa: PLR0911 - one for each
    match wake:
        case Entered(problem):
            return f"entered {problem.code if problem else ''}".strip()
        case AnyReturned(value, index):
            return f"any {index} {value}"
        case Returned(value):
            return f"returned {value}"
        case AllReturned(values):
            return f"all {values}"
        case AnyArrived(each, index):
            return f"any {index} {each.type}"
        case Arrived(each):
            return f"arrived {each.type}"
        case AllArrived(events):
            return f"all {[each.type for each in events]}"
        case TimedOut(what):
            return f"late {what}"
    return type(wake).__name__


def expected(act: tuple[str, int], name: str) -> str:
    """Return what a state is told after an act; a problem leads to the state ``caught``."""
    kind, number = act
    names = [f"{name}{each} done" for each in range(number)]
    return {
        "sleep": "Slept",
        "run": f"returned {name} done",
        "flaky": "returned flaky done",
        "down": "entered bad",
        "child": f"returned {name} done",
        "all": f"all {names}",
        "flows": f"all {names}",
        "none": "all []",
        "any": f"any 1 {name} done",
        "await": "arrived a",
        "both": "all ['b', 'a']",
        "either": "any 1 b",
        "late": "late wait",
        "problem": "entered planned",
    }[kind]


def made(seed: int) -> tuple[Machine, list[str], int]:
    """Return a machine, what its states are told, and how many events it takes of each type."""
    rng = Random(seed)
    scripts = [[acts(rng) for _ in range(rng.randrange(4))] for _ in range(STATES)]
    machine = Machine("made", catch={"*": "caught"}, uses=[work, child])
    trace, waits = list[str](), 0

    def state_of(number: int) -> Any:
        async def state(s: dict[str, Any], wake: Wake) -> Next:
            s["at"] = 0 if isinstance(wake, Entered) else s["at"]
            s["trace"] = [*s.get("trace", []), seen(wake)]
            s["last"] = number
            if s["at"] < len(scripts[number]):
                s["at"] += 1
                return next_of(scripts[number][s["at"] - 1], f"{number}.{s['at']}.")
            return To(f"s{number + 1}") if number + 1 < STATES else Done(s["trace"])

        return state

    async def caught(s: dict[str, Any], wake: Wake) -> Next:
        s["trace"] = [*s.get("trace", []), seen(wake)]
        return Done(s["trace"])

    for number, script in enumerate(scripts):
        machine.state(f"s{number}")(state_of(number))
        trace.append("entered")
        for at, act in enumerate(script, 1):
            if act[0] == "problem":
                trace.pop()  # Values are as they were before the state that has raised it.
            waits += act[0] in {"await", "both", "either"}
            trace.append(expected(act, f"{number}.{at}."))
            if trace[-1].startswith("entered"):
                machine.state("caught")(caught)
                return _with_all_states(machine, scripts, state_of), trace, waits
    machine.state("caught")(caught)
    return machine, trace, waits


def _with_all_states(machine: Machine, scripts: list[Any], state_of: Any) -> Machine:
    for number in range(len(scripts)):
        if f"s{number}" not in machine.states:
            machine.state(f"s{number}")(state_of(number))
    return machine


def world() -> Shop:
    shop.__init__()  # type: ignore[misc]
    shop.broken = {"flaky": ["busy", None], "down": ["bad"]}
    return shop


async def publish(machines: Machines, waits: int) -> None:
    for number in range(waits):
        for kind in "ab":
            await machines.publish(event(kind, f"{kind}{number}"))


@pytest.mark.parametrize("seeds", [60, pytest.param(2_000, marks=pytest.mark.nightly)])
async def test_random_machines_end_as_their_scripts_say(seeds: int) -> None:
    for seed in range(seeds):
        machine, trace, waits = made(seed)
        async with machines_of(machine) as machines:
            world()
            await machines.start(machine, "m")
            await publish(machines, waits)
            assert await machines.result("m") == trace, seed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "runs"), [(6, 8), pytest.param(100, 60, marks=pytest.mark.nightly)]
)
def test_no_crash_changes_how_they_end(seeds: int, runs: int) -> None:
    for seed in range(10_000, 10_000 + seeds):
        machine, trace, waits = made(seed)

        def flows(_: Shop, machine: Machine = machine) -> FlowRegistry:
            registry = FlowRegistry()
            register(registry, Codes([machine, child], rng=Random(0)))
            return registry

        async def run(
            engine: Engine,
            _: Shop,
            machine: Machine = machine,
            waits: int = waits,
            trace: tuple[str, ...] = tuple(trace),
        ) -> None:
            async with Machines(engine, [machine, child], rng=Random(0)) as machines:
                await machines.start(machine, "m")
                await publish(machines, waits)
                assert await machines.result("m") == [*trace]

        explore_crashes(
            world,
            flows,
            run,
            outside=lambda world: sorted(world.acts.values()),
            ignore=("threads", "notes", "at", "rev", "after"),
            crashes=2,
            max_runs=runs,
        )
