"""A heartbeat that comes before an attempt begins keeps it from beginning."""

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    State,
    StateContext,
    Transit,
)
from flowstate.driver import Heartbeat
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Recoverer
from flowstate.recovery_rules import RETRY_AFTER


async def test_it_is_noticed_while_attempts_wait_for_their_turn() -> None:
    clock, ran = FakeClock(), list[str]()
    driver, flows = MemoryDriver(clock), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.current.id)
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        contexts = [StateContext(State(id, annotations={RETRY_AFTER: "60"})) for id in "abc"]
        await engine.do(*(Commit(Transit(ctx, "work")) for ctx in contexts))
        await clock.sleep(60.0)
        async with Recoverer(engine, rate=0.1):
            while not ran:
                await clock.sleep(1.0)
            state = contexts[2].committed
            assert await driver.beat([Heartbeat(state.id, state.rev, 60.0, "")]) == [True]
            await clock.sleep(50.0)
            assert ran == ["a", "b"]
            await clock.sleep(50.0)
    assert ran == ["a", "b", "c"]
