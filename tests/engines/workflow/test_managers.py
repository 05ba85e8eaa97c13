"""What a definition enters by ``async with``: locks, rate limits, compensations, and its own."""

import asyncio
from datetime import datetime, timedelta
from operator import sub as difference

import pytest
from msgspec import Struct

from flowstate import FakeClock, InvalidInputError
from flowstate.engines.workflow import (
    DeadlockError,
    Manager,
    MarkError,
    WorkflowCancelled,
    WorkflowFailed,
    compensating,
    current_step,
    free_lock,
    helper,
    lock,
    lock_line,
    rate_limit,
    step,
    wait,
    workflow,
)
from tests.engines.workflow.orders import Approved, Order, opened, shop, stands


async def do(what: str) -> str:
    return await shop.do(what)


async def undo_it(what: str, times: int = 1) -> None:
    await shop.do(f"undo {what} {times}")


def undo_in_thread(item: Approved) -> None:
    asyncio.run_coroutine_threadsafe  # noqa: B018 - it runs without a loop
    shop.did.append((f"undo {item.by}", "thread"))


@workflow("keeper")
async def keeper(s: Order) -> int:
    async with lock("stock") as held:
        await wait("approval", Approved)
        return held.number


@workflow("wanderer")
async def wanderer(s: Order) -> None:
    async with lock("stock"):
        await wait("within", Approved)
    await wait("outside", Approved)


@workflow("hasty")
async def hasty(s: Order) -> str:
    try:
        async with lock("stock", timeout=timedelta(seconds=30)):
            return "held"
    except TimeoutError:
        await wait("approval", Approved)
        return "late"


@workflow("crossing")
async def crossing(s: Order) -> str:
    first, second = s.cart
    async with lock(first, name="one"):
        await wait("approval", Approved)
        try:
            async with lock(second, name="two"):
                return "both"
        except DeadlockError as error:
            return f"not {error.lock}"


async def test_one_instance_at_a_time_holds_a_lock() -> None:
    async with opened(keeper) as workflows:
        for number in range(4):
            await workflows.start(keeper, f"k{number}", Order([]))
            await stands(workflows, f"k{number}", "turn" if number else "approval")
        line = await lock_line(workflows.engine, "stock")
        numbers = []
        for number in range(4):
            await stands(workflows, f"k{number}", "approval")
            await workflows.send(f"k{number}", Approved("x"))
            numbers.append(await workflows.result(f"k{number}"))

        assert [each.instance for each in line] == ["k0", "k1", "k2", "k3"]
        assert numbers == sorted(set(numbers))
        assert await lock_line(workflows.engine, "stock") == ()
        states = workflows.engine.states(latest_only=True)
        assert not [each.id async for each in states if each.id.startswith("flowstate.lock.")]


async def test_who_waits_too_long_leaves_the_line() -> None:
    clock = FakeClock()
    async with opened(keeper, hasty, clock=clock) as workflows:
        await workflows.start(keeper, "k", Order([]))
        await stands(workflows, "k", "approval")
        await workflows.start(hasty, "h", Order([]))
        await stands(workflows, "h", "turn")
        clock.advance(31)
        await stands(workflows, "h", "approval")

        assert [each.instance for each in await lock_line(workflows.engine, "stock")] == ["k"]


async def test_cancelled_holders_and_waiters_leave_the_line() -> None:
    async with opened(keeper) as workflows:
        for id in ("a", "b", "c"):
            await workflows.start(keeper, id, Order([]))
            await stands(workflows, id, "approval" if id == "a" else "turn")
        for id in ("b", "a"):
            await workflows.cancel(id)
            with pytest.raises(WorkflowCancelled):
                await workflows.result(id)

        await stands(workflows, "c", "approval")
        assert [each.instance for each in await lock_line(workflows.engine, "stock")] == ["c"]


@pytest.mark.parametrize("how", ["ended", "forgotten"])
async def test_a_holder_that_is_ended_by_force_loses_the_lock(how: str) -> None:
    clock = FakeClock()
    async with opened(keeper, clock=clock) as workflows:
        for id in ("a", "b"):
            await workflows.start(keeper, id, Order([]))
            await stands(workflows, id, "approval" if id == "a" else "turn")
        await workflows.cancel("a", hard=True)
        if how == "forgotten":
            await workflows.engine.prune()
        clock.advance(61)  # It is looked at each minute, as long as others wait.
        await stands(workflows, "b", "approval")
        await workflows.cancel("b", hard=True)
        await workflows.start(keeper, "c", Order([]))  # Who asks finds it out at once.
        await stands(workflows, "c", "approval")


