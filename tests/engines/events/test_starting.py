"""Starters start instances by time and by events, each once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from flowstate import Engine, FakeClock, FlowRegistry, InvalidInputError, Status
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.events.consuming import Filter, Key, Strategy
from flowstate.engines.events.publishing import publish
from flowstate.engines.events.starting import Plan, Starter, starter_id
from tests.engines.events.listeners import paid
from tests.engines.events.starters import Jobs
from tests.engines.kernel.tables import run, wait

START = FakeClock().now()
ORDER = {"order": Key(".data.order")}


class Note(msgspec.Struct):
    n: int = 0


def at(seconds: float) -> str:
    return f"n@{(START + timedelta(seconds=seconds)).isoformat()}"


FIRST = f"{at(0)}.1"


def filter_of(type: str, **more: Any) -> Filter:  # noqa: A002 - as CloudEvents say
    return Filter({"type": type}, **more)


async def test_every_interval_whether_the_one_before_runs_or_not() -> None:
    async with Jobs.open(wait("a", Note)) as jobs:
        await jobs.starters.set("n", "v1", Plan(every=60))
        await jobs.clock.sleep(59)
        assert await jobs.all() == {}
        await jobs.clock.sleep(122)

        assert await jobs.all() == {at(60): "v1", at(120): "v1", at(180): "v1"}


async def test_a_cron_expression_in_a_zone() -> None:
    async with Jobs.open() as jobs:
        await jobs.starters.set("n", "v1", Plan(cron="30 2 * * *", zone="Europe/Berlin"))
        now = jobs.clock.now()
        await jobs.clock.sleep(2 * 86_400)
        [first, second] = [datetime.fromisoformat(id[2:]) for id in await jobs.all()]

        assert (first.hour, first.minute) in ((0, 30), (1, 30))
        assert first.tzinfo == UTC
        assert now < first < now + timedelta(days=1)
        assert second - first == timedelta(days=1)
        with pytest.raises(InvalidInputError, match="cron"):
            await jobs.starters.set("m", "v1", Plan(cron="61 * * * *"))


async def test_one_after_the_other_has_ended() -> None:
    async def fail() -> None:
        raise ValueError

    async with Jobs.open(wait("a", Note), run("b", fail)) as jobs:
        kernel = jobs.kernel
        await jobs.starters.set("n", "v1", Plan(after=10))
        await jobs.clock.sleep(100)
        assert [*await jobs.all()] == [FIRST]
        await kernel.send(FIRST, Note())  # It fails.
        await jobs.clock.sleep(9)
        assert [*await jobs.all()] == [FIRST]
        await jobs.clock.sleep(2)
        [_, second] = await jobs.all()
        await kernel.cancel(second)
        await jobs.clock.sleep(11)
        assert len(await jobs.all()) == 3


async def test_one_that_is_forgotten_counts_as_ended() -> None:
    async with Jobs.open(wait("a", Note)) as jobs:
        await jobs.starters.set("n", "v1", Plan(after=10))
        await jobs.clock.sleep(1)
        kernel = jobs.kernel
        starter = await kernel.engine.get_state(starter_id("n"))
        data = starter.get(Starter, "data")
        assert data.last == FIRST
        await kernel.engine.update(
            starter.id, lambda ctx: ctx.put(msgspec.structs.replace(data, last="gone"), "data")
        )
        await jobs.clock.sleep(4_000)

        assert len(await jobs.all()) == 2


async def test_each_event_starts_one() -> None:
    for plan in (
        Plan(on=Strategy("all", [filter_of("paid")])),
        Plan(on=Strategy("any", [filter_of("paid"), filter_of("else")])),
    ):
        async with Jobs.open() as jobs:
            await publish(jobs.kernel.engine, paid("0"))
            await jobs.starters.set("n", "v1", plan)
            for n in "1223":
                await publish(jobs.kernel.engine, paid(n))
            await publish(jobs.kernel.engine, paid("4", type="other"))
            await jobs.clock.sleep(1)

            assert [*(await jobs.all()).values()] == [["1"], ["2"], ["3"]]


async def test_events_that_belong_together_start_one() -> None:
    both = [filter_of("made", keys=ORDER), filter_of("paid", keys=ORDER)]
    events = [("1", "made", 1), ("2", "made", 2), ("3", "paid", 2), ("4", "paid", 3)]
    events += [("5", "paid", 1), ("6", "made", 3), ("7", "paid", 1)]

    async with Jobs.open() as jobs:
        await jobs.starters.set("n", "v1", Plan(on=Strategy("all", both)))
        for id, kind, order in events:
            await publish(jobs.kernel.engine, paid(id, {"order": order}, type=kind))
        await jobs.clock.sleep(1)

        assert [*(await jobs.all()).values()] == [["2", "3"], ["1", "5"], ["4", "6"]]


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ({"until": Strategy("all", [filter_of("end")])}, [["1", "2"], ["3"]]),
        ({"until_program": "length == 2"}, [["1", "2"]]),
    ],
)
async def test_events_until_others_come(until: Any, expected: Any) -> None:
    async with Jobs.open() as jobs:
        strategy = Strategy("any", [filter_of("paid")], **until)
        await jobs.starters.set("n", "v1", Plan(on=strategy))
        for id, kind in (("0", "end"), ("1", "paid"), ("2", "paid"), ("e", "end"), ("3", "paid")):
            await publish(jobs.kernel.engine, paid(id, type=kind))
        await publish(jobs.kernel.engine, paid("f", type="end"))
        await jobs.clock.sleep(1)

        assert [*(await jobs.all()).values()] == expected


async def test_what_is_started_sees_the_events_after_the_one_that_has_started_it() -> None:
    async with Jobs.open() as jobs:
        await jobs.starters.set("n", "v1", Plan(on=Strategy("all", [filter_of("paid")])))
        await publish(jobs.kernel.engine, paid("1"))
        await jobs.clock.sleep(1)
        [id] = await jobs.all()
        data = (await jobs.kernel.engine.get_state(id)).get(dict[str, Any], "data")
        events = jobs.kernel.engine.states(labels={"event": "CloudEvent"})

        assert data["after"] == (await anext(events)).rev


async def test_a_newer_target_takes_over_and_nothing_is_lost_or_twice() -> None:
    plan = Plan(on=Strategy("all", [filter_of("made", keys=ORDER), filter_of("paid", keys=ORDER)]))

    async with Jobs.open() as jobs:
        engine = jobs.kernel.engine
        await jobs.starters.set("n", "v1", plan, order=1)
        await publish(engine, paid("1", {"order": 1}, type="made"))
        await jobs.clock.sleep(1)
        await jobs.starters.set("n", "v2", plan, order=2)
        await jobs.starters.set("n", "v1", plan, order=1)  # By a process that is behind.
        await publish(engine, paid("2", {"order": 1}))
        await jobs.clock.sleep(1)
        assert [*(await jobs.all()).values()] == [["1", "2"]]

        await jobs.starters.set("n", "v3", Plan(every=60), order=3)
        await jobs.clock.sleep(61)
        assert [*(await jobs.all()).values()] == [["1", "2"], "v3"]
        await jobs.starters.set("n", "v3", Plan(every=60), order=3)
        await jobs.starters.end("n")
        await jobs.starters.end("unknown")
        await jobs.clock.sleep(120)
        assert (await engine.get_state(starter_id("n"))).status is Status.ENDED
        assert len(await jobs.all()) == 2

        await jobs.starters.set("n", "v4", Plan(every=60), order=4)
        await jobs.clock.sleep(61)
        assert [*(await jobs.all()).values()][2:] == ["v4"]


async def test_what_is_due_while_nothing_runs_starts_later_once() -> None:
    clock = FakeClock()
    async with MemoryDriver(clock) as driver:
        async with Jobs.open(driver=driver, clock=clock) as jobs:
            await jobs.starters.set("t", "v1", Plan(every=60))
            await jobs.starters.set("e", "v1", Plan(on=Strategy("all", [filter_of("paid")])))
            await clock.sleep(61)
        flows = FlowRegistry()
        flows.declare("workflows.event")
        async with Engine(driver, flows, clock=clock) as engine:
            await publish(engine, paid("0"))
        await clock.sleep(1_000)
        async with Jobs.open(driver=driver, clock=clock) as jobs:
            await publish(jobs.kernel.engine, paid("1"))
            await clock.sleep(1)
            await clock.sleep(59)

            by_time = [id for id in await jobs.all() if id.startswith("t@")]
            assert [id.replace("t@", "n@") for id in by_time] == [at(60), at(120), at(1_080)]
            assert [given for given in (await jobs.all()).values() if given != "v1"] == [
                ["0"],
                ["1"],
            ]


async def test_one_that_begins_to_listen_starts_by_events_from_then_on() -> None:
    async with Jobs.open() as jobs:
        await jobs.starters.set("n", "v1", Plan(every=3_600))
        await publish(jobs.kernel.engine, paid("0"))
        await jobs.clock.sleep(1)
        await jobs.starters.set("n", "v1", Plan(on=Strategy("all", [filter_of("paid")])))
        await publish(jobs.kernel.engine, paid("1"))
        await jobs.clock.sleep(1)
        assert [*(await jobs.all()).values()] == [["1"]]

        with pytest.raises(InvalidInputError, match="cron"):
            await jobs.starters.set("n", "v1", Plan(cron="never"))


async def test_a_failing_condition_ends_nothing() -> None:
    async with Jobs.open() as jobs:
        strategy = Strategy(
            "any", [filter_of("paid")], until_program='.[-1].data.n > 1 or error("x")'
        )
        await jobs.starters.set("n", "v1", Plan(on=strategy))
        for n in range(3):
            await publish(jobs.kernel.engine, paid(str(n), {"n": n}))
        await jobs.clock.sleep(1)

        assert [*(await jobs.all()).values()] == [["0", "1", "2"]]


async def test_events_that_wait_for_others_for_too_long_are_forgotten() -> None:
    both = [filter_of("made", keys=ORDER), filter_of("paid", keys=ORDER)]

    async with Jobs.open() as jobs:
        await jobs.starters.set("n", "v1", Plan(on=Strategy("all", both)))
        for n in range(4):
            data = {"order": n, "text": "x" * 100_000}
            await publish(jobs.kernel.engine, paid(str(n), data, type="made"))
        await jobs.clock.sleep(1)
        for n in range(4):
            await publish(jobs.kernel.engine, paid(f"p{n}", {"order": n}))
        await jobs.clock.sleep(1)

        assert [*(await jobs.all()).values()] == [["2", "p2"], ["3", "p3"]]
