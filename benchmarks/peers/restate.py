"""Restate, whose server keeps its own store instead of using Postgres."""

import asyncio
import contextlib
import importlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.peers.work import Works, repeated
from benchmarks.workload import NotInstalledError
from flowstate.testing.faults.ports import LOOPBACK, free_port

__all__ = ["calls", "running_server", "server_program", "wait_for"]

TIME_LIMIT = 30.0
UNLIMITED = 2**31 - 1
PACKAGES = Path(sys.prefix, "node", "node_modules", "@restatedev")


def server_program() -> Path:
    """Return the server: the one beside this Python's packages, or the one on the path.

    Raises:
        NotInstalledError: there is neither.
    """
    # Not the script of the package: it starts the program as a child, which would outlive it.
    for program in PACKAGES.glob("restate-server-*/bin/restate-server"):
        return program
    found = shutil.which("restate-server")
    if found is None:
        raise NotInstalledError("restate-server (npm: @restatedev/restate-server)")
    return Path(found)


@contextlib.contextmanager
def running_server(program: Path) -> Iterator[str]:
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
                wait_for(f"http://{admin}/health")
                wait_for(f"http://{ingress}/restate/health")
                yield f"http://{ingress},http://{admin}"
            finally:
                process.terminate()


def wait_for(url: str, seconds: float = TIME_LIMIT) -> None:
    """Return when a server answers.

    Raises:
        OSError: it does not within so many seconds.
    """
    give_up = time.monotonic() + seconds
    while True:
        try:
            with urlopen(url, timeout=1):  # noqa: S310 - it is our own
                return
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


@contextlib.asynccontextmanager
async def calls(place: str) -> AsyncIterator[Works]:
    """Call a service of three steps, which this process serves."""
    httpx = importlib.import_module("httpx")
    ingress, admin = place.split(",")
    async with _served(admin) as service:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(limits=limits, timeout=TIME_LIMIT) as client:

            async def call() -> None:
                response = await client.post(f"{ingress}/{service}/run", json=1)
                response.raise_for_status()

            yield {"rate": repeated(call)}


@contextlib.asynccontextmanager
async def _served(admin: str) -> AsyncIterator[str]:
    """Serve it, and tell the server where; yield its name."""
    restate, asgi, settings = map(
        importlib.import_module, ("restate", "hypercorn.asyncio", "hypercorn.config")
    )
    service = restate.Service(f"three{secrets.token_hex(4)}")

    async def step() -> int:
        return 1

    @service.handler()  # type: ignore[untyped-decorator]
    async def run(ctx: Any, argument: int) -> int:
        return sum([await ctx.run_typed(str(number), step) for number in range(3)])

    config = settings.Config()
    config.bind = [f"{LOOPBACK}:{free_port()}"]
    config.loglevel = "ERROR"
    config.h2_max_concurrent_streams = UNLIMITED
    config.keep_alive_max_requests = UNLIMITED
    config.keep_alive_timeout = UNLIMITED
    stop = asyncio.Event()
    server = asyncio.create_task(
        asgi.serve(restate.app(services=[service]), config, shutdown_trigger=stop.wait)
    )
    await asyncio.to_thread(_register, admin, config.bind[0])
    yield service.name
    stop.set()
    await server


def _register(admin: str, bound: str) -> None:
    wait_for(f"http://{bound}/health")
    request = Request(  # noqa: S310 - it is our own
        f"{admin}/deployments",
        b'{"uri": "http://%s"}' % bound.encode(),
        {"content-type": "application/json"},
    )
    with urlopen(request):  # noqa: S310 - it is our own
        pass
