"""Crashes are explored: planted bugs are found, and sound flows pass."""

from datetime import timedelta

import pytest

from flowstate import (
    Command,
    Commit,
    Data,
    Delay,
    End,
    Engine,
    Execute,
    FlowRegistry,
    Forget,
    Pause,
    SetTimer,
    State,
    StateContext,
    StoreData,
    Transit,
    recovery,
)
from flowstate.testing import Outcome, explore_crashes
from tests.crashes import Keys, Ledger, charging, done, end, fails, only, start, without_key


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


def test_values_and_timers_are_compared() -> None:
    def make_flows(world: list[str]) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            ctx.put(recovery.attempt(ctx.current), "number")
            name = "again" if recovery.attempt(ctx.current) else "first"
            alarm = SetTimer(ctx, name, "work", after=timedelta(days=3_650))
            return Commit(Pause(ctx), alarm)

        return only(work=work)

    with fails("state 'a', value 'number': '0' undisturbed, '1' after the crash") as caught:
        explore_crashes(list, make_flows, start, until=lambda states: bool(states["a"].timers))

    assert "state 'a', timer 'first': 'work' undisturbed, none after the crash" in str(caught.value)


def test_a_state_that_is_not_forgotten_is_found() -> None:
    def make_flows(world: list[str]) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            is_first = not recovery.attempt(ctx.current)
            return Commit(End(ctx), Forget(ctx)) if is_first else Commit(End(ctx))

        return only(work=work)

    with fails("state 'a': there is no such state undisturbed, there is one after the crash"):
        explore_crashes(list, make_flows, start)


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
