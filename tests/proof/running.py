"""Looks for one bug in a process of its own, whatever the bug does to that."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tests.proof.bug import Bug, Trial
from tests.proof.child import Finding
from tests.proof.results import Attempt

__all__ = ["attempted"]

ROOT = Path(__file__).parent.parent.parent
GRACE_SECONDS = 120.0  # For the last thing that was begun in time, and for a busy machine.
ERROR_LINES = 3


async def attempted(bug: Bug, trial: Trial, environment: Mapping[str, str]) -> Attempt:
    """Look for a bug by one layer, in a process group that ends in time, whatever it does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.proof.child", bug.name, trial.layer),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    seconds = trial.seconds + trial.limit + GRACE_SECONDS
    try:
        async with asyncio.timeout(seconds):
            told, errors = await process.communicate()
    except TimeoutError:
        return Attempt(trial.layer, "", seconds, f"did not end within {seconds:.0f} seconds")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode:
        last = errors.decode(errors="replace").splitlines()[-ERROR_LINES:]
        return Attempt(trial.layer, "", 0.0, f"ended with {process.returncode}: {' '.join(last)}")
    found = msgspec.json.decode(told.splitlines()[-1], type=Finding)
    return Attempt(trial.layer, found.how, found.seconds)
