"""The memory driver: what it keeps of states that come and go, and what it does only when asked."""

from collections.abc import Mapping
from datetime import timedelta

from msgspec.structs import replace

from flowstate import Data, FakeClock, State, Status, Transition
from flowstate.data import DataRef, checksum_of
from flowstate.driver import Drop, DueQuery, Heartbeat, StateQuery, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.ground.frozen import FrozenDict
from flowstate.testcases.support import timer

HOUR = timedelta(hours=1)
STALE = 100  # Numbers that lists may keep until they have doubled.


def elements(value: object, seen: set[int]) -> int:
    """Return how many elements all containers of an object have."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Mapping):
        return len(value) + sum(elements(each, seen) for each in value.values())
    if isinstance(value, list | set | tuple | frozenset):
        return len(value) + sum(elements(each, seen) for each in value)
    inside = {name: getattr(value, name, None) for name in getattr(value, "__slots__", ())}
    inside |= getattr(value, "__dict__", {})
    if any(kind.__module__.startswith("flowstate.drivers.memory") for kind in type(value).__mro__):
        return sum(elements(each, seen) for each in inside.values())
    return 0


async def come_and_go(driver: MemoryDriver, cycle: int) -> None:
    """Let a state live through everything that a driver keeps something for."""
    id, blob = f"s{cycle}", Data(f"{cycle}".encode())
    blob = replace(blob, rev=1, checksum=checksum_of(blob))
    data = FrozenDict({"blob": DataRef(1, blob.checksum)})
    state = State(id, labels={"kind": "x"}, transition=Transition("work"), data=data)
    timers = (timer(f"t{cycle}", HOUR),)
    (verdict,) = await driver.commit([Writes(f"a{cycle}", (state,), data=(blob,), timers=timers)])
    assert isinstance(verdict, tuple)
    await driver.beat([Heartbeat(id, verdict[0].rev, 60.0, "note")])
    paused = replace(verdict[0], status=Status.PAUSED)
    (verdict,) = await driver.commit([Writes(f"b{cycle}", (paused,))])
    assert isinstance(verdict, tuple)
    for kind in ("stall", "idle"):
        await driver.get_due(DueQuery(kind))
    assert len((await driver.get_states(StateQuery(id=id))).states) == 2
    last = replace(verdict[0], status=Status.ENDED, data=FrozenDict())
    drops = (Drop(f"t{cycle}", ""),)
    await driver.commit([Writes(f"c{cycle}", (last,), drops=drops, forgets=(0,))])
    await driver.compact(2**62)


async def test_nothing_is_kept_of_states_that_come_and_go() -> None:
    async with MemoryDriver(FakeClock()) as driver:
        for cycle in range(50):
            await come_and_go(driver, cycle)
        before = elements(driver, set())
        for cycle in range(50, 1_000):
            await come_and_go(driver, cycle)
        assert elements(driver, set()) <= before + STALE
        assert await driver.count(StateQuery()) == 0


async def test_an_index_that_no_question_needs_is_not_made() -> None:
    async with MemoryDriver() as driver:
        states = [Writes(f"{n}", (State(f"s{n}", status=Status.PAUSED),)) for n in range(3_000)]
        for writes in states:
            await driver.commit([writes])
        await driver.get_states(StateQuery(labels=(FrozenDict({"kind": "x"}),)))
        await driver.get_due(DueQuery("stall"))
        without = elements(driver, set())
        await driver.get_states(StateQuery(id="s7"))
        by_id = elements(driver, set())
        await driver.get_due(DueQuery("idle"))
        assert by_id >= without + 6_000  # A list for each id, with one revision.
        assert elements(driver, set()) >= by_id + 6_000  # A place for each state, in an order.
