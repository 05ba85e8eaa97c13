"""One half of a pair: a process that measures one round of one workload whenever it is told to.

``python -m benchmarks.turns`` reads a ``Wanted`` as JSON and then commands, one a line, and answers
each with a line of JSON. It runs on the library that it finds first.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TextIO

import msgspec
from msgspec.structs import replace

from benchmarks.catalogue import chosen, suites
from benchmarks.rounds import Rounds
from benchmarks.runner import most_rounds
from benchmarks.session import Beginning, Wanted, made_setting
from benchmarks.workload import Workload

__all__ = ["main"]


class Turns:
    """Does what the lines say: ["servers", {...}], ["round", KEY] and ["record", PAIR]."""

    def __init__(self, stack: AsyncExitStack, wanted: Wanted) -> None:
        self._wanted = wanted
        self._setting = made_setting(stack, wanted.sizes)
        found = chosen(self._setting, suites(wanted.suites, peers=False), wanted.only)
        self._beginning = Beginning()
        self._rounds = {workload.key: self._prepared(workload) for workload in found}
        self._commands: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "servers": self._servers,
            "round": self._round,
            "record": self._record,
        }

    def workloads(self) -> list[tuple[str, str, int | None]]:
        """Return the key, the store, and the most rounds of each workload."""
        found = [rounds.workload for rounds in self._rounds.values()]
        return [(workload.key, workload.store, most_rounds(workload)) for workload in found]

    async def do(self, line: str) -> Any:
        """Do what a line says, and return what to answer."""
        name, argument = msgspec.json.decode(line)
        return await self._commands[name](argument)

    def _prepared(self, workload: Workload) -> Rounds:
        """Leave out what does not say how fast the machine is."""
        limits = tuple(side for side in workload.others if side.role == "limit")
        alone = replace(workload, others=limits)
        return Rounds(alone, self._wanted.seed, began=self._beginning.clock)

    async def _servers(self, urls: dict[str, str]) -> None:
        os.environ.update(urls)

    async def _round(self, key: str) -> bool:
        """Return whether there may be another round of it."""
        await self._rounds[key].measure()
        return not self._rounds[key].stopped

    async def _record(self, pair: str) -> Any:
        records = [rounds.record for rounds in self._rounds.values() if rounds.record.rounds]
        return self._beginning.record(self._setting, self._wanted, records, pair)


async def serve(lines: TextIO, answers: TextIO) -> None:
    """Answer until the lines end."""

    def answer(value: Any) -> None:
        answers.write(msgspec.json.encode(value).decode() + "\n")
        answers.flush()

    async with AsyncExitStack() as stack:
        turns = Turns(stack, msgspec.json.decode(lines.readline(), type=Wanted))
        answer(turns.workloads())
        while line := await asyncio.to_thread(lines.readline):
            answer(await turns.do(line))


def main() -> None:
    """Serve, and keep what workloads print out of the answers."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asyncio.run(serve(sys.stdin, answers))


if __name__ == "__main__":
    main()
