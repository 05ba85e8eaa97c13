"""The conformance suite notices what it is meant to notice: each planted bug is found."""

import asyncio

import pytest

from flowstate.drivers.memory import MemoryDriver
from flowstate.errors import FlowstateError
from flowstate.testcases import ALL, Capabilities, MakeDriver, run
from tests.broken import BROKEN, Base

CAPABILITIES = Capabilities(shared=False, durable=False, fake_clock=True, any_loop=True)
CASES = {case.name: case for case in ALL}
LIMIT = 20.0
HANGS = {"NoWakeup", "SilentTimers", "StuckLock"}  # Only the time limit ends a case on these.
PAIRS = [(driver, name) for driver, names in BROKEN.items() for name in names.split()]


async def run_alone(name: str, make_driver: MakeDriver, limit: float) -> None:
    """Run a case, and clear away what it has left running."""
    before = asyncio.all_tasks()
    # Cases that fail do not ask their tasks what has become of them.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    try:
        async with asyncio.timeout(limit):
            await run(CASES[name], make_driver, CAPABILITIES)
    finally:
        left = asyncio.all_tasks() - before
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.parametrize(
    ("driver", "name"), PAIRS, ids=[f"{driver.__name__}-{name}" for driver, name in PAIRS]
)
async def test_planted_bug_is_found(driver: type[Base], name: str) -> None:
    hangs = driver.__name__ in HANGS

    with pytest.raises(TimeoutError if hangs else (AssertionError, FlowstateError)):
        await run_alone(name, driver, 1.0 if hangs else LIMIT)


@pytest.mark.parametrize("name", sorted({name for _, name in PAIRS}))
async def test_cases_that_find_them_pass_without(name: str) -> None:
    await run_alone(name, MemoryDriver, LIMIT)
