"""Measures two checkouts in turns: the same workloads, round by round, each in its own process."""

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import msgspec
from rich.console import Console

from benchmarks.checkout import ROOT, link
from benchmarks.output import save_results, write_report
from benchmarks.records import Record
from benchmarks.runner import Budget, Pace
from benchmarks.session import Wanted, made_setting
from benchmarks.setting import GIVEN_POSTGRES, GIVEN_REDIS, Setting

__all__ = ["HalfError", "pair"]

OLD, NEW = "old", "new"
Listed = tuple[str, str, int | None]


class HalfError(Exception):
    """A process ended that should measure; what it said stands above."""


class Half:
    """A process that measures one checkout."""

    def __init__(self, name: str, checkout: Path, wanted: Wanted, folder: Path) -> None:
        self.name = name
        folder.mkdir()
        link(checkout, folder)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.turns"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._to, self._from = self._process.stdin, self._process.stdout
        self._tell(wanted)
        self.workloads: list[Listed] = msgspec.json.decode(self._heard(), type=list[Listed])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is not None:
            self._process.kill()
        self._process.communicate()
        if self._process.returncode and exc_info[0] is None:
            raise HalfError(f"the {self.name} half has failed at its end")

    def ask(self, *command: Any) -> str:
        """Return the answer to a command."""
        self._tell(command)
        return self._heard()

    def _tell(self, value: Any) -> None:
        try:
            print(msgspec.json.encode(value).decode(), file=self._to, flush=True)
        except BrokenPipeError as error:
            raise HalfError(f"the {self.name} half has ended") from error

    def _heard(self) -> str:
        line = self._from.readline() if self._from else ""
        if not line:
            raise HalfError(f"the {self.name} half has ended")
        return line


async def pair(other: Path, wanted: Wanted, output: Path) -> tuple[Record, Record]:
    """Measure the other checkout and this one; write both below ``output``, and return them.

    Raises:
        CheckoutError: there is no other one.
        HalfError: the workloads do not run on the library of one of them.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowstate-pair-")))
        setting = made_setting(stack, wanted.sizes)
        with ExitStack() as running:  # Its processes end before the servers that they use.
            halves = [
                running.enter_context(Half(name, checkout, wanted, folder / name))
                for name, checkout in ((OLD, other), (NEW, ROOT))
            ]
            old, new = _measured(halves, wanted, setting)
    for name, record in ((OLD, old), (NEW, new)):
        save_results(output / name, record)
        write_report(output / name, record)
    return old, new


def _measured(halves: Sequence[Half], wanted: Wanted, setting: Setting) -> tuple[Record, Record]:
    urls = _urls(setting, halves[0].workloads)
    for half in halves:
        half.ask("servers", urls)
    _measure(halves, wanted)
    name = secrets.token_hex(8)
    old, new = (msgspec.json.decode(half.ask("record", name), type=Record) for half in halves)
    return old, new


def _urls(setting: Setting, workloads: Sequence[Listed]) -> dict[str, str]:
    """Start the servers that are needed, which both halves share."""
    stores = {store for _, store, _ in workloads}
    urls = {}
    if "postgres" in stores:
        urls[GIVEN_POSTGRES] = setting.started_postgres()
    if "redis" in stores:
        urls[GIVEN_REDIS] = setting.redis_url()
    return urls


def _measure(halves: Sequence[Half], wanted: Wanted) -> None:
    """Let the halves take turns; the one that began a round is second in the next one."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    common = {key for key, _, _ in halves[1].workloads}
    listed = [workload for workload in halves[0].workloads if workload[0] in common]
    budget = Budget(perf_counter() + wanted.sizes.seconds, len(listed))
    for number, (key, _, most) in enumerate(listed, 1):
        pace = Pace(wanted.sizes, most, budget.share(perf_counter()))
        order = list(halves)
        rounds = 0
        while pace.goes_on(perf_counter()):
            answers = [msgspec.json.decode(half.ask("round", key)) for half in order]
            order.reverse()
            rounds += 1
            if not all(answers):
                break
        console.print(f"{number}/{len(listed)} {key}, rounds: {rounds}")
