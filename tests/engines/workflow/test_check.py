"""Which live instances a deployment would strand, and what makes them fit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowstate import Engine, FakeClock, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.engines.kernel.code import Frame, MisfitError
from flowstate.engines.workflow import all_of, each, step, wait, workflow
from flowstate.engines.workflow.checking import Report, check
from flowstate.engines.workflow.workflows import Workflows
from tests.damage import in_sqlite
from tests.engines.workflow.orders import Approved, Order, opened, order, stands


async def pay(n: int) -> int:
    return n


@workflow("w")
async def first_form(s: dict[str, int]) -> int:
    paid = await step(pay, 3)
    await wait("approval", Approved)
    return paid


@workflow("w")
async def more_around_it(s: dict[str, int]) -> int:
    if s != {"no": 1}:
        paid = await step(pay, 3)
        await step(pay, 1, name="pay_more")
        await wait("approval", Approved)
        await step(pay, 2, name="pay_again")
        return paid
    return 0


@workflow("w")
async def another_stop(s: dict[str, int]) -> int:
    paid = await step(pay, 3)
    await wait("consent", Approved)
    return paid


@workflow("w")
async def another_name(s: dict[str, int]) -> int:
    got = await step(pay, 3)
    await wait("approval", Approved)
    return got


@workflow("w")
async def another_type(s: dict[str, int]) -> str:
    paid: str = str(s)
    await wait("approval", Approved)
    return paid


@workflow("w")
async def in_a_loop(s: dict[str, int]) -> int:
    paid = 0
    for _ in range(3):
        paid = await step(pay, 3)
        await wait("approval", Approved)
    return paid


@workflow("w")
async def in_a_handler(s: dict[str, int]) -> int:
    paid = 0
    try:
        paid = await step(pay, 3)
    except ValueError:
        await wait("approval", Approved)
    return paid


@workflow("w")
async def other_data(s: list[int]) -> int:
    paid = await step(pay, 3)
    await wait("approval", Approved)
    return paid


@workflow("w", renamed={"approval": "consent", "paid": "got"})
async def renamed(s: dict[str, int]) -> int:
    got = await step(pay, 3)
    await wait("consent", Approved)
    return got


def to_version_two(values: dict[str, Any], version: int) -> dict[str, Any]:
    assert version == 0
    return {"paid": values["paid"], "currency": "EUR"}


@workflow("w", version=2, upgrade=to_version_two)
async def one_name_more(s: dict[str, int]) -> str:
    paid = await step(pay, 3)
    currency = "USD"
    await wait("approval", Approved)
    return f"{paid} {currency}"


@workflow("w", version=1)
async def older(s: dict[str, int]) -> int:
    paid = await step(pay, 3)
    await wait("approval", Approved)
    return paid


@workflow("w", version=2)
async def newest(s: dict[str, int]) -> int:
    await wait("other", Approved)
    return 2


@workflow("w", version=1)
async def older_without_a_stop(s: dict[str, int]) -> int:
    return await step(pay, 3)


BOTH = [older_without_a_stop, newest]
FITS = [first_form, more_around_it, renamed, one_name_more, older]
WHY = {
    another_stop: "w: has no stop 'approval'; its stops: pay, consent",
    another_name: "w: stop 'approval' needs 'got', which is not stored; what is stored: paid",
    another_type: "'paid' is stored, but cannot be read",
    in_a_loop: "now stands within 'for _'",
    in_a_handler: "now stands within 'except 1'",
    other_data: "value 'data' cannot be decoded, at $: Expected `array`, got `object`",
}


@pytest.mark.parametrize("code", [*FITS, *WHY], ids=lambda code: code.function.__name__)
async def test_the_check_tells_what_would_be_stranded(code: Any) -> None:
    clock = FakeClock(autojump=False)
    async with opened(first_form, clock=clock) as workflows:
        for id in ("a", "b", "c"):
            await workflows.start(first_form, id, {})
            await stands(workflows, id, "approval")
        await workflows.send("c", Approved("x"))
        await workflows.result("c")
        report = await check(workflows.engine, [code])
        assert report.live == 2

        async with Workflows(workflows.engine, [code]) as newer:
            await newer.send("a", Approved("x"))
            state = await newer.engine.wait_for(
                "a",
                until=lambda s: (
                    (s.status != "active" and s.labels.get("stop") != "approval")
                    or "parked" in s.labels
                ),
            )
        assert bool(report) == ("parked" in state.labels)

    if code in FITS:
        assert str(report).startswith("all 2 live instances can go on")
        return
    (found,) = report.stranded
    assert (found.problem, found.workflow, found.stop) == ("misfit", "w", "approval")
    assert (found.count, found.ids) == (2, ("a", "b"))
    assert WHY[code] in found.why
    assert str(report).startswith("misfit: 2 of 'w' at 'approval': 'a', 'b' (")


async def test_a_workflow_that_is_gone_is_told() -> None:
    async with opened(clock=FakeClock(autojump=False)) as workflows:
        await workflows.start(order, "o", Order([]))
        await stands(workflows, "o", "approval")
        report = await check(workflows.engine, [first_form])

    (found,) = report.stranded
    assert (found.problem, found.workflow, found.count) == ("unknown workflow", "order", 1)
    assert found.ids == ("o",)


async def test_a_schedule_of_a_workflow_that_is_gone_is_told() -> None:
    async with opened(order, first_form, clock=FakeClock(autojump=False)) as workflows:
        await workflows.schedule("daily", order, "0 0 * * *", Order([]))
        await workflows.schedule("often", first_form, "0 * * * *", {})
        assert not await check(workflows.engine, [order, first_form])
        report = await check(workflows.engine, [first_form])

    (found,) = report.stranded
    assert (found.problem, found.workflow, found.count) == ("unknown workflow", "order", 1)
    assert found.why == "a schedule starts it"


@workflow("joins")
async def two_branches(s: dict[str, int]) -> int:
    got = await all_of(wait("a", Approved), wait("b", Approved), name="both")
    return len(got)


@workflow("joins")
async def three_branches(s: dict[str, int]) -> int:
    await all_of(wait("a", Approved), wait("b", Approved), wait("c", Approved), name="both")
    return 3


@workflow("joins")
async def children_now(s: dict[str, int]) -> int:
    return len(await each(first_form, [{}], name="both"))


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (two_branches, ""),
        (three_branches, "has the branches ['a', 'b', 'c'], and had ['a', 'b']"),
        (children_now, "is no join any more"),
    ],
    ids=["same", "more", "children"],
)
async def test_branches_are_compared(code: Any, why: str) -> None:
    async with opened(two_branches, clock=FakeClock(autojump=False)) as workflows:
        await workflows.start(two_branches, "j", {})
        await stands(workflows, "j", "both")
        report = await check(workflows.engine, [code, first_form])

    assert why in "".join(each.why for each in report.stranded)
    assert bool(report) == bool(why)


async def test_what_a_newer_version_has_stored_is_not_run_on() -> None:
    async with opened(one_name_more, clock=FakeClock(autojump=False)) as workflows:
        await workflows.start(one_name_more, "a", {})
        await stands(workflows, "a", "approval")
        (found,) = (await check(workflows.engine, [older])).stranded

    assert found.why == "w: version 2 has stored this, and here is 1"


async def test_an_upgraded_instance_goes_on_with_its_new_values() -> None:
    async with opened(first_form, clock=FakeClock(autojump=False)) as workflows:
        await workflows.start(first_form, "a", {})
        await stands(workflows, "a", "approval")
        async with Workflows(workflows.engine, [one_name_more]) as newer:
            await newer.send("a", Approved("x"))
            assert await newer.result("a") == "3 EUR"


def test_an_upgrade_that_fails_is_a_misfit() -> None:
    def broken(values: dict[str, Any], version: int) -> dict[str, Any]:
        return {"paid": values["price"]}

    @workflow("w", version=1, upgrade=broken)
    async def code(s: dict[str, int]) -> int:
        paid = await step(pay, 3)
        await wait("approval", Approved)
        return paid

    frame = Frame("w", "approval", {"paid": msgspec.Raw(b"3")})
    with pytest.raises(MisfitError, match="cannot be upgraded from version 0: KeyError"):
        code.check(frame)


TARGET = "tests.engines.workflow.test_check"
UNIMPORTABLE = "tests.engines.workflow.unimportable"


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, "-m", "flowstate.engines.workflow", *arguments]
    root = Path(__file__).parents[3]
    return subprocess.run(program, cwd=root, capture_output=True, text=True, check=False)


async def test_the_command_line_has_an_exit_status(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(first_form, driver=SQLiteDriver(path)) as workflows:
        await workflows.start(first_form, "a", {})
        await stands(workflows, "a", "approval")
    store = ("--store", f"sqlite:{path}")
    text = tmp_path / "text"
    text.write_text("text")

    fits = command("check", f"{TARGET}:first_form", *store)
    assert (fits.returncode, fits.stdout) == (0, "all 1 live instances can go on\n")
    bad = command("check", f"{TARGET}:another_stop", *store)
    assert bad.returncode == 1
    assert bad.stdout.startswith("misfit: 1 of 'w' at 'approval': 'a' (w: has no stop")
    for target, url, error in [
        (f"{TARGET}:nothing", store[1], "has no attribute 'nothing'"),
        (f"{TARGET}:pay", store[1], "is no workflow"),
        (TARGET, store[1], "write package.module:name"),
        ("tests.engines.workflow.none:first_form", store[1], "No module named"),
        (f"{UNIMPORTABLE}:first_form", store[1], "NotImplementedError: it cannot be imported"),
        (f"{TARGET}:first_form", f"sqlite:{text}", "file is not a database"),
        (f"{TARGET}:first_form", "postgresql://u:secret@127.0.0.1:1/x", "Connection refused"),
        (f"{TARGET}:first_form", "sqlite:/nowhere/x.db", "there is no file"),
        (f"{TARGET}:first_form", "ftp://x", "cannot tell what store"),
    ]:
        none = command("check", target, "--store", url)
        assert (none.returncode, none.stdout) == (2, "")
        assert error in none.stderr
        assert "secret" not in none.stderr


async def test_the_command_line_writes_json(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(older, driver=SQLiteDriver(path)) as workflows:
        for id in ("a", "b"):
            await workflows.start(older, id, {})
            await stands(workflows, id, "approval")

    written = command("check", f"{TARGET}:BOTH", "--store", f"sqlite:{path}", "--json")

    assert (written.returncode, written.stderr) == (1, "")
    report = msgspec.json.decode(written.stdout, type=Report)
    assert (report.live, report.versions) == (2, {"w": {1: 2, 2: 0}})
    assert [each.count for each in report.stranded] == [2]


async def test_a_damaged_instance_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with opened(first_form, driver=SQLiteDriver(path)) as workflows:
        for id in ("a", "b", "c"):
            await workflows.start(first_form, id, {})
            await stands(workflows, id, "approval")
    in_sqlite(path, "revision", "b")
    clock = FakeClock()
    async with Engine(SQLiteDriver(path), FlowRegistry(), clock=clock) as engine:
        report = await check(engine, [another_stop])

    found = {each.problem: each.ids for each in report.stranded}
    assert found == {"misfit": ("a", "c"), "damaged": ("b",)}


async def test_the_time_of_a_check_follows_the_number_of_live_instances() -> None:
    """It reads each once, tells how far it has come, and reads none that has ended."""
    told: list[int] = []
    async with opened(first_form, clock=FakeClock(autojump=False)) as workflows:
        for number in range(30):
            await workflows.start(first_form, str(number), {})
            await stands(workflows, str(number), "approval")
        for number in range(10):
            await workflows.send(str(number), Approved("x"))
            await workflows.result(str(number))
        report = await check(workflows.engine, [first_form], progress=told.append)

    assert report.live == 20
    assert told == [*range(1, 21)]


async def test_a_check_changes_nothing() -> None:
    clock = FakeClock(autojump=False)
    async with Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine:
        assert str(await check(engine, [first_form])) == "all 0 live instances can go on"
        assert await engine.head() == 0
