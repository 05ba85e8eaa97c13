"""Retention: what has ended is forgotten by age and number, and nothing else is."""

import asyncio
from datetime import timedelta
from random import Random

import pytest

from flowstate import FakeClock, InvalidInputError, StateNotFoundError, Status
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.tasks.service import retention
from flowstate.engines.tasks.service.retention import Keep, forget_some
from flowstate.engines.tasks.service.tasks import Tasks
from tests.engines.tasks.service.running import document, tasks_on

FAIL = "- fail: {raise: {error: {type: https://a.example/x, status: 500}}}"
PARENT = """- run: {run: {workflow: {namespace: demo, name: order, version: 1.0.0}}}
- sleep: {wait: {days: 9}}"""


async def ended(tasks: Tasks, name: str, count: int) -> list[str]:
    ids = [await tasks.start(f"demo/{name}") for _ in range(count)]
    for id in ids:
        await tasks.engine.wait_for(id, status=Status.ENDED)
    return ids


async def left(tasks: Tasks, ids: list[str]) -> list[str]:
    found = []
    for id in ids:
        try:
            await tasks.summary(id)
        except StateNotFoundError:
            continue
        found.append(id)
    return found


async def test_the_newest_are_kept() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document())
        await tasks.add(document(name="other"))
        ids = await ended(tasks, "order", 6)
        others = await ended(tasks, "other", 3)

        assert await forget_some(tasks.engine, [Keep(count=2)], tasks.names()) == 5
        assert await left(tasks, ids) == ids[4:]
        assert await left(tasks, others) == others[1:]
        assert len([*tasks.definitions]) == 2


async def test_what_is_old_is_forgotten() -> None:
    clock = FakeClock()
    async with tasks_on(MemoryDriver(clock), clock=clock) as tasks:
        await tasks.add(document())
        old = await ended(tasks, "order", 2)
        clock.advance(3600.0)
        new = await ended(tasks, "order", 2)
        rule = Keep(timedelta(minutes=30))

        assert await forget_some(tasks.engine, [rule], tasks.names()) == 2
        assert await left(tasks, old + new) == new


async def test_rules_are_for_a_definition_and_an_outcome() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document())
        await tasks.add(document(FAIL, name="fail"))
        done, failed = await ended(tasks, "order", 2), await ended(tasks, "fail", 2)

        rules = [Keep(count=0, outcome="failed", definition="demo/order")]
        assert await forget_some(tasks.engine, rules, tasks.names()) == 0
        rules = [Keep(count=0, outcome="failed")]
        assert await forget_some(tasks.engine, rules, tasks.names()) == 2
        assert await left(tasks, done + failed) == done


async def test_a_round_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MOST_AT_ONCE", 3)
    monkeypatch.setattr(retention, "BATCH", 2)
    async with tasks_on() as tasks:
        await tasks.add(document())
        await ended(tasks, "order", 5)
        rounds = [await forget_some(tasks.engine, [Keep(count=0)], tasks.names()) for _ in "123"]

        assert rounds == [3, 2, 0]


async def test_a_child_is_kept_until_its_parent_has_ended() -> None:
    async with tasks_on() as tasks:
        await tasks.add(document())
        await tasks.add(document(PARENT, name="parent"))
        id = await tasks.start("demo/parent")
        await tasks.engine.wait_for(
            id, until=lambda state: state.labels.get("stop") == "/do/1/sleep"
        )
        rules = [Keep(count=0)]

        assert await forget_some(tasks.engine, rules, tasks.names()) == 0
        await tasks.cancel(id, hard=True)
        await tasks.engine.wait_for(id, status=Status.ENDED)
        assert await forget_some(tasks.engine, rules, tasks.names()) == 2


async def test_it_goes_on_in_the_background_in_one_of_all_processes() -> None:
    driver, rules = MemoryDriver(), [Keep(count=1)]
    async with (
        tasks_on(driver, keep=rules, rng=Random(1)) as one,
        tasks_on(driver, keep=rules, rng=Random(2)) as other,
    ):
        assert one.engine is not other.engine
    async with tasks_on(driver) as tasks:
        await tasks.add(document())
        ids = await ended(tasks, "order", 3)
    async with tasks_on(driver, keep=rules, rng=Random(3)) as tasks, asyncio.timeout(20):
        while await left(tasks, ids) != ids[2:]:  # noqa: ASYNC110 - in the background
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("wrong", [{}, {"count": -1}, {"age": timedelta(-1)}], ids=str)
def test_a_rule_has_a_bound(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        Keep(**wrong)  # type: ignore[arg-type]


async def test_children_of_a_parent_that_goes_on_do_not_stand_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "MOST_AT_ONCE", 1)
    async with tasks_on() as tasks:
        await tasks.add(document())
        await tasks.add(document(PARENT, name="parent"))
        for _ in range(2):
            id = await tasks.start("demo/parent")
            await tasks.engine.wait_for(
                id, until=lambda state: state.labels.get("stop") == "/do/1/sleep"
            )
        ids = await ended(tasks, "order", 3)

        assert await forget_some(tasks.engine, [Keep(count=1)], tasks.names()) == 1
        assert await forget_some(tasks.engine, [Keep(count=1)], tasks.names()) == 1
        assert await forget_some(tasks.engine, [Keep(count=1)], tasks.names()) == 0
        assert await left(tasks, ids) == ids[2:]
