"""What the conformance cases do not reach: it does not depend on a driver."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

import pytest
from msgspec.structs import replace

from flowstate import (
    CodecError,
    Command,
    Commit,
    Data,
    DriverClosedError,
    End,
    Engine,
    EngineStoppedError,
    Execute,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    Noop,
    Pause,
    State,
    StateContext,
    Status,
    StoreData,
    Transit,
)
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Lease


class Step(StrEnum):
    """Flow ids of a program that likes enums."""

    FIRST = "first"


def registry() -> FlowRegistry:
    flows = FlowRegistry()

    @flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command:
        return Commit(End(ctx))

    return flows


async def test_idle_waits_for_what_runs_and_what_is_pending() -> None:
    async with Engine(MemoryDriver(), registry(), max_executions=2) as engine:
        for number in range(10):
            ctx = StateContext(State(f"s{number}"))
            await engine.do(Commit(Transit(ctx, "first")), Execute(ctx))
        await engine.idle()

        ended = [s.id async for s in engine.states(latest_only=True, status=Status.ENDED)]
        assert len(ended) == 10


async def test_a_flow_may_be_named_by_an_enum() -> None:
    async with Engine(MemoryDriver(), registry()) as engine:
        ctx = StateContext(State("s"))
        await engine.do(Commit(Transit(ctx, Step.FIRST)))

        assert type(ctx.current.transition.to) is str
        assert ctx.current.transition.to == "first"


class Decoding(MemoryDriver):
    """Returns equal transitions, but not the objects that it was given."""

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        def decoded(state: State) -> State:
            return replace(state, transition=replace(state.transition))

        verdicts = await super().commit(batch)
        return [tuple(map(decoded, v)) if isinstance(v, tuple) else v for v in verdicts]


async def test_a_commit_without_a_step_stops_the_execution_on_any_driver() -> None:
    flows = FlowRegistry()
    runs: list[str] = []

    @flows.flow("store")
    async def store(ctx: StateContext, engine: Engine) -> Command:
        runs.append("store")
        ctx.data["report"] = Data(b"%d" % len(runs))
        return Commit(StoreData(ctx, "report"))

    async with Engine(Decoding(), flows) as engine:
        ctx = StateContext(State("s"))
        await engine.do(Commit(Transit(ctx, "store")))
        await engine.execute(ctx)

    assert runs == ["store"]


class Damaged(MemoryDriver):
    """Gives back other bytes than it was given."""

    async def get_data(self, checksum: str) -> Data | None:
        return Data(f"not {checksum}".encode())


async def test_damaged_data_is_not_handed_out() -> None:
    async with Engine(Damaged(), registry()) as engine:
        ctx = StateContext(State("s"))
        ctx.data["report"] = Data(b"report")
        await engine.do(Commit(StoreData(ctx, "report")))

        with pytest.raises(CodecError, match="report"):
            await engine.get_data(ctx, "report")


GOOD = {"driver": MemoryDriver(), "flows": FlowRegistry()}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_executions", 0),
        ("max_executions", True),
        ("max_pending", -1),
        ("blocking_threads", 0),
        ("blocking_threads", "x"),
        ("shutdown_timeout", -1),
        ("shutdown_timeout", "1"),
        ("shutdown_timeout", float("nan")),
        ("tokens", 3),
        ("name", ""),
        ("name", 3),
        ("clock", "now"),
        ("clock", FakeClock),
        ("driver", "no driver"),
        ("driver", MemoryDriver),
        ("flows", {"a": 1}),
        ("warn_blocked_after", 0),
    ],
)
def test_bad_options_are_refused(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        Engine(**{**GOOD, field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


CALLS: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "commit": lambda engine: engine.do(Commit(Pause(StateContext(State("a"))))),
    "command": lambda engine: engine.do(Noop()),
    "execute": lambda engine: engine.execute(StateContext(State("a"))),
    "begin": lambda engine: engine.begin(StateContext(State("a"))),
    "get_states": lambda engine: engine.get_states(),
    "states": lambda engine: anext(engine.states()),
    "idle": lambda engine: engine.idle(),
    "head": lambda engine: engine.head(),
    "compact": lambda engine: engine.compact(1),
}


@pytest.mark.parametrize("call", CALLS)
async def test_calls_from_another_event_loop_are_refused_at_once(call: str) -> None:
    async with Engine(MemoryDriver(), registry()) as engine:

        async def elsewhere() -> None:
            with pytest.raises(InvalidInputError, match="another event loop"):
                await CALLS[call](engine)

        await asyncio.to_thread(asyncio.run, elsewhere())


async def test_a_thread_may_hand_its_calls_to_the_loop_of_the_engine() -> None:
    loop = asyncio.get_running_loop()
    async with Engine(MemoryDriver(), registry()) as engine:

        def commit() -> None:
            ctx = StateContext(State("a"))
            asyncio.run_coroutine_threadsafe(engine.do(Commit(Pause(ctx))), loop).result()

        await asyncio.to_thread(commit)
        assert await engine.head() == 1


FORKING_PROGRAM = """
import asyncio, os, sys, traceback
from flowstate import *
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Lease

