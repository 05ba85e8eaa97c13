"""Expressions: one that is compiled already is evaluated in another process."""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import Sample, Side, Workload
from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.expressions.in_process import InProcessExpressions

__all__ = ["workloads"]

PROGRAM = ".cents * $rate"
VALUE = {"cents": 1_200, "to": "anna"}
VARIABLES = {"rate": 2}
MARK = 50e-6
ECHO = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as channel:
    while data := channel.recv(65_536):
        channel.send(data)
"""


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the only workload: no store takes part."""
    times = max(1_000, setting.sizes.memory_commits // 5)

    async def in_worker() -> Sample:
        async with Expressions(workers=1) as expressions:
            return await _evaluate(expressions, times)

    async def in_process() -> Sample:
        async with InProcessExpressions() as expressions:
            return await _evaluate(expressions, times)

    async def echoed() -> Sample:
        return await _echo(times)

    others = (
        Side("bare round trip over a socket pair", "limit", echoed),
        Side("in the same process, without limits", "small", in_process),
    )
    yield Workload("jq expression", "", "expression", in_worker, others, mark=MARK)


async def _evaluate(expressions: Expressions, times: int) -> Sample:
    return await _timed(lambda: expressions.evaluate(PROGRAM, VALUE, VARIABLES), times)


async def _timed(work: Callable[[], Awaitable[object]], times: int) -> Sample:
    await work()
    watch = Stopwatch()
    for _ in range(times):
        await work()
    return watch.sample(times)


async def _echo(times: int) -> Sample:
    """Send as much and get it back, in a loop that does nothing else."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            echo = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                "-c",
                ECHO,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
            )
        data = b"x" * 64

        async def back() -> None:
            ours.send(data)
            ours.recv(65_536)

        sample = await _timed(back, times)
    await echo.wait()
    return sample
