"""Joins: all, the first so many, and what a branch that fails means."""

import asyncio
from typing import Any

import pytest

from flowstate import FakeClock, RetryPolicy
from flowstate.engines.kernel.operations import Call, Join
from tests.engines.kernel.running import kernel_of, revisions
from tests.engines.kernel.tables import Done, Table, join, line, run, wait


def after(clock: FakeClock, seconds: float, value: object = None) -> Any:
    """Return a step that takes so long, and returns or raises a value."""

    async def work() -> object:
        await clock.sleep(seconds)
        if isinstance(value, Exception):
            raise value
        return value

    return work


NO = ValueError("no")


@pytest.mark.parametrize(
    ("wanted", "strict", "branches", "expected"),
    [
        (None, None, [], []),
        (1, None, [], []),
        (2, None, [], []),
        (None, None, [(3, "a"), (1, "b"), (2, "c")], ["a", "b", "c"]),
        (1, None, [(3, "a"), (1, "b"), (2, "c")], ["b"]),
        (2, None, [(3, "a"), (1, "b"), (2, "c")], ["b", "c"]),
        (5, None, [(2, "a"), (1, "b")], ["b", "a"]),
        (None, None, [(3, "a"), (1, NO)], "StepFailed of ValueError"),
        (None, False, [(3, "a"), (1, NO)], "StepFailed of ValueError"),
        (1, None, [(3, "a"), (1, NO)], ["a"]),
        (1, True, [(3, "a"), (1, NO)], "StepFailed of ValueError"),
        (1, None, [(3, NO), (1, NO)], "StepFailed of ValueError"),
        (2, None, [(3, "a"), (1, NO), (2, "c")], ["c", "a"]),
        (2, None, [(9, "a"), (1, NO), (2, NO)], "StepFailed of ValueError"),
    ],
)
async def test_how_a_join_ends(
    wanted: int | None, strict: bool | None, branches: list[Any], expected: object
) -> None:
    clock = FakeClock()
    steps = [run(f"s{n}", after(clock, *each)) for n, each in enumerate(branches)]
    code = line("join", join("a", *steps, wanted=wanted, strict=strict), catch=True)

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == [expected]


@pytest.mark.parametrize(
    ("strict", "seconds"),
    [
        pytest.param(None, 1, id="a strict one ends with the first error"),
        pytest.param(False, 9, id="another one waits for all"),
    ],
)
async def test_when_a_join_of_all_fails(strict: bool | None, seconds: int) -> None:
    clock = FakeClock()
    steps = run("x", after(clock, 1, NO)), run("y", after(clock, 9, "y"))
    code = line("join", join("a", *steps, strict=strict), catch=True)

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        await kernel.result("i")

        assert clock.monotonic() == seconds


async def test_each_branch_commits_as_it_ends() -> None:
    clock = FakeClock()
    code = line("join", join("a", *[run(f"s{n}", after(clock, n + 1)) for n in range(3)]))

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        await kernel.result("i")

        # Its start, the branches, two that end; the third one ends it all.
        assert len(await revisions(kernel, "i")) == 5


async def test_a_branch_that_fails_delays_no_other() -> None:
    clock, ended = FakeClock(), []
    policy = RetryPolicy(attempts=2, first=100.0, jitter=False)

    async def fail() -> str:
        ended.append(("fail", clock.monotonic()))
        if len([each for each in ended if each[0] == "fail"]) < 2:
            raise NO
        return "late"

    async def work() -> str:
        await clock.sleep(5)
        ended.append(("work", clock.monotonic()))
        return "soon"

    code = line("join", join("a", run("x", fail, retry=policy), run("y", work)))

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == [["late", "soon"]]
    assert ended == [("fail", 0), ("work", 5), ("fail", 100)]


async def test_losers_clean_up_before_the_join_goes_on() -> None:
    clock, done = FakeClock(), []

    async def undo() -> None:
        await clock.sleep(10)
        done.append("undone")

    async def note() -> None:
        done.append("after")

    def then(names: object, data: object, error: object) -> str:
        return "undo"

    loser = Table(
        "loser",
        {
            "work": (run("work", after(clock, 50, "late")), lambda _, __, v: Done(v)),
            "undo": (run("undo", undo), lambda *_: Done("undone")),
        },
        catches={"work": then},
        data=None,
    )
    code = line(
        "join",
        lambda n, d: Join("a", [Call("l", loser, {}), run("x", after(clock, 1, "x"))(n, d)], 1),
        run("b", note),
        uses={"loser": loser},
    )

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == [["x"], None]
    assert done == ["undone", "after"]
    assert clock.monotonic() == 11


async def test_joins_within_joins() -> None:
    clock = FakeClock()
    inner = join("in", run("x", after(clock, 3, "x")), run("y", after(clock, 2, "y")), wanted=1)
    code = line("join", join("a", inner, inner, run("z", after(clock, 1, "z"))))

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == [[["y"], ["y"], "z"]]


async def test_a_step_against_a_time() -> None:
    clock = FakeClock()
    slow = line(
        "slow", join("a", run("x", after(clock, 100)), wait("t", seconds=5), wanted=1), catch=True
    )

    async with kernel_of(slow, clock=clock) as kernel:
        await kernel.start(slow, "i", {})

        assert await kernel.result("i") == [[None]]
    assert clock.monotonic() == 5


async def test_a_thousand_branches() -> None:
    async def number(n: int) -> int:
        await asyncio.sleep(0)
        return n

    code = line("wide", join("a", *[run("s", number, n) for n in range(1_000)]))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == [[*range(1_000)]]


async def test_a_branch_that_fails_at_the_moment_of_its_cancel_is_not_tried_again() -> None:
    clock = FakeClock()
    patient = RetryPolicy(attempts=9, first=1e6, jitter=False, longest=1e6)
    branches = [run("x", after(clock, 0, NO)), run("y", after(clock, 0, NO), retry=patient)]
    code = line("join", join("a", *branches), catch=True)

    async with kernel_of(code, clock=clock) as kernel:
        began = clock.monotonic()
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["StepFailed of ValueError"]
        assert clock.monotonic() - began < 1e6
