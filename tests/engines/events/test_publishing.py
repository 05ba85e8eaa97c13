"""Events are published once, and found by those that wait for such ones."""

from datetime import timedelta
from typing import Any

import pytest

from flowstate import Commit, FakeClock, Forget, InvalidInputError, StateContext
from flowstate.driver import StateQuery, States
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.events.publishing import EVENTS, MORE, publish, published
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Wait
from flowstate.engines.kernel.outside import Events
from tests.engines.events.listeners import Gathered, gathering, paid
from tests.engines.kernel.running import kernel_of, stands
from tests.engines.kernel.tables import join, line

HOUR = timedelta(hours=1)
code = gathering("code", seconds=60)


async def test_an_event_is_known_by_its_source_and_id() -> None:
    async with kernel_of(code) as kernel:
        engine = kernel.engine
        assert await publish(engine, paid("1", {"n": 1}), keep=HOUR)
        assert not await publish(engine, paid("1", {"n": 2}), keep=HOUR)
        assert await publish(engine, paid("1", source="/else"), keep=HOUR)
        assert await published(engine, "/shop", "1") == paid("1", {"n": 1})
        assert await published(engine, "/shop", "2") is None

        clock: Any = engine.clock
        await clock.sleep(3_601)
        assert await published(engine, "/shop", "1") is None
        assert await publish(engine, paid("1", {"n": 2}), keep=HOUR)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], ["1", "2", "3", "4", "5"]),
        ([("type", "paid")], ["1", "2", "4", "5"]),
        ([("type", "else"), ("subject", "s")], ["2", "3"]),
        ([("data.order", 7)], ["1"]),
        ([("data.order", 7.0)], ["1"]),
        ([("data.order", "7")], []),
        ([("region", "eu")], ["2"]),
        ([("count", "3")], ["2"]),
        ([("data.k24", 24), ("data", "more")], ["4", "5"]),
    ],
)
async def test_it_is_found_by_its_fields(fields: list[Any], expected: list[str]) -> None:
    """One with very many fields is not found by all of them, so it is looked at in any case."""
    events = [
        paid("1", {"order": 7}),
        paid("2", subject="s", extensions={"region": "eu", "count": 3}),
        paid("3", type="else"),
        paid("4", {f"k{n}": n for n in range(30)}),
        paid("5", {f"k{n}": 0 for n in range(30)}),
    ]

    async with kernel_of(code) as kernel:
        await kernel.start(code, "early", Gathered(9, fields))
        await stands(kernel, "early", "a")
        await kernel.start(code, "late", Gathered(9, fields))
        for each in events:
            await publish(kernel.engine, each)

        assert await kernel.result("early") == expected
        assert await kernel.result("late") == expected


async def test_what_was_published_before_the_start_is_not_seen() -> None:
    async with kernel_of(code) as kernel:
        await publish(kernel.engine, paid("1"))
        await kernel.start(code, "i", Gathered(9))
        await publish(kernel.engine, paid("2"))
        assert await kernel.result("i") == ["2"]

        await forget(kernel, "i")
        await publish(kernel.engine, paid("3"))
        await kernel.start(code, "i", Gathered(9))
        await publish(kernel.engine, paid("4"))
        assert await kernel.result("i") == ["4"]


async def forget(kernel: Kernel, id: str) -> None:
    ctx = StateContext(await kernel.engine.get_state(id))
    await kernel.engine.do(Commit(Forget(ctx)))


async def test_many_are_given_in_order_some_at_a_time() -> None:
    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", Gathered(250))
        for n in range(250):
            await publish(kernel.engine, paid(str(n), "x" * 100_000 if n < 5 else ""))

        assert await kernel.result("i") == [str(n) for n in range(250)]


async def test_what_cannot_be_published() -> None:
    async with kernel_of(code) as kernel:
        for event in (paid("1", object()), paid("1", "x" * 131_072), paid("1", float("nan"))):
            with pytest.raises(InvalidInputError, match="event"):
                await publish(kernel.engine, event)
        with pytest.raises(InvalidInputError, match="keep"):
            await publish(kernel.engine, paid("1"), keep=timedelta(days=-1))


async def test_one_that_waits_in_very_many_ways_waits_for_all_events() -> None:
    many = [[("type", f"{m} {n}") for n in range(8)] for m in range(8)]
    asks = [lambda *_, each=each: Wait("w", [Events(EVENTS, *each)]) for each in many]

    async with kernel_of(line("many", join("a", *asks))) as kernel:
        await kernel.start(kernel.codes["many"], "i", {})
        state = await stands(kernel, "i", "a")
        topics = [text for key, text in state.labels.items() if key.startswith("awaits.")]
        assert topics == ["event CloudEvent"]
        for m in range(8):
            await publish(kernel.engine, paid(str(m), type=f"{m} {m}"))

        [found] = await kernel.result("i")
        assert [each["event"]["id"] for [each] in found] == [*"01234567"]


async def test_an_event_wakes_only_whom_it_concerns() -> None:
    async with kernel_of(code) as kernel:
        for n in range(50):
            await kernel.start(code, str(n), Gathered(1, [("data.order", n), MORE]))
            await stands(kernel, str(n), "a")
        head = await kernel.engine.head()
        await publish(kernel.engine, paid("7", {"order": 7}))
        assert await kernel.result("7") == ["7"]
        await kernel.engine.idle()

        ids = {each.id async for each in kernel.engine.states(since_rev=head)}
        assert {each for each in ids if not each.startswith("flowstate.")} == {"7"}


async def test_a_wait_with_two_sources_looks_for_both() -> None:
    sources = [Events(EVENTS, ("type", each)) for each in "ab"]
    two = line("two", lambda *_: Wait("a", sources), lambda *_: Wait("b", [sources[1]]))

    async with kernel_of(two) as kernel:
        await kernel.start(two, "early", {})
        await publish(kernel.engine, paid("1", type="b"))
        await kernel.start(two, "late", {})
        await stands(kernel, "late", "a")
        await publish(kernel.engine, paid("2", type="c"))
        await publish(kernel.engine, paid("3", type="b"))

        for id, first in (("early", "1"), ("late", "3")):
            found = await kernel.result(id)
            assert [each[0]["event"]["id"] for each in found] == [first, first]


async def test_many_events_at_once_are_looked_at_a_few_times_each() -> None:
    class Counting(MemoryDriver):
        read = 0

        async def get_states(self, query: StateQuery) -> States:
            page = await super().get_states(query)
            self.read += sum(each.id.startswith("flowstate.event.") for each in page.states)
            return page

    clock = FakeClock()
    driver = Counting(clock)
    async with kernel_of(code, clock=clock, driver=driver) as kernel:
        await kernel.start(code, "i", Gathered(301))
        for n in range(300):
            await publish(kernel.engine, paid(str(n)))

        assert len(await kernel.result("i")) == 300
        assert driver.read < 2_500


async def test_a_paused_instance_gets_it_when_it_goes_on() -> None:
    async with kernel_of(gathering("patient")) as kernel:
        await kernel.start(kernel.codes["patient"], "i", Gathered(2))
        await stands(kernel, "i", "a")
        await kernel.pause("i")
        await publish(kernel.engine, paid("1"))
        await publish(kernel.engine, paid("2"))
        await kernel.engine.idle()
        assert not (await kernel.engine.get_state("i")).get(Gathered, "data").ids
        await kernel.resume("i")

        assert await kernel.result("i") == ["1", "2"]
