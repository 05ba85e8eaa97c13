"""Start-up: what a fresh process pays for importing the library, and until its first commit."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks.setting import Setting
from benchmarks.stores.engines import engines_of
from benchmarks.stores.store import Store, StoreName
from benchmarks.workload import Sample, Side, Workload

__all__ = ["DEPENDENCIES", "workloads"]

ROOT = Path(__file__).parent.parent.parent
MARK = 0.040
DRIVERS: dict[StoreName, str] = {
    "memory": "MemoryDriver",
    "sqlite": "SQLiteDriver",
    "postgres": "PostgresDriver",
    "redis": "RedisDriver",
}
DEPENDENCIES = "import asyncio, attrs, msgspec, msgspec.structs, time"
IMPORT = "{}; start = time.process_time(); {}; print(time.process_time() - start)"
FIRST_COMMIT = """
import asyncio, secrets, sys, time
from flowstate import Commit, Engine, FlowRegistry, Pause, State, StateContext
from flowstate.drivers.{store} import {driver}

async def main():
    async with Engine({driver}({arguments}), FlowRegistry()) as engine:
        await engine.do(Commit(Pause(StateContext(State(secrets.token_hex(8))))))
        print(time.process_time(), flush=True)

asyncio.run(main())
"""
BARE = """
import asyncio, time

async def main():
    print(time.process_time(), flush=True)

asyncio.run(main())
"""


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads: imports, and starts of programs."""
    yield Workload("import", "", "import", partial(_imported, "import flowstate"), mark=MARK)
    for engines in engines_of(setting):
        store = engines.store
        statement = f"import flowstate.drivers.{store.name}"
        yield Workload(
            "import with the driver", store.name, "import", partial(_imported, statement)
        )
        yield Workload(
            "start-up to the first commit",
            store.name,
            "start",
            partial(_started, store),
            (Side("Python with asyncio", "limit", partial(_first_line, BARE)),),
        )


async def _imported(statement: str) -> Sample:
    """Return the seconds of CPU that an import takes beyond ``asyncio``, attrs and msgspec."""
    cpu = (await _first_line(IMPORT.format(DEPENDENCIES, statement))).cpu
    return Sample(cpu or 0.0, cpu)


async def _started(store: Store) -> Sample:
    """Start a program on a store that is there already, until its first commit has succeeded."""
    arguments = ""
    if store.is_shared:
        address = store.address("started")
        async with address.driver():
            pass
        arguments = repr(address.where)
        if address.name:
            keyword = {"postgres": "schema", "redis": "namespace"}[address.store]
            arguments += f", {keyword}={address.name!r}"
    program = FIRST_COMMIT.format(store=store.name, driver=DRIVERS[store.name], arguments=arguments)
    return await _first_line(program)


async def _first_line(program: str) -> Sample:
    """Return the seconds from the start of a program to its first line, and what that says: CPU.

    Raises:
        RuntimeError: it failed.
    """
    start = perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, stdout=PIPE
    )
    if process.stdout is None:
        raise AssertionError
    line = await process.stdout.readline()
    seconds = perf_counter() - start
    if await process.wait():
        raise RuntimeError(f"a program failed: {program}")
    return Sample(seconds, float(line))
