"""Prefect: flows of three tasks, with a server of its own on Postgres."""

import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator

from benchmarks.peers.restate import wait_for
from benchmarks.peers.work import Works, repeated
from flowstate.testing.faults.ports import LOOPBACK, free_port

__all__ = ["flows", "running_server"]

QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}
SERVER = ("-m", "prefect", "server", "start")
START = 120.0  # Seconds: the first one makes its tables.


@contextlib.contextmanager
def running_server(postgres: str) -> Iterator[str]:
    """Run a server on a database; yield where it is, and where results belong, by a comma."""
    with tempfile.TemporaryDirectory(prefix="flowstate-prefect-") as folder:
        port = str(free_port())
        database = postgres.replace("postgresql://", "postgresql+asyncpg://", 1)
        settings = QUIET | {
            "PREFECT_HOME": folder,
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        }
        with subprocess.Popen(
            [sys.executable, *SERVER, "--host", LOOPBACK, "--port", port],
            cwd=folder,
            env=os.environ | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                wait_for(f"http://{LOOPBACK}:{port}/api/health", START)
                yield f"http://{LOOPBACK}:{port}/api,{folder}"
            finally:
                process.terminate()


@contextlib.asynccontextmanager
async def flows(place: str) -> AsyncIterator[Works]:
    """Call a flow in this process; the result of each task is stored in a file."""
    api, folder = place.split(",")
    os.environ.update(QUIET | {"PREFECT_API_URL": api, "PREFECT_HOME": folder})
    prefect = importlib.import_module("prefect")

    @prefect.task(persist_result=True)  # type: ignore[untyped-decorator]
    async def step(number: int) -> int:
        return number

    @prefect.flow(persist_result=True)  # type: ignore[untyped-decorator]
    async def three() -> int:
        return sum([await step(number) for number in range(3)])

    yield {"rate": repeated(three)}
