"""How the runs of an exploration go: death is death, they are bounded, and they end."""

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Mapping
from datetime import timedelta

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    DriverError,
    End,
    Engine,
    FlowRegistry,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
    recovery,
)
from flowstate.testing import Outcome, explore_crashes
from tests.crashes import Keys, Ledger, charging, done, end, fails, only, start

MESSAGE = {"kind": "message"}


def test_a_request_that_got_no_answer_is_repeated() -> None:
    async def run(engine: Engine, ledger: Ledger) -> None:
        ledger("called")
        for id in ("a", "b"):
            ctx = StateContext(State(id))
            with contextlib.suppress(recovery.LeaseLostError):
                await engine.do(Commit(Transit(ctx, "work")))
            await engine.execute(ctx)

    with fails("state 'b': there is one undisturbed, there is no such state after") as caught:
        explore_crashes(Ledger, lambda _: only(work=end), run)

    assert "run() was called again after the crash, and ended with: stored revision differs" in str(
        caught.value
    )


def test_nothing_runs_in_a_process_that_is_dead() -> None:
    def make_flows(ledger: Ledger) -> FlowRegistry:
        async def tick() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            ledger("cancelled")

        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            ticking = asyncio.create_task(tick())
            await asyncio.sleep(0)
            ledger("begin")
            try:
                await engine.do(Commit(Transit(ctx, "work")))
            finally:
                ledger("finally")
            ticking.cancel()
            await asyncio.wait([ticking])
            ledger("after")
            return Commit(End(ctx))

        return only(work=work)

    seen: list[list[str]] = []

    def look(outcome: Outcome[Ledger]) -> None:
        seen.append(list(outcome.world.done))

    explore_crashes(Ledger, make_flows, start, invariants=[look])

    whole = ["begin", "finally", "cancelled", "after"]
    undisturbed, *with_first, before, right_after, reply_lost, asked_again = seen[:9]
    assert [undisturbed, *with_first, asked_again] == [whole] * 6
    assert before == reply_lost == ["begin", *whole]
    assert right_after == ["begin", "finally", *whole]


def test_a_dead_process_cannot_write_while_it_is_buried() -> None:
    refused: list[str] = []

    def make_flows(ledger: Ledger) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            try:
                await engine.do(Commit(Transit(ctx, "next")))
            except asyncio.CancelledError:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0)
                try:
                    await engine.do(Commit(Transit(ctx.copy(), "next")))
                except DriverError as error:
                    refused.append(str(error))
                raise
            return Commit(End(ctx))

        return only(work=work, next=end)

    explore_crashes(Ledger, make_flows, start)

    assert set(refused) == {"the process is dead"}


def test_nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    threads = threading.active_count()
    chance = random.getstate()

    explore_crashes(Keys, charging(Keys.__call__), start, outside=done)

    assert threading.active_count() == threads
    assert random.getstate() == chance
    assert logging.root.manager.disable == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_runs_are_bounded_and_chance_is_seeded() -> None:
    def make_flows(ledger: Ledger) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            count = int(ctx.current.annotations.get("count", "0")) + 1
            ctx.set_annotation("count", str(count))
            ctx.set_annotation("chance", str(random.random()))
            return Commit(Transit(ctx, "work") if count < 20 else End(ctx))

        return only(work=work)

    def explore(seed: int) -> str:
        with fails("'chance'") as caught:
            explore_crashes(Ledger, make_flows, start, max_runs=9, seed=seed)
        return str(caught.value).rpartition("runs of")[0]

    assert explore(1) == explore(1) != explore(2)
    explored = explore_crashes(Ledger, make_flows, start, max_runs=9, ignore=["chance"])
    assert (len(explored.points), explored.runs, explored.left_out) == (21, 9, 75)
    assert "75 more left out" in str(explored)


def test_flows_that_go_another_way_each_time_are_counted() -> None:
    worlds = iter(range(100))

    def make_flows(number: int) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            return Commit(Transit(ctx, "odd" if number % 2 else "even"))

        return only(work=work, odd=end, even=end)

    with fails("took another course before their crash"):
        explore_crashes(lambda: next(worlds), make_flows, start)


def test_what_never_comes_to_rest_is_said_so() -> None:
    def make_flows(ledger: Ledger) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            return Commit(Pause(ctx), Delay(ctx, "work", after=timedelta(days=1)))

        return only(work=work)

    with fails("without any crash:\n  there is still something to do:\n  'a': paused, and"):
        explore_crashes(Ledger, make_flows, start)


def test_flows_that_go_on_for_ever_pass_until_something() -> None:
    def make_flows(keys: Keys) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            async with engine.watch(labels=MESSAGE, status=Status.PAUSED) as states:
                async for state in states:
                    keys(state.id)
                    with contextlib.suppress(RevisionMismatchError):
                        await engine.do(Commit(End(StateContext(state))))
            raise AssertionError("a watch goes on without end")

        return only(work=work)

    async def run(engine: Engine, keys: Keys) -> None:
        with contextlib.suppress(RevisionMismatchError):
            await start(engine, keys)
        for id in ("b", "c"):
            with contextlib.suppress(RevisionMismatchError):
                await engine.do(Commit(Pause(StateContext(State(id, labels=MESSAGE)))))

    def handled(states: Mapping[str, State]) -> bool:
        return sum(state.status is Status.ENDED for state in states.values()) == 2

    explored = explore_crashes(Keys, make_flows, run, outside=done, until=handled)

    assert len(explored.points) == 5


def test_a_run_that_waits_for_ever_is_said_so() -> None:
    async def run(engine: Engine, ledger: Ledger) -> None:
        await asyncio.Event().wait()

    with fails(r"run\(\) has not returned"):
        explore_crashes(Ledger, lambda _: only(work=end), run)


def test_what_run_raises_is_raised() -> None:
    async def run(engine: Engine, ledger: Ledger) -> None:
        raise ValueError("of the test itself")

    with pytest.raises(ValueError, match="of the test itself"):
        explore_crashes(Ledger, lambda _: only(work=end), run)


def test_what_run_raises_when_it_is_repeated_is_found() -> None:
    async def run(engine: Engine, ledger: Ledger) -> None:
        ledger("called")
        if len(ledger.done) > 1:
            raise ValueError("twice")
        await start(engine, ledger)

    with fails(r"run\(\) failed when it was called again: ValueError: twice"):
        explore_crashes(Ledger, lambda _: only(work=end), run)


async def test_a_running_loop_is_refused() -> None:
    with pytest.raises(RuntimeError, match="call it from a plain function"):
        explore_crashes(Ledger, lambda _: only(work=end), start)

    explored = await asyncio.to_thread(explore_crashes, Ledger, lambda _: only(work=end), start)
    assert explored.runs == 8
