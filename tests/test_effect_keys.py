"""A key for effects names a step: each time that step runs, and never another one."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from msgspec.structs import replace

from flowstate import (
    Command,
    Commit,
    Data,
    Delay,
    Delayer,
    End,
    Engine,
    Execute,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    Noop,
    Pause,
    Put,
    Resume,
    Retry,
    RetryPolicy,
    RevisionMismatchError,
    Stack,
    State,
    StateContext,
    Status,
    StoreData,
    Transit,
    Transition,
    Unstack,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.effect_keys import effect_key, kept, origin_of
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import MAX_STEPS
from flowstate.recovery import idempotency_key
from flowstate.recovery_rules import ORIGIN
from flowstate.testcases.effect_keys import NEXT, SAME, Way
from flowstate.testcases.support import end

VISITS = 5
AT_ONCE = timedelta(0)
PLAIN = Transition("work")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def engine(clock: FakeClock) -> AsyncIterator[Engine]:
    flows = FlowRegistry()
    for flow in ("work", "rework", "next"):
        flows.set(flow, end)
    async with Engine(MemoryDriver(clock), flows, clock=clock) as engine:
        yield engine


async def begun(engine: Engine, id: str = "a") -> StateContext:
    ctx = StateContext(State(id))
    await engine.do(Commit(Transit(ctx, "work")))
    return ctx


# The rule


def named(origin: str = "", **annotations: str) -> State:
    step = Transition("work", FrozenDict(annotations), origin=origin)
    return State("a", 7, transition=step)


@pytest.mark.parametrize(
    ("committed", "steps", "origin"),
    [
        (named(), 0, "7"),
        (named(), 1, "7.1"),
        (named(), 12, "7.12"),
        (named("3"), 0, "3"),
        (named("3"), 2, "3.2"),
        (named("3.4"), 0, "3.4"),
        (named("3.4"), 5, "3.9"),
        (State("new"), 0, "0"),
        (State("new"), 1, "0.1"),
        (named("of.my own"), 1, "of.my own.1"),
        # Of a library that had no field for it.
        (named(**{ORIGIN: "3"}), 0, "3"),
        (named(**{ORIGIN: "3"}), 1, "3.1"),
        (named("2", **{ORIGIN: "3"}), 0, "2"),
        (named(**{ORIGIN: "odd"}), 0, "7"),
        (named(**{ORIGIN: "9" * 40}), 0, "7"),
        (named(**{ORIGIN: ""}), 1, "7.1"),
    ],
)
def test_the_origin_of_a_step(committed: State, steps: int, origin: str) -> None:
    last = committed.transition if committed.rev and not steps else PLAIN

    assert origin_of(last, committed, steps) == origin
    # A transition that names it says so, whatever was committed.
    assert origin_of(kept(last, origin), State("a", 99), 17) == origin


def test_a_state_that_never_moved_is_in_no_step() -> None:
    assert kept(Transition(), "3") == Transition()
    assert effect_key(State("a"), "0") == "a:0:"


# Ways in which a step runs again, or another one begins


async def keys_of(engine: Engine, way: Way) -> list[str]:
    keys: list[str] = []

    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        assert idempotency_key(ctx) == ctx.effect_key
        return way(ctx) if len(keys) < VISITS else Commit(End(ctx, {"over": ""}))

    for flow in ("work", "rework"):
        engine.flows.set(flow, work, replace=True)
    ctx = StateContext(State("a"))
    async with Delayer(engine), engine.watch(status=Status.ENDED) as ended:
        await engine.do(Commit(Transit(ctx, "work")), Execute(ctx))
        while "over" not in (await anext(ended)).transition.annotations:
            pass
    return keys


@pytest.mark.parametrize("way", SAME.values(), ids=[*SAME])
async def test_a_step_that_runs_again_has_the_same_key(engine: Engine, way: Way) -> None:
    assert await keys_of(engine, way) == ["a:1:work"] * VISITS


@pytest.mark.parametrize("way", NEXT.values(), ids=[*NEXT])
async def test_the_next_step_has_another_key(engine: Engine, way: Way) -> None:
    keys = await keys_of(engine, way)

    assert len(keys) == len(set(keys)) == VISITS


async def test_a_claimed_delay_that_fails_keeps_its_key(engine: Engine, clock: FakeClock) -> None:
    keys: list[str] = []

    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        if len(keys) < VISITS:
            raise ConnectionError("not yet")
        return Commit(End(ctx))

    engine.flows.set("work", work, replace=True)
    ctx = await begun(engine)
    await engine.do(Delay(ctx, "work", after=timedelta(0), commit=False))
    async with Delayer(engine, lease=10.0), engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    assert keys == ["a:1:work"] * VISITS


async def test_steps_after_a_claimed_delay_have_the_keys_that_they_have_without_it(
    engine: Engine,
) -> None:
    keys: list[str] = []

    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        return Transit(ctx, "next")

    async def fails_once(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        if len(keys) == 2:
            raise ConnectionError("after the effect")
        return Commit(End(ctx))

    engine.flows.set("work", work, replace=True)
    engine.flows.set("next", fails_once, retry=RetryPolicy(), replace=True)
    async with Delayer(engine):
        await engine.start(StateContext(State("a")), "work", elsewhere=True)
        await engine.wait_for("a", status=Status.ENDED)
    assert keys == ["a:1:work", "a:1.1:next"] * 2


async def test_claimed_delays_of_one_commit_begin_different_steps(
    engine: Engine, clock: FakeClock
) -> None:
    keys: list[str] = []

    async def remind(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        if keys.count(ctx.effect_key) == 1:
            raise ConnectionError("after the effect")
        await engine.do(Transit(ctx, "next"))
        keys.append(ctx.effect_key)
        return Noop()

    engine.flows.set("rework", remind, replace=True)
    ctx = await begun(engine)
    days = [timedelta(days=day) for day in (1, 2, 3)]
    delays = [Delay(ctx, "rework", after=day, commit=False) for day in days]
    await engine.do(Commit(Pause(ctx), *delays))
    async with Delayer(engine, lease=10.0):
        await clock.sleep(4 * 86_400.0)
    assert keys == [
        key
        for base in ("2", "2-1", "2-2")
        for key in (*[f"a:{base}.1:rework"] * 2, f"a:{base}.2:next")
    ]


async def test_claimed_delays_by_themselves_begin_different_steps(
    engine: Engine, clock: FakeClock
) -> None:
    keys: list[str] = []

    async def remind(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        if keys.count(ctx.effect_key) == 1:
            raise ConnectionError("after the effect")
        return Noop()

    async def plan(ctx: StateContext, engine: Engine) -> Command[None]:
        for day in (1, 2):
            await engine.do(Delay(ctx, "rework", after=timedelta(days=day), commit=False))
        return Noop()

    engine.flows.set("rework", remind, replace=True)
    engine.flows.set("work", plan, replace=True)
    ctx = await begun(engine)
    commit = Delay(ctx, "rework", after=timedelta(hours=1), commit=False)
    await engine.do(Commit(Pause(ctx), commit, Delay(ctx, "work", after=AT_ONCE, commit=False)))
    async with Delayer(engine, lease=10.0):
        await clock.sleep(3 * 86_400.0)
    assert keys == [f"a:{base}.1:rework" for base in ("2", "2-a1", "2-a2") for _ in range(2)]


async def test_a_delay_by_itself_that_is_refused_takes_no_number(engine: Engine) -> None:
    ctx = await begun(engine)
    stale = ctx.copy()
    await engine.do(Commit(Pause(ctx)))
    with pytest.raises(RevisionMismatchError):
        await engine.do(Delay(stale, "work", after=AT_ONCE))
    for _ in range(2):
        await engine.do(Delay(ctx, "work", after=AT_ONCE))
    ids = [each.id.partition(".")[2] for each in (await engine.get_delayed_states()).delayed]
    assert sorted(ids) == ["a1.0", "a2.0"]


async def test_the_key_is_the_same_within_a_step(engine: Engine) -> None:
    ctx = await begun(engine)
    assert ctx.effect_key == "a:1:work"
    ctx.data["bill"] = Data(b"995")
    await engine.do(Commit(StoreData(ctx, "bill")))
    assert (ctx.effect_key, ctx.committed.transition.origin) == ("a:1:work", "1")
    ctx.set_label("k", "v")
    ctx.put(1)
    await engine.do(Commit(Put(ctx)))
    await engine.do(Commit(Pause(ctx)))
    await engine.do(Pause(ctx), Resume(ctx))
    assert ctx.effect_key == "a:1:work"
    await engine.do(Commit(Retry(ctx, {"note": "again"}), Pause(ctx)))
    await engine.do(Commit(End(ctx)))
    state = await engine.get_state("a")
    assert (StateContext(state).effect_key, state.rev) == ("a:1:work", 6)
    await engine.do(Commit(Transit(ctx, "work")))
    assert (ctx.effect_key, ctx.committed.transition.origin) == ("a:7:work", "")


async def test_a_commit_that_begins_a_step_names_it(engine: Engine) -> None:
    ctx = await begun(engine)
    await engine.do(Commit(Retry(ctx), Transit(ctx, "next"), Pause(ctx), Resume(ctx)))
    assert (ctx.effect_key, ctx.committed.transition.origin) == ("a:2:next", "")
    ctx.data["bill"] = Data(b"995")
    await engine.do(Commit(StoreData(ctx, "bill"), Transit(ctx, "next"), Pause(ctx)))
    assert ctx.effect_key == "a:3:next"


async def test_steps_that_are_not_committed_are_counted(engine: Engine) -> None:
    ctx, keys = await begun(engine), list[str]()
    for flow in ("next", "work", "next"):
        await engine.do(Transit(ctx, flow))
        keys.append(ctx.effect_key)
    assert keys == ["a:1.1:next", "a:1.2:work", "a:1.3:next"]
    await engine.do(Pause(ctx), Retry(ctx))
    assert ctx.effect_key == "a:1.3:next"
    ctx.data["bill"] = Data(b"995")
    await engine.do(Commit(StoreData(ctx, "bill")))
    assert (ctx.effect_key, ctx.committed.rev) == ("a:1.3:next", 2)
    await engine.do(Transit(ctx, "next"))
    assert ctx.effect_key == "a:1.4:next"
    await engine.do(Commit(Pause(ctx)))
    assert ctx.committed.transition.origin == "1.4"
    await engine.do(Commit(Transit(ctx, "next")))
    assert ctx.effect_key == "a:4:next"


async def test_the_same_steps_after_an_attempt_have_the_same_keys(engine: Engine) -> None:
    ctx = await begun(engine)
    await engine.do(Transit(ctx, "next"))
    before = ctx.effect_key
    again = StateContext(await engine.get_state("a"))
    await engine.do(Commit(Retry(again, {"flowstate.recovery.attempt": "1"})))
    await engine.do(Transit(again, "next"))
    assert (again.committed.rev, again.effect_key) == (2, before)


async def test_more_steps_than_are_kept_are_counted(engine: Engine) -> None:
    ctx, carrier, back = await begun(engine), await begun(engine, "b"), StateContext(State("a"))
    for _ in range(3 * MAX_STEPS):
        await engine.do(Transit(ctx, "next"))
    assert ctx.effect_key == f"a:1.{3 * MAX_STEPS}:next"
    assert ctx.copy().effect_key == ctx.effect_key
    await engine.do(Stack(carrier, ctx, "it"), Unstack(carrier, back, "it"))
    assert (len(back.transitions), back.effect_key) == (MAX_STEPS, ctx.effect_key)
    await engine.do(Transit(back, "next"))
    assert back.effect_key == f"a:1.{3 * MAX_STEPS + 1}:next"
    await engine.do(Commit(Transit(back, "next")), Transit(back, "next"))
    assert back.effect_key == f"a:{back.committed.rev}.1:next"


async def test_a_stacked_context_keeps_its_key(engine: Engine) -> None:
    carrier = await begun(engine, "b")
    for is_committed in (True, False):
        ctx, back = await begun(engine, f"a{is_committed}"), StateContext(State("back"))
        await engine.do(Transit(ctx, "next"))
        key = ctx.effect_key
        ctx.data["bill"] = Data(b"995")
        stored = [StoreData(ctx, "bill")] if is_committed else []
        await engine.do(Commit(*stored, Stack(carrier, ctx, "it")))
        await engine.do(Commit(Unstack(carrier, back, "it")))
        assert (back.effect_key, back.current.transition.to) == (key, "next")


async def test_a_fork_is_in_the_step_of_its_origin(engine: Engine) -> None:
    ctx = await begun(engine)
    await engine.do(Transit(ctx, "next"))
    child = ctx.fork("child")
    assert child.effect_key == "child:1.1:next"
    await engine.do(Commit(Retry(child)))
    assert child.effect_key == "child:1.1:next"
    await engine.do(Commit(Transit(child, "work")))
    assert child.effect_key == f"child:{child.committed.rev}:work"
    assert StateContext(State("template")).fork("x").current == State("x")


async def test_a_delay_by_itself_keeps_the_key_of_a_step_that_was_not_committed(
    engine: Engine,
) -> None:
    keys: list[str] = []

    async def then(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        return Commit(End(ctx))

    engine.flows.set("next", then, replace=True)
    ctx = await begun(engine)
    await engine.do(Transit(ctx, "work"), Transit(ctx, "next"))
    async with Delayer(engine), engine.watch(status=Status.ENDED) as ended:
        await engine.do(Delay(ctx, "next", after=timedelta(0)))
        await anext(ended)
    assert keys == [ctx.effect_key] == ["a:1.2:next"]


@pytest.mark.parametrize("way", SAME.values(), ids=[*SAME])
async def test_a_flow_that_was_renamed_keeps_the_keys_of_its_steps(
    engine: Engine, way: Way
) -> None:
    ctx = await begun(engine)
    engine.flows.unset("work")
    keys: list[str] = []

    async def new(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        return way(ctx) if len(keys) < VISITS else Commit(End(ctx, {"over": ""}))

    engine.flows.set("new", new)
    engine.flows.alias("work", "new")
    async with Delayer(engine), engine.watch(status=Status.ENDED) as ended:
        await engine.do(Execute(ctx))
        while "over" not in (await anext(ended)).transition.annotations:
            pass
    assert keys == ["a:1:work"] * VISITS


async def test_states_of_a_library_without_origins_keep_their_keys(engine: Engine) -> None:
    old = Transition("work", FrozenDict({ORIGIN: "40", "note": "x"}))
    ctx = StateContext(State("a", transition=old))
    await engine.do(Commit(Retry(ctx)))
    assert ctx.effect_key == "a:40:work"
    await engine.do(Commit(End(ctx, {"why": "dead"})))
    assert (ctx.effect_key, ORIGIN in ctx.current.transition.annotations) == ("a:40:work", False)


async def test_a_flow_that_stores_data_last_does_not_run_again(engine: Engine) -> None:
    runs: list[str] = []

    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        runs.append(ctx.effect_key)
        ctx.data["bill"] = Data(b"%d" % len(runs))
        return Commit(StoreData(ctx, "bill"))

    engine.flows.set("work", work, replace=True)
    ctx = await begun(engine)
    await engine.execute(ctx)
    await engine.execute(ctx)
    assert runs == ["a:1:work"] * 2


@pytest.mark.parametrize("origin", [None, 1, "x" * 65, "\0", b"1"])
async def test_an_odd_origin_is_refused(engine: Engine, origin: object) -> None:
    ctx = await begun(engine)
    odd = replace(ctx.current.transition, origin=origin)
    ctx.current = replace(ctx.current, transition=odd)
    for command in (Retry(ctx), Pause(ctx), Put(ctx), Delay(ctx, "work", after=timedelta(1))):
        with pytest.raises(InvalidInputError, match=r"^state\.transition\.origin: "):
            await engine.do(Commit(command))
