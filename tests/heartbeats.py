"""A driver that counts heartbeats, and states for an engine to keep alive."""

from collections.abc import Sequence

from flowstate import (
    Commit,
    DriverError,
    Engine,
    FakeClock,
    State,
    StateContext,
    StoreBusyError,
    Transit,
)
from flowstate.driver import DueQuery, Heartbeat, Liveness
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import DriverWrapper

__all__ = ["HOUR", "Recorder", "committed"]

HOUR = 3600.0


class Recorder(DriverWrapper):
    """Notes heartbeats and questions for liveness, and fails heartbeats on request."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.beats: list[Heartbeat] = []
        self.asked: list[str] = []
        self.calls = 0
        self.is_away = False
        self.locked = ""

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        self.calls += 1
        if self.is_away:
            raise DriverError("away")
        if any(beat.id == self.locked for beat in heartbeats):
            raise StoreBusyError("locked")
        self.beats += heartbeats
        return await super().beat(heartbeats)

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        self.asked += ids
        return await super().get_liveness(ids)

    async def stalled(self) -> list[str]:
        return [stalled.id for stalled in (await self.get_due(DueQuery("stall"))).due]


async def committed(engine: Engine, id: str = "a", **annotations: str) -> StateContext:
    ctx = StateContext(State(id, annotations=annotations))
    await engine.do(Commit(Transit(ctx, "work")))
    return ctx
