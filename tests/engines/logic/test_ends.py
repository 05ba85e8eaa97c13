"""Problems and who catches them, times that are over, cancelling, and cleaning up."""

import asyncio
from typing import Any

import pytest

from flowstate import FakeClock, Status
from flowstate.engines.kernel.errors import InstanceCancelledError, InstanceFailedError
from flowstate.engines.logic import (
    Cancelled,
    Done,
    Entered,
    Machine,
    Next,
    Problem,
    Retry,
    Returned,
    Run,
    RunAll,
    RunAny,
    Sleep,
    Slept,
    Stay,
    TimedOut,
    Wake,
    log,
)
from tests.engines.logic.driving import machines_of, revisions, seconds, shop, stands, work

Values = dict[str, Any]

catches = Machine("catches", catch={"bank.*": "machine", "*": "rest"})


@catches.state("throw", catch={"bank.busy": "own", "bank.b*": "own star"})
async def throw(s: Values, _: Wake) -> Next:
    s["lost"] = True
    log("throws", level="warning", code=s["code"])
    raise Problem(s["code"], "text")


async def caught(s: Values, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    assert wake.problem is not None
    return Done([s.get("lost"), wake.problem.code, wake.problem.text])


for name in ("own", "own star", "machine", "rest"):
    catches.state(name)(caught)


@pytest.mark.parametrize(
    ("code", "state"),
    [("bank.busy", "own"), ("bank.broke", "own star"), ("bank.x", "machine"), ("bank", "rest")],
)
async def test_the_first_glob_that_matches_catches(code: str, state: str) -> None:
    async with machines_of(catches) as machines:
        await machines.start(catches, "c", {"code": code})
        assert await machines.result("c") == [None, code, "text"]
        entries = [each async for each in machines.log("c")]

    assert [(each.state, each.level, each.text) for each in entries] == [
        ("throw", "warning", "throws"),
        ("throw", "warning", f"{code}: text: {state!r} catches it"),
    ]
    assert entries[0].fields == {"code": code}


loops = Machine("loops", catch={"*": "again"})


@loops.state("again")
async def again(s: Values, _: Wake) -> Next:
    s["n"] = s.get("n", 0) + 1
    raise Problem("loop", "again")


async def test_problems_that_catch_each_other_come_to_an_end() -> None:
    async with machines_of(loops) as machines:
        await machines.start(loops, "l")
        with pytest.raises(InstanceFailedError, match="loop: again"):
            await machines.result("l")


errors = Machine("errors", catch={"error.ConnectionError": "told", "error.*": "other"})


async def disconnects() -> None:
    raise ConnectionError("gone")


def is_wrong() -> None:
    raise ValueError("wrong")


@errors.state("run", retry=Retry(["error.Conn*"], attempts=2, first=1))
async def run(s: Values, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    return Run(disconnects) if s["what"] == "gone" else Run(is_wrong)


@errors.state("told")
@errors.state("other")
async def told(_: Values, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    return Done(str(wake.problem))


async def test_errors_of_steps_have_codes() -> None:
    async with machines_of(errors) as machines:
        await machines.start(errors, "a", {"what": "wrong"})
        assert await machines.result("a") == "error.ValueError: ValueError: wrong"
        await machines.start(errors, "b", {"what": "gone"})
        with pytest.raises(InstanceFailedError, match=r"retries.exceeded: 2 attempts, .*gone"):
            await machines.result("b")


limited = Machine(
    "limited", soft_timeout=seconds(100), hard_timeout=seconds(200), catch={"timeout*": "end"}
)


@limited.state("wait", timeout=seconds(10))
async def wait_limited(s: Values, wake: Wake) -> Next | None:
    told = s.setdefault("told", [])
    match wake:
        case Entered():
            return Sleep(seconds(1_000)) if s["wants"] == "sleep" else Run(work, "slow")
        case TimedOut(what):
            told.append(what)
            return (
                None if s.get("gives up") == what else Stay() if s["wants"] == "sleep" else wait()
            )
    return None


def wait() -> Next:
    return Sleep(seconds(1_000))


@limited.state("end")
async def end(s: Values, wake: Wake) -> Next:
    assert isinstance(wake, Entered)
    return Done([*s["told"], str(wake.problem)])


@pytest.mark.parametrize("wants", ["sleep", "run"])
@pytest.mark.parametrize(
    ("gives_up", "told", "at"),
    [
        ("state", ["timeout: state 'wait' has taken too long"], 10),
        ("machine", ["state", "timeout.machine: state 'wait' has taken too long"], 100),
    ],
)
async def test_each_limit_is_told_once(
    wants: str, gives_up: str, told: list[str], at: float
) -> None:
    clock = FakeClock()
    async with machines_of(limited, clock=clock) as machines:
        shop.held["slow"] = asyncio.Event()
        before = clock.now()
        await machines.start(limited, "l", {"wants": wants, "gives up": gives_up})
        assert await machines.result("l") == told
        assert seconds(at) <= clock.now() - before < seconds(at + 5)


@pytest.mark.parametrize("wants", ["sleep", "run"])
async def test_the_hard_limit_ends_it_and_nothing_catches_that(wants: str) -> None:
    clock = FakeClock()
    async with machines_of(limited, clock=clock) as machines:
        shop.held["slow"] = asyncio.Event()
        before = clock.now()
        await machines.start(limited, "l", {"wants": wants})
        with pytest.raises(InstanceFailedError, match=r"timeout\.hard"):
            await machines.result("l")
        assert seconds(200) <= clock.now() - before < seconds(205)
        assert (await machines.query("l"))["told"] == ["state", "machine"]


crowds = Machine("crowds", Values)


@crowds.state("run", timeout=seconds(10))
async def crowd(s: Values, wake: Wake) -> Next | None:
    match wake:
        case Entered():
            runs = [
                Run(cancels, {"wants": "sleep"}),
                Run(work, "slow"),
                Run(cancels, {"wants": "run"}),
            ]
            return RunAll(runs) if s["all"] else RunAny(runs, limit=2)
        case TimedOut(what):
            return Done(what)
    return None


@pytest.mark.parametrize("is_all", [True, False])
async def test_a_limit_ends_all_that_run_at_once(is_all: bool) -> None:
    clock = FakeClock()
    async with machines_of(crowds, clock=clock) as machines:
        shop.held["slow"] = asyncio.Event()
        before = clock.now()
        await machines.start(crowds, "c", {"all": is_all})
        assert await machines.result("c") == "state"
        assert seconds(10) <= clock.now() - before < seconds(15)
        children = machines.engine.states(labels={"parent": "c"}, latest_only=True)
        ended = [each.labels["outcome"] async for each in children]
        assert ended == ["cancelled"] * (2 if is_all else 1)


slow = Machine("slow", patience=1.0)


@slow.state("think")
async def think(_: Values, __: Wake) -> Next:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_state_function_that_takes_too_long_ends_the_instance() -> None:
    async with machines_of(slow) as machines:
        await machines.start(slow, "s")
        with pytest.raises(InstanceFailedError, match="'think' took longer than 1 s"):
            await machines.result("s")


cancels = Machine("cancels", catch={"*": "caught"})


@cancels.state("work")
async def state_work(s: Values, wake: Wake) -> Next | None:
    s.setdefault("wakes", []).append(type(wake).__name__)
    match wake:
        case Entered() if s["wants"] == "run":
            return Run(work, "slow")
        case Entered() if s["wants"] == "flows":
            return RunAll([Run(cancels, {"wants": "sleep"}), Run(cancels, {"wants": "sleep"})])
        case Entered():
            return Sleep(seconds(3600))
        case Cancelled() if s.get("cleans"):
            return Run(work, "clean")
        case Returned(value):
            return Done(value)
    return None


cancels.state("caught")(caught)


@pytest.mark.parametrize("wants", ["run", "sleep", "flows"])
async def test_cancel_is_told_and_no_catcher_is_asked(wants: str) -> None:
    async with machines_of(cancels) as machines:
        shop.held["slow"] = asyncio.Event()
        await machines.start(cancels, "c", {"wants": wants, "cleans": True})
        if wants == "run":
            await shop.begun["slow"].wait()
        elif wants == "sleep":
            await stands(machines, "c", "work")
        else:
            labels = {"parent": "c"}
            async with machines.engine.watch(labels=labels, status=Status.PAUSED) as states:
                seen = set[str]()
                while len(seen) < 2:
                    seen.add((await anext(states)).id)
        await machines.cancel("c")
        with pytest.raises(InstanceCancelledError):
            await machines.result("c")
        assert (await machines.query("c"))["wakes"] == ["Entered", "Cancelled", "Returned"]
        children = machines.engine.states(labels={"parent": "c"}, latest_only=True)
        assert {each.labels["outcome"] async for each in children} <= {"cancelled"}

    assert shop.did[-1] == "clean"


ponders = Machine("ponders")


@ponders.state("a")
async def ponder(s: Values, wake: Wake) -> Next | None:
    match wake:
        case Entered():
            return Run(work, "pay")
        case Returned(value):
            await shop.do("ponder")
            s["receipt"] = value
            return Sleep(seconds(3600))
        case Cancelled():
            return Run(work, f"undo {s['receipt']}") if "undone" not in s else None
    return None


async def test_what_has_come_is_told_before_the_cancel() -> None:
    async with machines_of(ponders) as machines:
        shop.held["ponder"] = asyncio.Event()
        await machines.start(ponders, "p")
        await shop.begun["ponder"].wait()
        await machines.cancel("p")
        shop.held["ponder"].set()
        await machines.engine.wait_for("p", until=lambda each: each.status is Status.PAUSED)
        await machines.cancel("p", hard=True)

    assert shop.did[:2] == ["pay", "ponder"]
    assert "undo pay done" in shop.did


async def test_a_hard_cancel_ends_at_once() -> None:
    async with machines_of(cancels) as machines:
        await machines.start(cancels, "c", {"wants": "sleep", "cleans": True})
        await stands(machines, "c", "work")
        await machines.cancel("c", hard=True)
        with pytest.raises(InstanceCancelledError):
            await machines.result("c")

    assert shop.did == []


cleans = Machine("cleans")


@cleans.state("work")
async def cleans_work(s: Values, wake: Wake) -> Next | None:
    if s["end"] == "crash":
        raise KeyError("x")
    if isinstance(wake, Entered) and s["end"] != "done":
        return Sleep(seconds(3600))
    return Done("well") if s["end"] == "done" or isinstance(wake, Slept) else None


@cleans.cleanup
async def clean(values: Values, error: Exception | None) -> None:
    await shop.do(f"clean {values['end']} {type(error).__name__}")


@pytest.mark.parametrize(
    ("end", "kind"), [("done", "NoneType"), ("crash", "KeyError"), ("cancel", "Cancelled")]
)
async def test_it_is_cleaned_up_however_it_ends(end: str, kind: str) -> None:
    async with machines_of(cleans) as machines:
        await machines.start(cleans, "c", {"end": end})
        if end == "cancel":
            await stands(machines, "c", "work")
            await machines.cancel("c")
        state = await machines.engine.wait_for("c", until=lambda each: each.status == "ended")
        assert state.labels["outcome"] == {"done": "done", "crash": "failed"}.get(end, "cancelled")

    assert shop.did == [f"clean {end} {kind}"]


tries = Machine("tries")


@tries.state("run")
async def tries_run(_: Values, wake: Wake) -> Next:
    return Done(wake.value) if isinstance(wake, Returned) else Run(work, "pay")


@tries.cleanup
async def clean_tries(_: Values, error: Exception | None) -> None:
    await shop.do(f"clean {error}")


async def test_an_operator_lets_it_try_again_what_has_failed_before_it_was_cleaned_up() -> None:
    async with machines_of(tries) as machines:
        shop.held["pay"] = asyncio.Event()
        await machines.start(tries, "t")
        await shop.begun["pay"].wait()
        key = (await machines.engine.get_state("t")).values["threads"]
        shop.broken["pay"] = ["x"]
        shop.held["pay"].set()
        with pytest.raises(InstanceFailedError, match="x: pay is down"):
            await machines.result("t")
        shop.broken.clear()
        await machines.retry("t")
        assert await machines.result("t") == "pay done"

    assert shop.did == ["pay", "clean x: pay is down", "pay", "clean None"]
    assert b'"passed":1' in bytes(key)
    assert "t/main/run/1" in shop.acts


async def test_what_cannot_be_cleaned_up_is_tried_again_and_then_told() -> None:
    async with machines_of(cleans) as machines:
        shop.broken["clean done NoneType"] = ["x", "x", None]
        await machines.start(cleans, "a", {"end": "done"})
        assert await machines.result("a") == "well"
        shop.broken["clean done NoneType"] = ["x"]
        await machines.start(cleans, "b", {"end": "done"})
        with pytest.raises(InstanceFailedError, match="clean done NoneType is down"):
            await machines.result("b")
        assert len(await revisions(machines, "b")) > 5

    assert len(shop.did) == 8
