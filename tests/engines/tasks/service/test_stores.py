"""The same on each store: documents, starts, lists, history, migrations and retention."""

import asyncio

import pytest

from flowstate import InvalidCommandError, StateNotFoundError, Status
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.tasks.service.instances import Wanted
from flowstate.engines.tasks.service.retention import Keep, forget_some
from tests.engines.stores import STORES, driver_of
from tests.engines.tasks.service.running import SET, document, tasks_on

MINE = """- told: {listen: {to: {one: {with: {type: told, subject: '${ $workflow.id }'}}}}}"""


@pytest.mark.parametrize("store", STORES)
async def test_all_stores_serve_alike(store: str, request: pytest.FixtureRequest) -> None:
    async with tasks_on(driver_of(store, request)) as tasks:
        assert [is_new for _, is_new in [await tasks.add(document(MINE)) for _ in "12"]] == [
            True,
            False,
        ]
        with pytest.raises(InvalidCommandError):
            await tasks.add(document(SET))
        starts = [tasks.start("demo/order", {"n": n}, key=f"k{n}") for n in (1, 2, 3, 1, 2, 3)]
        ids = [*dict.fromkeys(await asyncio.gather(*starts))]
        assert len(ids) == 3
        for id in ids:
            await tasks.engine.wait_for(id, status=Status.PAUSED, timeout=30.0)
        waiting = Wanted(definition="demo/order", phase="waiting", task="/do/0/told", limit=2)
        page = await tasks.list(waiting)
        rest = await tasks.list(
            Wanted(definition="demo/order", phase="waiting", task="/do/0/told", after=page.next)
        )
        assert {each.id for each in (*page.instances, *rest.instances)} == {*ids}

        await tasks.add(document(f"{MINE}\n{SET}", version="1.1.0"))
        assert (await tasks.migrate("demo/order", "1.1.0", id=ids[0])).fit == 1
        await tasks.publish(CloudEvent("1", "test", "told", subject=ids[0]))  # To this one only.
        assert await tasks.result(ids[0], timeout=30.0) == {"done": True}
        await tasks.engine.wait_for(ids[0], status=Status.ENDED, timeout=30.0)
        assert (await tasks.summary(ids[1])).phase == "waiting"
        happened = [
            (each.task, each.what)
            for moment in (await tasks.history(ids[0])).moments
            for each in moment.happened
        ]
        assert happened[-1] == ("", "completed")
        assert happened.count(("/do/0/told", "completed")) == 1

        assert await forget_some(tasks.engine, [Keep(count=0)], tasks.names()) == 1
        with pytest.raises(StateNotFoundError):
            await tasks.summary(ids[0])
