"""Schedules: time zones, daylight saving, overlap, and that each occurrence starts once."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flowstate import FakeClock, InvalidInputError, State, StateNotFoundError, UnknownFlowError
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.workflow import step, wait, workflow
from flowstate.engines.workflow.schedules import Due, schedule_id
from flowstate.engines.workflow.workflows import Workflows
from tests.engines.workflow.orders import Approved, opened, order, shop

BERLIN = "Europe/Berlin"


@workflow("report")
async def report(s: dict[str, int], slot: datetime) -> str:
    return slot.isoformat()


@workflow("slow")
async def slow(s: dict[str, int]) -> None:
    await wait("go_on", Approved)


async def noted(name: str) -> str:
    return await shop.do(name)


@workflow("noting")
async def noting(s: str) -> str:
    return await step(noted, s)


def at(text: str, zone: str = "UTC") -> FakeClock:
    start = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))
    return FakeClock(start.astimezone(UTC), autojump=False)


async def settle(workflows: Workflows, name: str = "s") -> State:
    """Wait until the schedule waits for its next slot, and return it."""
    now = workflows.engine.clock.now()
    return await workflows.engine.wait_for(
        schedule_id(name),
        until=lambda s: s.status == "paused" and s.get(Due, "due").next > now,
    )


async def pass_time(workflows: Workflows, clock: FakeClock, **time: float) -> State:
    """Let time pass, and wait for the schedule."""
    clock.advance(timedelta(**time).total_seconds())
    return await settle(workflows)


async def started(workflows: Workflows) -> list[str]:
    found = [each.id async for each in workflows.instances()]
    return sorted(each.partition("@")[2] for each in found)


async def test_each_slot_starts_an_instance_that_is_told_its_slot() -> None:
    clock = at("2030-01-01T00:10:00")
    async with opened(report, clock=clock) as workflows:
        assert await workflows.schedule("s", report, "*/15 * * * *", {"a": 1})
        await settle(workflows)
        for _ in range(3):
            await pass_time(workflows, clock, minutes=15)

        assert await started(workflows) == [
            f"2030-01-01T00:{minute}:00+00:00" for minute in (15, 30, 45)
        ]
        first = "s@2030-01-01T00:15:00+00:00"
        assert await workflows.result(first) == "2030-01-01T00:15:00+00:00"
        assert (await workflows.engine.get_state(first)).labels["schedule"] == "s"
        assert [each.name async for each in workflows.schedules()] == ["s"]


@pytest.mark.parametrize(
    ("day", "slots"),
    [
        ("2030-03-30T12:00:00", ["2030-03-31T01:00", "2030-04-01T00:30", "2030-04-02T00:30"]),
        ("2030-10-26T12:00:00", ["2030-10-27T00:30", "2030-10-28T01:30", "2030-10-29T01:30"]),
    ],
    ids=["spring", "autumn"],
)
async def test_a_time_in_the_night_of_a_change_comes_once(day: str, slots: list[str]) -> None:
    clock = at(day, BERLIN)
    async with opened(report, clock=clock) as workflows:
        await workflows.schedule("s", report, "30 2 * * *", {}, zone=BERLIN)
        await settle(workflows)
        for _ in range(3 * 24 * 2):
            await pass_time(workflows, clock, minutes=30)

        assert await started(workflows) == [f"{slot}:00+00:00" for slot in slots]


async def test_a_schedule_that_begins_within_the_hour_that_comes_twice() -> None:
    clock = FakeClock(datetime(2030, 10, 27, 1, 10, tzinfo=UTC), autojump=False)  # 2:10, again.
    async with opened(report, clock=clock) as workflows:
        await workflows.schedule("s", report, "30 2 * * *", {}, zone=BERLIN)
        state = await settle(workflows)

    assert state.get(dict, "due")["next"] == "2030-10-28T01:30:00Z"


async def test_each_hour_of_the_night_of_a_change_has_its_slot() -> None:
    clock = at("2030-10-27T00:00:00", BERLIN)
    async with opened(report, clock=clock) as workflows:
        await workflows.schedule("s", report, "0 * * * *", {}, zone=BERLIN)
        await settle(workflows)
        for _ in range(5):
            await pass_time(workflows, clock, hours=1)

        assert len(await started(workflows)) == 5


async def test_slots_that_pass_while_nothing_runs_are_made_up_for_once() -> None:
    clock = at("2030-01-01T00:10:00")
    driver = MemoryDriver(clock)
    async with driver:
        async with opened(report, clock=clock, driver=driver) as workflows:
            await workflows.schedule("s", report, "*/15 * * * *", {})
            await settle(workflows)
        clock.advance(3600)
        async with opened(report, clock=clock, driver=driver) as workflows:
            assert not await workflows.schedule("s", report, "*/15 * * * *", {})
            await settle(workflows)
            assert await started(workflows) == ["2030-01-01T00:15:00+00:00"]
            await pass_time(workflows, clock, minutes=5)
            assert await started(workflows) == [
                "2030-01-01T00:15:00+00:00",
                "2030-01-01T01:15:00+00:00",
            ]


@pytest.mark.parametrize(
    ("overlap", "during", "left_out", "after"),
    [("skip", 1, 2, 1), ("queue", 1, 0, 2), ("parallel", 3, 0, 3)],
)
async def test_occurrences_that_overlap(
    overlap: str, during: int, left_out: int, after: int
) -> None:
    clock = at("2030-01-01T00:00:30")
    async with opened(slow, clock=clock) as workflows:
        await workflows.schedule("s", slow, "* * * * *", {}, overlap=overlap)  # type: ignore[arg-type]
        state = await settle(workflows)
        for _ in range(3):
            state = await pass_time(workflows, clock, minutes=1)
        assert len(await started(workflows)) == during
        assert state.get(dict, "due").get("left_out", 0) == left_out
        first = "s@2030-01-01T00:01:00+00:00"
        await workflows.send(first, Approved("x"))
        await workflows.result(first)
        await workflows.engine.idle()

        assert len(await started(workflows)) == after


async def test_what_is_queued_starts_in_order() -> None:
    clock = at("2030-01-01T00:00:30")
    async with opened(slow, clock=clock) as workflows:
        await workflows.schedule("s", slow, "* * * * *", {}, overlap="queue")
        await settle(workflows)
        for _ in range(3):
            await pass_time(workflows, clock, minutes=1)
        for minute in (1, 2, 3):
            id = f"s@2030-01-01T00:0{minute}:00+00:00"
            await workflows.engine.wait_for(id, until=lambda s: s.status == "paused")
            assert await workflows.count(slow, kind="live") == 1
            await workflows.send(id, Approved("x"))
            await workflows.result(id)


async def test_a_schedule_is_changed_and_ended_and_begins_again() -> None:
    clock = at("2030-01-01T00:00:30")
    async with opened(report, clock=clock) as workflows:
        assert await workflows.schedule("s", report, "* * * * *", {})
        assert not await workflows.schedule("s", report, "* * * * *", {})
        assert await workflows.schedule("s", report, "*/10 * * * *", {})
        await settle(workflows)
        await pass_time(workflows, clock, minutes=1)
        assert await started(workflows) == []
        await workflows.unschedule("s")
        await workflows.unschedule("s")
        clock.advance(3600)
        await workflows.engine.idle()
        assert await started(workflows) == []
        assert await workflows.schedule("s", report, "*/10 * * * *", {})
        await settle(workflows)
        await pass_time(workflows, clock, minutes=10)
        assert await started(workflows) == ["2030-01-01T01:10:00+00:00"]
        with pytest.raises(StateNotFoundError):
            await workflows.unschedule("other")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"cron": "* * *"}, "cron: "),
        ({"cron": "0 0 30 2 *"}, "cron: '0 0 30 2 \\*': Bad day-of-month"),
        ({"zone": "Europe/Nowhere"}, "there is no time zone 'Europe/Nowhere'"),
        ({"zone": "../x"}, "there is no time zone"),
        ({"data": "text"}, "data: is not of its type"),
        ({"args": {"what": 1}}, "has no argument 'what'"),
    ],
)
async def test_a_schedule_that_could_start_nothing_is_refused(
    change: dict[str, object], error: str
) -> None:
    options = {"cron": "* * * * *", "data": {}, "code": report, **change}
    async with opened(report) as workflows:
        with pytest.raises(InvalidInputError, match=error):
            await workflows.schedule("s", **options)  # type: ignore[arg-type]
        with pytest.raises(UnknownFlowError):
            await workflows.schedule("s", order, "* * * * *", {"cart": []})
        assert [each async for each in workflows.schedules()] == []


async def slots(workflows: Workflows, count: int) -> AsyncIterator[str]:
    for minute in range(1, count + 1):
        yield await workflows.result(f"s@2030-01-01T00:0{minute}:00+00:00")


async def test_two_engines_start_each_occurrence_once() -> None:
    clock = FakeClock(datetime(2030, 1, 1, 0, 0, 30, tzinfo=UTC))
    driver = MemoryDriver(clock)
    async with (
        driver,
        opened(noting, clock=clock, driver=driver) as one,
        opened(noting, clock=clock, driver=driver) as two,
    ):
        made = await asyncio.gather(
            one.schedule("s", noting, "* * * * *", "tick"),
            two.schedule("s", noting, "* * * * *", "tick"),
        )
        assert sorted(made) == [False, True]
        found = [each async for each in slots(one, 5)]
        await one.unschedule("s")

    assert len(found) == 5
    assert len({key for _, key in shop.did}) == len(shop.did)
