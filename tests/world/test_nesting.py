"""Contexts that travel in others, deep, with data, over compaction."""

from flowstate import (
    Commit,
    Data,
    Engine,
    FlowRegistry,
    InvalidInputError,
    Pause,
    Resume,
    Stack,
    State,
    StateContext,
    StoreData,
    Transit,
    Unstack,
)
from tests.world.places import Place

DEPTH = 40


async def others(engine: Engine, name: str) -> None:
    """Commit more, and compact what is older."""
    for number in range(3):
        await engine.do(Commit(Pause(StateContext(State(f"{name}-{number}")))))
    await engine.compact(await engine.head())


async def test_calls_return_with_their_data(any_place: Place) -> None:
    flows = FlowRegistry()
    flows.declare("called")
    async with Engine(any_place.driver(), flows) as engine:
        frame = StateContext(State("frame-0"))
        for depth in range(1, DEPTH):
            frame.data["local"] = Data(b"local of %d" % (depth - 1), {"depth": f"{depth - 1}"})
            await engine.do(StoreData(frame, "local"))
            if depth % 2:
                await engine.do(Commit(Transit(frame, "called")))
            callee = StateContext(State(f"frame-{depth}"))
            await engine.do(Commit(Pause(callee), Stack(callee, frame, "caller")))
            frame = callee
        await others(engine, "called")
        for depth in reversed(range(1, DEPTH)):
            carrier = StateContext(
                await engine.get_state(f"frame-{depth}") if depth == DEPTH - 1 else frame.current
            )
            back = StateContext(State("placeholder"))
            await engine.do(Unstack(carrier, back, "caller"))
            assert back.current.id == f"frame-{depth - 1}"
            data = await engine.get_data(back, "local")
            assert data.blob == b"local of %d" % (depth - 1)
            assert data.annotations == {"depth": f"{depth - 1}"}
            if depth % 10 == 0:
                command = Resume(back) if back.committed.rev else Transit(back, "called")
                await engine.do(Commit(command))
                await others(engine, f"back-{depth}")
            frame = back


async def test_the_room_of_a_stack_grows_linearly(any_place: Place) -> None:
    async with Engine(any_place.driver(), FlowRegistry()) as engine:
        frame, sizes = StateContext(State("frame-0")), []
        for depth in range(1, 101):
            callee = StateContext(State(f"frame-{depth}"))
            await engine.do(Commit(Pause(callee), Stack(callee, frame, "caller")))
            sizes.append(sum(map(len, callee.current.annotations.values())))
            frame = callee
        assert sizes[-1] < 12 * sizes[9]


async def test_what_is_too_much_for_a_stack_is_refused_before_anything(any_place: Place) -> None:
    """Not when it is too late: nothing was written, and the contexts are as before."""
    async with Engine(any_place.driver(), FlowRegistry()) as engine:
        frame, refused = StateContext(State("frame-0")), None
        for depth in range(1, 400):
            frame.data["local"] = Data(b"%d" % depth)
            await engine.do(StoreData(frame, "local"))
            callee = StateContext(State(f"frame-{depth}"))
            before = callee.current, frame.current, await engine.head()
            try:
                await engine.do(Commit(Pause(callee), Stack(callee, frame, "caller")))
            except InvalidInputError as error:
                refused = error
                assert (callee.current, frame.current, await engine.head()) == before
                break
            frame = callee
        assert refused is not None
        assert await engine.get_state(frame.current.id) == frame.committed
