"""What is promised of instances and is not the subject of another file."""

import json
import sqlite3
from pathlib import Path

import psycopg
import pytest

from flowstate import Engine, FlowRegistry, RetryPolicy, SystemClock
from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.engines.workflow import effect_key, step, workflow
from flowstate.testing import open_workflows, stands_at
from tests.engines.workflow.orders import Order, order, ship, shop
from tests.servers import Postgres

PATIENT = RetryPolicy(attempts=5, first=60.0, jitter=False)
keys: list[str] = []


async def failing(_: str) -> str:
    keys.append(effect_key())
    if len(keys) < 3:
        raise ConnectionError
    return "paid"


@workflow("changed", retry=PATIENT)
async def before(s: Order) -> str:
    return await step(failing, s.by, name="pay")


@workflow("changed", retry=PATIENT)
async def after(s: Order) -> str:
    for item in s.cart:
        await step(ship, item)
    paid = await step(failing, s.by, name="pay")
    await step(ship, "more", name="more")
    return f"{paid}, and more"


async def waiting(driver: Driver) -> None:
    """Leave an instance behind that waits."""
    engine = Engine(driver, FlowRegistry(), clock=SystemClock(), shutdown_timeout=1.0)
    async with open_workflows(order, engine=engine) as workflows:
        await workflows.start(order, "o", Order(["tea"], "otto"))
        await stands_at(workflows, "o", "approval", timeout=20)


async def test_sqlite_is_asked_in_sql(tmp_path: Path) -> None:
    shop.__init__()  # type: ignore[misc]
    await waiting(SQLiteDriver(tmp_path / "store.db"))
    query = """
        SELECT latest.id, json_extract(body, '$.values.data.cart[0]'),
               json_extract(body, '$.values.threads.main.frames[0].names.receipt')
        FROM latest JOIN log USING (rev)
        WHERE json_extract(latest.labels, '$.workflow') = 'order'
          AND json_extract(latest.labels, '$.stop') = 'approval'
    """
    connection = sqlite3.connect(tmp_path / "store.db")
    try:
        assert connection.execute(query).fetchall() == [("o", "tea", "charge 1")]
    finally:
        connection.close()


async def test_postgres_is_asked_in_sql(postgres: Postgres, postgres_schema: str) -> None:
    shop.__init__()  # type: ignore[misc]
    await waiting(PostgresDriver(postgres.url(), schema=postgres_schema))
    query = f"""
        SELECT latest.id, body -> 'values' -> 'data' -> 'cart' ->> 0,
               body #>> '{{values,threads,main,frames,0,names,receipt}}'
        FROM "{postgres_schema}".latest JOIN "{postgres_schema}".log USING (rev)
        WHERE body -> 'labels' ->> 'workflow' = 'order'
          AND body -> 'labels' ->> 'stop' = 'approval'
    """
    with psycopg.connect(postgres.url()) as connection:
        assert connection.execute(query).fetchall() == [("o", "tea", "charge 1")]


async def test_all_that_is_stored_of_an_instance_is_json() -> None:
    shop.__init__()  # type: ignore[misc]
    async with open_workflows(order) as workflows:
        await workflows.start(order, "o", Order(["tea"], "otto"))
        state = await stands_at(workflows, "o", "approval")

    stored = {name: json.loads(bytes(raw)) for name, raw in state.values.items()}
    assert stored["data"] == {"cart": ["tea"], "by": "otto"}
    assert stored["threads"]["main"]["frames"] == [
        {"code": "order", "stop": "approval", "names": {"receipt": "charge 1"}}
    ]
    assert dict(state.labels) == {"workflow": "order", "stop": "approval"}


async def test_a_key_stays_the_same_when_other_stops_come_before_and_after() -> None:
    keys.clear()
    async with open_workflows(before) as workflows:
        await workflows.start(before, "c", Order(["tea"]))
        await workflows.engine.wait_for("c", until=lambda _: len(keys) == 1)
        async with type(workflows)(workflows.engine, [after]) as newer:
            assert await newer.result("c") == "paid, and more"

    assert len(keys) == 3
    assert set(keys) == {"c/main/pay/0"}


@pytest.mark.parametrize("others", [3])
async def test_an_instance_that_fails_delays_no_other(others: int) -> None:
    keys.clear()
    async with open_workflows(before, order) as workflows:
        began = workflows.engine.clock.now()
        await workflows.start(before, "c", Order([]))
        for number in range(others):
            await workflows.start(order, f"o{number}", Order([]))
            await stands_at(workflows, f"o{number}", "approval")
        assert (workflows.engine.clock.now(), len(keys)) == (began, 1)
        assert await workflows.result("c") == "paid"


@pytest.mark.slow
async def test_thousands_of_instances_wait_at_one_time_each_for_itself() -> None:
    shop.__init__()  # type: ignore[misc]
    async with open_workflows(order) as workflows:
        assert isinstance(workflows.engine.driver, MemoryDriver)
        for number in range(2_000):
            await workflows.start(order, f"o{number}", Order([]))
        began = workflows.engine.clock.now()
        results = [await workflows.result(f"o{number}") for number in range(2_000)]
        waited = (workflows.engine.clock.now() - began).total_seconds()

    assert set(results) == {"expired"}
    assert 600 <= waited < 601
