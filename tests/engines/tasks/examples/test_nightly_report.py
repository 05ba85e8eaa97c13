"""Each night a report is sent, and tried again while the service is down."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowstate.engines.tasks.calls.databases import Database
from tests.engines.tasks.examples.driving import example


async def test_a_report_is_sent_each_night_of_what_was_sold_the_day_before(
    tmp_path: Path,
) -> None:
    reports = asyncio.Queue[Any]()
    failures = [503, 503]

    async def take(request: Request) -> Response:
        if failures:
            return Response(status_code=failures.pop())
        reports.put_nowait(await request.json())
        return Response(status_code=204)

    with sqlite3.connect(tmp_path / "shop") as shop:
        shop.execute("create table sales (day text, item text, cents integer)")
        sales = [("2029-12-31", "tea", 300), ("2029-12-31", "milk", 90), ("2029-12-31", "tea", 300)]
        shop.executemany("insert into sales values (?, ?, ?)", [*sales, ("2030-01-02", "tea", 1)])
    shop.close()
    app = Starlette(routes=[Route("/daily", take, methods=["POST"])])
    databases = {"shop": Database(f"sqlite:///{tmp_path}/shop")}
    async with example(
        "nightly-report", app, hosts=("reports.example",), databases=databases
    ) as tasks:
        first, second = await reports.get(), await reports.get()
        now = tasks.engine.clock.now()

    sold = [{"item": "milk", "cents": 90}, {"item": "tea", "cents": 600}]
    assert first == {"day": "2029-12-31", "sales": sold, "total": 690}
    assert second == {"day": "2030-01-01", "sales": [], "total": 0}
    assert now.isoformat().startswith("2030-01-02T02:30")
