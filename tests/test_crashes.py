"""Crashes are explored: planted bugs are found, sound flows pass, and death is death."""

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TypeVar

import pytest

from flowstate import (
    Command,
    Commit,
    Data,
    Delay,
    DriverError,
    End,
    Engine,
    Execute,
    FlowRegistry,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    StoreData,
    Transit,
    recovery,
)
from flowstate.testing import Outcome, explore_crashes

MESSAGE = {"kind": "message"}
L = TypeVar("L", bound="Ledger")


class Ledger:
    """An outside world: what was done to it, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, what: str) -> None:
        self.done.append(what)


class Keys(Ledger):
    """One that knows a key that it has seen."""

    def __call__(self, what: str) -> None:
        if what not in self.done:
            super().__call__(what)


def done(ledger: Ledger) -> list[str]:
    return ledger.done


async def start(engine: Engine, world: object) -> None:
    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "work")), Execute(ctx))


async def end(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


def only(**flows: Callable[..., object]) -> FlowRegistry:
    registry = FlowRegistry()
    for id, flow in flows.items():
        registry.set(id, flow)  # type: ignore[arg-type]
    return registry


def fails(pattern: str) -> "pytest.RaisesExc[AssertionError]":
    return pytest.raises(AssertionError, match=pattern)


# What is found


def without_key(ledger: Ledger, key: str) -> None:
    ledger("charge")


def charging(effect: Callable[[L, str], None]) -> Callable[[L], FlowRegistry]:
    def make_flows(ledger: L) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            effect(ledger, recovery.idempotency_key(ctx))
            return Commit(Transit(ctx, "next"))

        return only(work=work, next=end)

    return make_flows


def test_an_effect_that_happens_twice_is_found() -> None:
    make_flows = charging(without_key)

    with fails(r"right before commit point 2 \('a' active in 'next'\)") as caught:
        explore_crashes(Ledger, make_flows, start, outside=done)

    report = str(caught.value)
    assert report.startswith("1 of 12 runs end otherwise than the undisturbed one")
    assert "['charge'] undisturbed, ['charge', 'charge'] after the crash" in report
    assert "--- the process died right before a commit ---" in report
    assert "work  attempt 1" in report
    assert "Explored 3 commit points, 12 runs of" in report


def test_an_effect_with_a_key_passes() -> None:
    make_flows = charging(Keys.__call__)

    explored = explore_crashes(Keys, make_flows, start, outside=done)

    assert (len(explored.points), explored.runs, explored.left_out, explored.diverged) == (
        3,
        12,
        0,
        0,
    )
    assert str(explored).startswith("3 commit points, 12 runs of ")


def test_a_broken_invariant_is_named() -> None:
    def charged_once(outcome: Outcome[Ledger]) -> None:
        assert outcome.states["a"].transition.to == "next"
        assert len(outcome.world.done) == 1, "charged twice"

    make_flows = charging(without_key)

    with fails("invariant charged_once: charged twice"):
        explore_crashes(Ledger, make_flows, start, invariants=[charged_once])


def test_what_is_wrong_without_a_crash_is_said_so() -> None:
    def never(outcome: Outcome[Ledger]) -> None:
        raise ValueError("never")

    with fails(r"(?s)without any crash:\n  invariant never: ValueError: never\n.*ended   next"):
        explore_crashes(Ledger, charging(without_key), start, invariants=[never])


def test_flows_that_always_fail_do_not_pass() -> None:
    def make_flows(ledger: Ledger) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            raise NameError("a slip")

        return only(work=work)

    with fails("without any crash:\n  'a' ended by force: made no .* attempts: NameError: a slip"):
        explore_crashes(Ledger, make_flows, start)


def test_states_labels_annotations_flows_and_data_are_compared() -> None:
    def make_flows(world: list[str]) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            number = str(recovery.attempt(ctx.current))
            ctx.set_label("number", number)
            ctx.set_annotation("number", number)
            ctx.data["number"] = Data(number.encode())
            return Commit(StoreData(ctx, "number"), End(ctx, {"number": number}))

        return only(work=work)

    with fails("state 'a', label 'number': '0' undisturbed, '1' after the crash") as caught:
        explore_crashes(list, make_flows, start)

    for kind in ("state 'a', annotation 'number'", "state 'a', transition annotation 'number'"):
        assert f"{kind}: '0' undisturbed, '1' after the crash" in str(caught.value)
    assert "data 'number' of state 'a': b'0' undisturbed, b'1' after the crash" in str(caught.value)
    with fails("data 'number' of state 'a'") as caught:
        explore_crashes(list, make_flows, start, ignore=["number"])
    assert "annotation" not in str(caught.value)


def test_what_recovery_does_not_bring_to_its_end_is_found() -> None:
    async def start_without_recovery(engine: Engine, world: object) -> None:
        ctx = StateContext(State("a"))
        recovery.disable(ctx)
        await engine.do(Commit(Transit(ctx, "work")), Execute(ctx))

    with fails("state 'a', status: ended undisturbed, active after the crash"):
        explore_crashes(list, lambda _: only(work=end), start_without_recovery)


def test_an_end_by_force_is_found() -> None:
    def make_flows(world: list[str]) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            if recovery.attempt(ctx.current):
                raise ValueError("not twice")
            return Commit(End(ctx))

        return only(work=work)

    with fails(r"state 'a': ended undisturbed, ended by force: .* \(ValueError: not twice\)"):
        explore_crashes(list, make_flows, start)


def test_a_state_that_is_lost_or_made_twice_is_found() -> None:
    def make_flows(ledger: Ledger) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            ledger("child")
            child = ctx.fork(f"child-{len(ledger.done)}")
            await engine.do(Commit(Transit(child, "next")), Execute(child))
            return Commit(End(ctx))

        return only(work=work, next=end)

    with fails("state 'child-2': there is no such state undisturbed, there is one after the crash"):
        explore_crashes(Ledger, make_flows, start)


# What passes


def test_forks_data_and_background_executions_pass() -> None:
    def make_flows(ledger: Ledger) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            children = [ctx.fork(f"child-{number}") for number in range(3)]
            for child in children:
                child.data["name"] = Data(child.current.id.encode())
            stored = [StoreData(child, "name") for child in children]
            steps = [Transit(child, "child") for child in children]
            forked = Commit(*stored, *steps, Transit(ctx, "forked"))
            await engine.do(forked, *map(Execute, children[1:]))  # Recovery finds the first one.
            return Execute(ctx)

        async def forked(ctx: StateContext, engine: Engine) -> Command[None]:
            return Commit(Pause(ctx))

        async def child(ctx: StateContext, engine: Engine) -> Command[None]:
            ledger(recovery.idempotency_key(ctx).partition(":")[0])
            return Commit(End(ctx))

        return only(work=work, forked=forked, child=child)

    explored = explore_crashes(Keys, make_flows, start, outside=lambda keys: sorted(keys.done))

    assert len(explored.points) == 7
    assert "'child-0' active in 'child', attempt 1" in explored.points


@pytest.mark.parametrize("commit", [True, False])
def test_delays_of_days_pass(commit: bool) -> None:
    def make_flows(ledger: Ledger) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            return Commit(Pause(ctx), Delay(ctx, "late", after=timedelta(days=3), commit=commit))

        async def late(ctx: StateContext, engine: Engine) -> Command[None]:
            ledger("late")
            return Commit(End(ctx))

        return only(work=work, late=late)

    explored = explore_crashes(Keys, make_flows, start, outside=done)

    assert len(explored.points) >= 3
    assert explored.seconds < 10


def test_flows_in_threads_pass() -> None:
    def make_flows(keys: Keys) -> FlowRegistry:
        def work(ctx: StateContext, engine: Engine) -> Command[None]:
            keys(recovery.idempotency_key(ctx))
            return Commit(End(ctx))

        flows = FlowRegistry()
        flows.set("work", work, blocking=True)
        return flows

    assert explore_crashes(Keys, make_flows, start, outside=done).runs == 8


def test_a_flow_that_fails_once_in_each_process_passes() -> None:
    def make_flows(ledger: Ledger) -> FlowRegistry:
        calls = 0

        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise ConnectionError("not yet")
            return Commit(End(ctx))

        return only(work=work)

    explored = explore_crashes(Ledger, make_flows, start)

    assert [point.partition(" ")[0] for point in explored.points] == ["'a'"] * 3


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


def test_two_crashes_in_a_row_pass() -> None:
    make_flows = charging(Keys.__call__)

    once = explore_crashes(Keys, make_flows, start, outside=done)
    twice = explore_crashes(Keys, make_flows, start, outside=done, crashes=2)

    assert twice.runs > 4 * once.runs


def test_what_only_two_crashes_break_is_found() -> None:
    def make_flows(ledger: Ledger) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            if recovery.attempt(ctx.current) == 2:
                ledger("third time")
            return Commit(End(ctx))

        return only(work=work)

    explore_crashes(Ledger, make_flows, start, outside=done)
    with fails(r"right before commit point 2 \(.*\), and then .* commit point \d \('a' "):
        explore_crashes(Ledger, make_flows, start, outside=done, crashes=2)


# Death


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


# Bounds


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
            raise AssertionError("a watch goes on for ever")

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
