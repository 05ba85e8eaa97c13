"""What matters most, on each of the four stores, in real time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import psycopg
import pytest

from flowstate import Delayer, Engine, FlowRegistry, RetryPolicy, SystemClock
from flowstate.driver import Driver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.engines.kernel.code import Code, CodeOptions, Update
from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Each, Until
from flowstate.engines.kernel.steps import effect_key
from flowstate.recovery import Recoverer
from tests.engines.kernel.running import revisions, stands
from tests.engines.kernel.tables import join, line, run, wait
from tests.engines.stores import STORES, driver_of

SOON = RetryPolicy(attempts=3, first=0.05, jitter=False)


class Note(msgspec.Struct):
    n: int


@pytest.fixture(params=STORES)
def driver(request: pytest.FixtureRequest) -> Driver:
    return driver_of(request.param, request)


@contextlib.asynccontextmanager
async def kernel_on(driver: Any, *codes: Code, **options: Any) -> AsyncIterator[Kernel]:
    async with (
        Engine(driver, FlowRegistry(), clock=SystemClock(), shutdown_timeout=1.0) as engine,
        Delayer(engine),
        Recoverer(engine),
        Kernel(engine, codes, retry=SOON, **options) as kernel,
    ):
        yield kernel


async def ends(kernel: Kernel, id: str = "i") -> Any:
    return await kernel.result(id, timeout=20.0)


async def one() -> int:
    return 1


async def test_steps_that_fail_and_are_tried_again(driver: Driver) -> None:
    keys: list[str] = []

    async def flaky() -> str:
        keys.append(effect_key())
        if len(keys) < 3:
            raise ConnectionError
        return "done"

    code = line("code", run("a", one), run("b", flaky), run("c", lambda: "plain"))

    async with kernel_on(driver, code) as kernel:
        await kernel.start(code, "i", {})
        assert await ends(kernel) == [1, "done", "plain"]
        assert keys == ["i/main/b/1"] * 3
        states = await revisions(kernel, "i")

    # Two failures are two commits, and two times that the timer fires.
    assert len(states) == 4 + 4


async def test_messages_early_late_and_twice(driver: Driver) -> None:
    code = line("code", *[wait(name, Note) for name in "abc"])

    async with kernel_on(driver, code) as kernel:
        await kernel.send("i", Note(1), key="1", early=True)
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "b")
        assert await kernel.send("i", Note(2), key="2")
        assert not await kernel.send("i", Note(2), key="2")
        assert not await kernel.send("i", Note(1), key="1")
        await kernel.send("i", Note(3), key="3")

        assert await ends(kernel) == [{"n": 1}, {"n": 2}, {"n": 3}]


async def test_a_wait_ends_in_time(driver: Driver) -> None:
    code = line("code", wait("a", Note, seconds=0.2), wait("b", seconds=0.2), catch=True)

    async with kernel_on(driver, code) as kernel:
        await kernel.start(code, "i", {})
        assert await ends(kernel) == ["TimeoutError", None]
        first, *_, last = await revisions(kernel, "i")

    assert first.committed_at is not None
    assert last.committed_at is not None
    assert (last.committed_at - first.committed_at).total_seconds() >= 0.4


async def test_branches_that_run_wait_and_sleep(driver: Driver) -> None:
    code = line(
        "code",
        join("a", run("x", one), wait("y", Note), join("z", wait("s", seconds=0.1))),
        join("b", run("x", one), wait("y", Note), wanted=1),
    )

    async with kernel_on(driver, code) as kernel:
        await kernel.start(code, "i", {})
        await kernel.send("i", Note(1))

        assert await ends(kernel) == [[1, {"n": 1}, [None]], [1]]


async def test_a_message_is_taken_while_a_long_step_runs(driver: Driver) -> None:
    end = asyncio.Event()

    async def long() -> str:
        await end.wait()
        return "long"

    code = line("code", join("a", run("x", long), wait("y", Note)))

    async with kernel_on(driver, code) as kernel:
        await kernel.start(code, "i", {})
        await kernel.send("i", Note(1))
        await kernel.engine.wait_for(
            "i", until=lambda each: b'"ended"' in bytes(each.values["threads"]), timeout=10.0
        )
        end.set()

        assert await ends(kernel) == [["long", {"n": 1}]]


async def test_children_and_a_cancel(driver: Driver) -> None:
    child = line("child", run("x", one), wait("w", Note), data=dict)
    code = line(
        "code",
        lambda *_: Each("a", child, [{}] * 3, 2),
        run("b", one),
        catch=True,
        uses={"child": child},
    )

    async with kernel_on(driver, code) as kernel:
        await kernel.start(code, "i", {})
        await kernel.start(code, "j", {})
        for n in range(3):
            await stands(kernel, f"i.a.0.{n}", "b")
            await kernel.send(f"i.a.0.{n}", Note(n))
        assert await ends(kernel) == [[[1, {"n": 0}], [1, {"n": 1}], [1, {"n": 2}]], 1]
        await stands(kernel, "j.a.0.1", "b")
        await kernel.cancel("j")
        assert await ends(kernel, "j") == ["Cancelled", 1]
        with pytest.raises(InstanceCancelledError):
            await ends(kernel, "j.a.0.1")


def add(data: dict[str, int], n: int) -> int:
    data["n"] = data.get("n", 0) + n
    return data["n"]


async def test_updates_are_answered_one_after_the_other(driver: Driver) -> None:
    code = line(
        "code",
        lambda *_: Until("a", lambda data: data.get("n", 0) >= 10),
        options=CodeOptions(updates={"add": Update(int, add)}),
    )

    async with kernel_on(driver, code) as kernel:
        await kernel.start(code, "i", {})
        answers = await asyncio.gather(
            *(kernel.update("i", "add", 1, timeout=20.0) for _ in range(10))
        )
        assert sorted(answers) == [*range(1, 11)]
        assert await ends(kernel) == [None]


async def test_another_engine_goes_on_with_what_one_leaves(
    driver: Driver, request: pytest.FixtureRequest
) -> None:
    ran: list[str] = []
    begun = asyncio.Event()

    async def long() -> str:
        ran.append(effect_key())
        begun.set()
        if len(ran) == 1:
            await asyncio.Event().wait()
        return "long"

    code = line("code", run("a", long))
    async with driver:
        engine = Engine(driver, FlowRegistry(), shutdown_timeout=0.0)
        async with engine, Kernel(engine, [code]) as kernel:
            await kernel.start(code, "i", {})
            await begun.wait()
        async with kernel_on(driver, code) as kernel:
            assert await ends(kernel) == ["long"]
    assert ran == ["i/main/a/0"] * 2


async def test_what_another_process_says_is_noticed_while_a_step_runs(driver: Driver) -> None:
    begun = asyncio.Event()

    async def long() -> None:
        begun.set()
        await asyncio.Event().wait()

    code = line("code", join("a", run("x", long), wait("y", Note)), catch=True)

    async with kernel_on(driver, code) as kernel, Engine(driver, FlowRegistry()) as engine:
        other = Kernel(engine, [])
        await kernel.start(code, "i", {})
        await begun.wait()
        await other.send("i", Note(1))
        await engine.wait_for(
            "i", until=lambda each: b'"ended"' in bytes(each.values["threads"]), timeout=10.0
        )
        await other.cancel("i")

        assert await ends(other) == ["Cancelled"]


async def test_rows_and_the_next_place_are_one_transaction(
    request: pytest.FixtureRequest, postgres_schema: str
) -> None:
    driver: Any = driver_of("postgres", request)
    assert isinstance(driver, PostgresDriver)
    url = request.getfixturevalue("postgres").url()
    fails: list[str] = ["the step", "the row"]

    @contextlib.asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        async with (
            await psycopg.AsyncConnection.connect(url) as connection,
            driver.transaction(connection) as tx,
        ):
            yield tx

    async def book(tx: Any, what: str) -> str:
        insert = f"INSERT INTO {postgres_schema}.books VALUES (%s)"
        await tx.connection.execute(insert, (what,))
        if "the step" in fails:
            fails.remove("the step")
            raise ConnectionError
        if "the row" in fails:
            fails.remove("the row")
            # Two rows with one key: it is refused when the transaction ends.
            await tx.connection.execute(insert, (what,))
        return what

    code = line(
        "code",
        run("a", one),
        join("b", run("x", book, "x", transaction=True), run("y", one)),
        run("c", book, "c", transaction=True),
    )

    async with (
        kernel_on(driver, code, transaction=transaction) as kernel,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
    ):
        await connection.execute(
            f"CREATE TABLE {postgres_schema}.books "
            "(what text, UNIQUE (what) DEFERRABLE INITIALLY DEFERRED)"
        )
        await kernel.start(code, "i", {})
        assert await ends(kernel) == [1, ["x", 1], "c"]
        rows = await connection.execute(f"SELECT what FROM {postgres_schema}.books")
        assert sorted(await rows.fetchall()) == [("c",), ("x",)]
    assert fails == []


async def test_without_transactions_such_a_step_fails(driver: Driver) -> None:
    code = line("code", run("a", one, transaction=True), catch=True)

    async with kernel_on(driver, code) as kernel:
        await kernel.start(code, "i", {})

        assert await ends(kernel) == ["StepFailed of LookupError"]
