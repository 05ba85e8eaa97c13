"""Restate, whose server keeps its own store instead of using Postgres."""

import asyncio
import contextlib
import importlib
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from tests.ports import LOOPBACK, free_port

__all__ = ["restate_server", "serving"]

TIME_LIMIT = 30.0


@contextlib.contextmanager
def restate_server(program: Path) -> Iterator[str]:
    """Run a server; yield where it takes calls and where it is administered, by a comma."""
    with tempfile.TemporaryDirectory(prefix="flowstate-restate-") as folder:
        ingress, admin, node = (f"{LOOPBACK}:{free_port()}" for _ in range(3))
        settings = {
            "RESTATE_BASE_DIR": folder,
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_BIND_ADDRESS": node,
            "RESTATE_INGRESS__BIND_ADDRESS": ingress,
            "RESTATE_ADMIN__BIND_ADDRESS": admin,
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_LOG_FILTER": "error",
            "DO_NOT_TRACK": "1",
        }
        with subprocess.Popen(
            [program.absolute(), "--no-logo"],
            cwd=folder,
            env=os.environ | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                _wait_for(f"http://{admin}/health")
                _wait_for(f"http://{ingress}/restate/health")
                yield f"http://{ingress},http://{admin}"
            finally:
                process.terminate()


def _wait_for(url: str) -> None:
    give_up = time.monotonic() + TIME_LIMIT
    while True:
        try:
            with urlopen(url, timeout=1):  # noqa: S310 - it is our own
                return
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


@contextlib.asynccontextmanager
async def serving(urls: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Serve a workflow of three steps from this process; yield what calls it."""
    restate, asgi, settings, httpx = map(
        importlib.import_module, ("restate", "hypercorn.asyncio", "hypercorn.config", "httpx")
    )
    ingress, admin = urls.split(",")
    service = restate.Service(f"three{secrets.token_hex(4)}")

    async def step() -> int:
        return 1

    @service.handler()  # type: ignore[untyped-decorator]
    async def run(ctx: Any, argument: int) -> int:
        return sum([await ctx.run_typed(str(number), step) for number in range(3)])

    config = settings.Config()
    config.bind = [f"{LOOPBACK}:{free_port()}"]
    config.loglevel = "ERROR"
    stop = asyncio.Event()
    server = asyncio.create_task(
        asgi.serve(restate.app(services=[service]), config, shutdown_trigger=stop.wait)
    )
    request = Request(  # noqa: S310 - it is our own
        f"{admin}/deployments",
        b'{"uri": "http://%s"}' % config.bind[0].encode(),
        {"content-type": "application/json"},
    )
    await asyncio.sleep(0.5)
    with await asyncio.to_thread(urlopen, request):
        pass
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(limits=limits, timeout=TIME_LIMIT) as client:

        async def call() -> None:
            response = await client.post(f"{ingress}/{service.name}/run", json=1)
            response.raise_for_status()

        yield call
    stop.set()
    await server
