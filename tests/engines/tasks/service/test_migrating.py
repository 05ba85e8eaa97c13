"""Migrations: instances go on with another version where they fit it, and say why they do not."""

import httpx
import pytest

from flowstate import FakeClock, Status
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.tasks.service.app import app
from flowstate.engines.tasks.service.tasks import Tasks
from tests.engines.tasks.service.running import document, tasks_on

PAY = "- pay: {listen: {to: {one: {with: {type: paid}}}}}"
OLD = f"- ask: {{set: {{version: old}}}}\n{PAY}\n- end: {{set: {{ended: old}}}}"
# Another task before the one that waits, another one after it, and another end.
NEW = f"""- ask: {{set: {{version: new}}}}
- tell: {{set: {{version: new}}}}
{PAY}
- thank: {{set: {{thanked: true}}}}
- end: {{set: {{ended: new}}, export: {{as: '${{ {{done: true}} }}'}}}}"""
INNER_OLD = f"- all: {{do: [{PAY[2:].join('{}')}, {{end: {{set: {{ended: old}}}}}}]}}"
INNER_NEW = (
    "- first: {set: {a: 1}}\n"
    f"- all: {{do: [{{b: {{set: {{b: 1}}}}}}, {PAY[2:].join('{}')}, "
    "{end: {set: {ended: new}}}]}"
)
FORK_OLD = f"- both: {{fork: {{branches: [{PAY[2:].join('{}')}, {{z: {{wait: {{hours: 1}}}}}}]}}}}"
FORK_NEW = f"- x: {{set: {{x: 1}}}}\n{FORK_OLD}\n- end: {{set: {{ended: new}}}}"
LOOP_OLD = f"- each: {{for: {{in: '${{ [1, 2] }}'}}, do: [{PAY[2:].join('{}')}]}}"
LOOP_NEW = f"- x: {{set: {{x: 1}}}}\n{LOOP_OLD}\n- end: {{set: {{ended: new}}}}"


async def waiting(tasks: Tasks, do: str) -> str:
    await tasks.add(document(do))
    id = await tasks.start("demo/order")
    await tasks.engine.wait_for(id, status=Status.PAUSED)
    return id


@pytest.mark.parametrize(
    ("old", "new", "events", "result"),
    [
        (OLD, NEW, 1, {"ended": "new"}),
        (INNER_OLD, INNER_NEW, 1, {"ended": "new"}),
        (FORK_OLD, FORK_NEW, 1, {"ended": "new"}),
        (LOOP_OLD, LOOP_NEW, 2, {"ended": "new"}),
    ],
    ids=["list", "do", "fork", "for"],
)
async def test_what_waits_goes_on_with_the_other_version(
    old: str, new: str, events: int, result: object
) -> None:
    clock = FakeClock()
    async with tasks_on(clock=clock) as tasks:
        id = await waiting(tasks, old)
        await tasks.add(document(new, version="1.1.0"))
        plan = await tasks.migrate("demo/order", "1.1.0", plan=True)
        assert (plan.fit, plan.misfits) == (1, {})
        assert (await tasks.summary(id)).version == "1.0.0"

        assert (await tasks.migrate("demo/order", "1.1.0", by="anna")).fit == 1
        summary = await tasks.summary(id)
        assert summary.version == "1.1.0"
        assert summary.task.rpartition("/")[2] in {"pay", "both"}
        for number in range(events):
            await tasks.publish(CloudEvent(str(number), "bank", "paid"))
        assert await tasks.result(id, timeout=10_000.0) == result
        assert (await tasks.migrate("demo/order", "1.1.0")).fit == 0


async def test_what_does_not_fit_stays_and_says_why() -> None:
    async with tasks_on() as tasks:
        id = await waiting(tasks, OLD)
        await tasks.add(document("- ask: {set: {a: 1}}", version="2.0.0"))
        await tasks.add(document("- pay: {set: {a: 1}}", version="3.0.0"))
        for version, reason in (
            ("2.0.0", "there is no 'pay'"),
            ("3.0.0", "is set, and was listen"),
        ):
            for plan in (True, False):
                done = await tasks.migrate("demo/order", version, plan=plan)
                assert done.fit == 0
                assert reason in done.misfits[id]
        assert (await tasks.summary(id)).version == "1.0.0"
        await tasks.publish(CloudEvent("1", "bank", "paid"))
        assert await tasks.result(id, timeout=10.0) == {"ended": "old"}


async def test_some_are_chosen() -> None:
    async with tasks_on() as tasks:
        ids = [await waiting(tasks, OLD) for _ in range(3)]
        await tasks.add(document(NEW, version="1.1.0"))
        assert (await tasks.migrate("demo/order", "1.1.0", id=ids[0])).fit == 1
        assert (await tasks.migrate("demo/order", "1.1.0", task="/do/0/ask")).fit == 0
        assert (await tasks.migrate("demo/order", "1.1.0", since="0.9.0")).fit == 0
        assert (
            await tasks.migrate("demo/order", "1.1.0", since="1.0.0", task="/do/1/pay")
        ).fit == 2


async def test_what_has_ended_is_left_alone() -> None:
    async with tasks_on() as tasks:
        id = await waiting(tasks, OLD)
        await tasks.cancel(id, hard=True)
        await tasks.engine.wait_for(id, status=Status.ENDED)
        await tasks.add(document(NEW, version="1.1.0"))

        assert (await tasks.migrate("demo/order", "1.1.0", id=id)).fit == 0
        assert (await tasks.summary(id)).version == "1.0.0"


async def test_it_is_offered_over_http() -> None:
    async with tasks_on() as tasks:
        id, other = await waiting(tasks, OLD), await waiting(tasks, OLD)
        await tasks.add(document(NEW, version="1.1.0"))
        await tasks.add(document("- ask: {set: {a: 1}}", version="2.0.0"))
        transport = httpx.ASGITransport(app(tasks, tokens=["t"]))
        headers = {"Authorization": "Bearer t"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://t", headers=headers
        ) as client:
            refused = await client.post(f"/instances/{id}/migrate", json={"version": "2.0.0"})
            assert refused.status_code == 409
            assert "there is no 'pay'" in refused.json()["detail"]
            done = await client.post(f"/instances/{id}/migrate", json={"version": "1.1.0"})
            assert done.json()["version"] == "1.1.0"
            rest = await client.post("/definitions/demo/order/1.1.0/migrate", json={})
            assert rest.json() == {"fit": 1, "misfits": {}}
            assert (await tasks.summary(other)).version == "1.1.0"