async def test_a_thread_that_is_sent_elsewhere_loses_the_lock() -> None:
    async with opened(wanderer) as workflows:
        await workflows.start(wanderer, "a", Order([]))
        await stands(workflows, "a", "within")
        await workflows.goto("a", "outside")
        await workflows.start(wanderer, "b", Order([]))

        await stands(workflows, "b", "within")
        assert [each.instance for each in await lock_line(workflows.engine, "stock")] == ["b"]


async def test_a_name_that_no_lock_can_have_is_refused() -> None:
    @workflow("long")
    async def long(s: Order) -> None:
        async with lock("x" * 600):
            pass

    async with opened(long) as workflows:
        await workflows.start(long, "l", Order([]))
        with pytest.raises(WorkflowFailed, match="at most 512 bytes"):
            await workflows.result("l")


async def test_an_operator_takes_a_lock_by_force() -> None:
    async with opened(keeper) as workflows:
        for id in ("a", "b"):
            await workflows.start(keeper, id, Order([]))
            await stands(workflows, id, "approval" if id == "a" else "turn")
        freed = await free_lock(workflows.engine, "stock")
        await stands(workflows, "b", "approval")
        await workflows.send("a", Approved("x"))
        await workflows.result("a")

        assert freed is not None
        assert freed.instance == "a"
        assert await free_lock(workflows.engine, "nothing") is None
        assert [each.instance for each in await lock_line(workflows.engine, "stock")] == ["b"]


async def test_a_deadlock_is_told_to_the_last_one() -> None:
    async with opened(crossing) as workflows:
        names = ["p", "q", "r"]
        for number, name in enumerate(names):
            await workflows.start(crossing, name, Order([name, names[(number + 1) % 3]]))
            await stands(workflows, name, "approval")
        for name in names:
            await workflows.send(name, Approved("x"))
            await workflows.engine.idle()

        assert [await workflows.result(name) for name in names] == ["both", "both", "not p"]


async def test_a_fork_does_not_free_the_lock() -> None:
    async with opened(keeper) as workflows:
        await workflows.start(keeper, "a", Order([]))
        await stands(workflows, "a", "approval")
        await workflows.fork("a", "b")
        await workflows.send("b", Approved("x"), early=True)
        await workflows.result("b")

        assert [each.instance for each in await lock_line(workflows.engine, "stock")] == ["a"]


turns: list[datetime] = []


async def mail(at: datetime) -> None:
    assert at <= current_step().engine.clock.now()
    turns.append(at)


@workflow("mailer")
async def mailer(s: Order) -> None:
    for _ in s.cart:
        async with rate_limit("mails", 2, per=10) as at:
            await step(mail, at)


async def test_there_are_no_more_turns_than_the_limit_says() -> None:
    clock = FakeClock()
    async with opened(mailer, clock=clock) as workflows:
        for id in ("a", "b", "c"):
            await workflows.start(mailer, id, Order([id, id, id]))
        ends = asyncio.gather(*(workflows.result(id) for id in ("a", "b", "c")))
        while not ends.done():
            clock.advance(1)
            await asyncio.sleep(0)

    turns.sort()
    assert len(turns) == 9
    assert min(map(difference, turns[2:], turns)) >= timedelta(seconds=10)


async def test_a_limit_that_makes_no_sense_is_refused() -> None:
    @workflow("never")
    async def never(s: Order) -> None:
        async with rate_limit("mails", 0, per=10):
            pass

    async with opened(never) as workflows:
        await workflows.start(never, "n", Order([]))
        with pytest.raises(WorkflowFailed, match="must be from 1 to 1000, not 0"):
            await workflows.result("n")


@workflow("saga")
async def saga(s: Order) -> str:
    async with compensating() as undo:
        for item in s.cart:
            undo(undo_it, item, times=2)
            await step(do, item)
        undo(undo_in_thread, Approved("anna"))
        await wait("approval", Approved)
        if s.by:
            raise ValueError(s.by)
    return "done"


