"""What the conformance cases do not reach: it does not depend on a driver."""

from collections.abc import Sequence
from enum import StrEnum

import pytest
from msgspec.structs import replace

from flowstate import (
    CodecError,
    Command,
    Commit,
    Data,
    End,
    Engine,
    Execute,
    FlowRegistry,
    InvalidInputError,
    State,
    StateContext,
    Status,
    StoreData,
    Transit,
)
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver


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


@pytest.mark.parametrize(
    ("options", "field"),
    [({"max_executions": 0}, "max_executions"), ({"max_pending": -1}, "max_pending")],
)
def test_limits_that_let_nothing_run_are_refused(options: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        Engine(MemoryDriver(), FlowRegistry(), **options)  # type: ignore[arg-type]