flows = FlowRegistry()
unopened = Engine(MemoryDriver(), flows)
unopened.name

def in_child(work):
    read, write = os.pipe()
    if not os.fork():
        try:
            os.write(write, repr(work()).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(write)
    os.wait()
    return eval(os.read(read, 10_000).decode())

async def commit(engine):
    ctx = StateContext(State("a"))
    async with engine:
        await engine.do(Commit(Pause(ctx)))
    return engine.name

def use_unopened():
    return asyncio.run(commit(unopened))

names = {in_child(use_unopened), in_child(use_unopened), use_unopened()}
assert len(names) == 3, names

async def use_open(engine):
    found = []
    calls = [lambda: engine.do(Noop()), lambda: engine.do(Commit(Pause(StateContext(State("b"))))),
             engine.head, engine.idle]
    for call in calls:
        try:
            await call()
        except EngineStoppedError as error:
            found.append(str(error))
    await engine.__aexit__(None, None, None)
    return found

async def main():
    async with Engine(MemoryDriver(), flows) as engine:
        refusals = in_child(lambda: step(use_open(engine)))
        assert len(refusals) == 4 and "before a fork" in refusals[0], refusals
        ctx = StateContext(State("c"))
        await engine.do(Commit(Pause(ctx)))

def step(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value

asyncio.run(main())
print("right")
"""


def test_engines_of_forked_processes_differ_and_open_ones_refuse() -> None:
    command = [sys.executable, "-c", FORKING_PROGRAM]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30.0)
    assert (done.stdout, done.stderr) == ("right\n", "")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks yet")
async def test_all_works_where_tasks_are_eager() -> None:
    loop, depth = asyncio.get_running_loop(), 2_000
    loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 - 3.11 has none
    flows = FlowRegistry()

    @flows.flow("spawn")
    async def spawn(ctx: StateContext, engine: Engine) -> Command:
        number = int(ctx.current.id)
        if number < depth:
            other = StateContext(State(str(number + 1)))
            await engine.do(Commit(Transit(other, "spawn")), Execute(other))
        return Commit(End(ctx))

    async with Engine(MemoryDriver(), flows) as engine, Lease(engine, "lease") as lease:
        await lease.wait_held()
        ctx = StateContext(State("0"))
        async with engine.watch() as states:
            await engine.do(Commit(Transit(ctx, "spawn")), Execute(ctx))
            await engine.idle()
            seen = [await anext(states) for _ in range(2 * depth + 3)]
        assert len({state.id for state in seen}) == depth + 2


async def test_two_tasks_that_enter_one_engine_open_it_once() -> None:
    driver = MemoryDriver()
    engine = Engine(driver, FlowRegistry())
    first, second = await asyncio.gather(
        engine.__aenter__(), engine.__aenter__(), return_exceptions=True
    )
    assert first is engine
    assert isinstance(second, EngineStoppedError)
    await engine.__aexit__(None, None, None)
    with pytest.raises(DriverClosedError):
        await driver.get_state("a")


async def test_an_engine_whose_driver_could_not_be_opened_may_be_entered_again() -> None:
    driver = MemoryDriver()
    engine = Engine(driver, FlowRegistry())
    entering = asyncio.create_task(engine.__aenter__())
    await asyncio.sleep(0)  # reason: it has begun
    entering.cancel()
    await asyncio.wait([entering])
    async with engine:
        assert await engine.head() == 0