@pytest.mark.parametrize("how", ["well", "error", "cancel", "step"])
async def test_compensations_run_backwards_if_an_error_leaves_the_block(how: str) -> None:
    async with opened(saga) as workflows:
        if how == "step":
            shop.broken.add("b")
        await workflows.start(saga, "s", Order(["a", "b"], "no" if how == "error" else ""))
        if how == "cancel":
            await stands(workflows, "s", "approval")
            await workflows.cancel("s")
        elif how != "step":
            await workflows.send("s", Approved("x"), early=True)
        if how == "well":
            assert await workflows.result("s") == "done"
        else:
            with pytest.raises((WorkflowFailed, WorkflowCancelled)):
                await workflows.result("s")

        undone = [*([] if how == "step" else ["undo anna"]), "undo b 2", "undo a 2"]
        assert shop.names() == ["a", "b", *([] if how == "well" else undone)]
        assert len({key for _, key in shop.did}) == len(shop.did)


async def test_a_cancellation_does_not_interrupt_what_leaves() -> None:
    async with opened(saga) as workflows:
        shop.held["undo b 2"] = asyncio.Event()
        shop.broken.add("b")
        await workflows.start(saga, "s", Order(["a", "b"]))
        await shop.begun["undo b 2"].wait()
        await workflows.cancel("s")
        await workflows.engine.wait_for(
            "s", until=lambda each: b'"told":true' in bytes(each.values["threads"])
        )
        shop.held["undo b 2"].set()
        with pytest.raises(WorkflowFailed, match="b is down"):
            await workflows.result("s")

        assert shop.names() == ["a", "b", "undo b 2", "undo a 2"]


@workflow("patient")
async def patient(s: Order) -> str:
    try:
        async with compensating() as undo:
            undo(undo_it, "a")
            raise ValueError
    except ValueError:
        await wait("approval", Approved)
    return "not cancelled"


async def test_what_was_put_off_is_raised_at_the_next_stop() -> None:
    async with opened(patient) as workflows:
        shop.held["undo a 1"] = asyncio.Event()
        await workflows.start(patient, "p", Order([]))
        await shop.begun["undo a 1"].wait()
        await workflows.cancel("p")
        await workflows.engine.wait_for(
            "p", until=lambda each: b'"told":true' in bytes(each.values["threads"])
        )
        shop.held["undo a 1"].set()
        with pytest.raises(WorkflowCancelled):
            await workflows.result("p")


async def test_what_cannot_be_undone_later_is_refused_at_once() -> None:
    @workflow("local")
    async def local(s: Order) -> None:
        async with compensating() as undo:
            undo(lambda: None)

    @workflow("wrong")
    async def wrong(s: Order) -> None:
        async with compensating() as undo:
            undo(undo_it, "a", "b", "c")

    async with opened(local, wrong) as workflows:
        for code, text in [(local, "can be found in its module"), (wrong, "too many positional")]:
            await workflows.start(code, code.name, Order([]))
            with pytest.raises(WorkflowFailed, match=text):
                await workflows.result(code.name)


class Borrowed(Struct):
    tool: str


@helper
async def borrow(s: Order, tool: str) -> Borrowed:
    await step(do, f"borrow {tool}")
    return Borrowed(tool)


@helper(shielded=True)
async def give_back(s: Order, borrowed: Borrowed, failed: bool) -> None:
    await step(do, f"give back {borrowed.tool} {failed}")


tools: Manager[Borrowed] = Manager(borrow, give_back)


@workflow("builder")
async def builder(s: Order) -> str:
    for item in s.cart:
        async with tools("saw"), tools(item, name="other") as other:
            if item == "glue":
                continue
            return other.tool
    return "nothing"


async def test_a_manager_of_ones_own() -> None:
    async with opened(builder) as workflows:
        await workflows.start(builder, "b", Order(["glue", "nails"]))
        assert await workflows.result("b") == "nails"

    both = ["borrow saw", "borrow {}", "give back {} False", "give back saw False"]
    assert shop.names() == [each.format(item) for item in ("glue", "nails") for each in both]


def test_a_manager_leaves_shielded_and_is_not_called() -> None:
    with pytest.raises(InvalidInputError, match=r"write @helper\(shielded=True\) above borrow"):
        Manager(borrow, borrow)  # type: ignore[arg-type]
    with pytest.raises(MarkError, match="only within a function with @workflow or @helper"):
        tools("saw", name="x")
