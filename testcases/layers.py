"""What a driver is put to: the conformance suite, random programs, recorded loads."""

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from flowstate.clock import SystemClock
from flowstate.testcases import THEMES
from flowstate.testcases.harness import Case, run
from flowstate.testcases.target import Target
from flowstate.testing.histories.checker import check
from flowstate.testing.histories.history import History, Invoked, Record, StateRead
from flowstate.testing.histories.load import run_load
from flowstate.testing.histories.processes import CannotMoveError, run_processes
from flowstate.testing.histories.recorder import read_store
from flowstate.testing.programs.programs import (
    OPERATIONS,
    Failure,
    Program,
    parse,
    replay_program,
    run_model,
    written,
)

__all__ = ["Amount", "Check", "LAYERS", "NotNeededError", "Theme", "replay", "themes"]

LAYERS = ("conformance", "model", "concurrency")
PROGRAM_LENGTH = 250
PROGRAM_LIMIT = 180.0  # Seconds; making a program short that fails takes up to sixty.
LOAD_LIMIT = 300.0
STILL = 10.0  # Seconds in which nothing comes of a load: then nothing will.
CANCELLED = 0.3
MOST_SHOWN = 5
MODEL = "G1 to G5, G8, G10: the store does as a model of it, whatever is done"
HERE, IN_PROCESSES = 2_000, 600


class NotNeededError(Exception):
    """A check cannot be made, for no fault of the driver."""


class Amount(Struct, frozen=True, kw_only=True):
    """How much chance there is.

    Attributes:
        steps: of all random programs together.
        operations: of each recorded load.
        seed: of the chance.
    """

    steps: int = 2_000
    operations: int = HERE
    seed: int = 1


class Check(Struct, frozen=True):
    """Something that a driver must pass.

    Attributes:
        name: of it.
        shows: what, beginning with the guarantee.
        needs: names of capabilities.
        run: does it on a new store; raises when the driver has failed.
        has_trace: whether the traceback of what it raises says more than the message.
    """

    name: str
    shows: str
    needs: tuple[str, ...]
    run: Callable[[Target], Awaitable[None]]
    has_trace: bool = False


class Theme(Struct, frozen=True):
    """Checks that belong together.

    Attributes:
        layer: one of ``LAYERS``.
        name: of it.
        checks: in their order.
        ends_at_failure: whether the others say nothing new once one has failed.
    """

    layer: str
    name: str
    checks: tuple[Check, ...]
    ends_at_failure: bool = False


def themes(amount: Amount) -> list[Theme]:
    """Return all there is."""
    conformance = [
        Theme("conformance", name, tuple(map(_conformance, cases)))
        for name, cases in THEMES.items()
    ]
    return [
        *conformance,
        Theme("model", "random programs", tuple(_programs(amount)), ends_at_failure=True),
        Theme("concurrency", "recorded loads", tuple(_loads(amount))),
        Theme("concurrency", "cancelled commits", tuple(_cancelled_loads(amount))),
    ]


def replay(program: str) -> Theme:
    """Return the replay of one program.

    Raises:
        ValueError: it is no program.
    """
    try:
        parsed = parse(program)
    except ValueError as error:
        raise ValueError(f"{program!r} is no program: {error}") from error
    strange = {operation for operation, _ in parsed} - OPERATIONS.keys()
    if strange or not parsed:
        raise ValueError(f"{program!r} is no program: there is no operation {sorted(strange)}")
    name, shows = "replayed_program", MODEL
    done = Check(name, shows, (), partial(_replayed, parsed), has_trace=True)
    return Theme("model", "random programs", (done,))


def _conformance(case: Case) -> Check:
    async def one(target: Target) -> None:
        await run(case, await target.store(), target.capabilities, target.hooks)

    return Check(case.name, case.guarantees, case.needs, one, has_trace=True)


def _programs(amount: Amount) -> Sequence[Check]:
    """Return random programs, each of them on a store of its own."""
    whole, rest = divmod(amount.steps, PROGRAM_LENGTH)
    lengths = [PROGRAM_LENGTH] * whole + [rest] * bool(rest)
    return [
        Check(
            f"random_program_{number}",
            MODEL,
            (),
            partial(_program, length, amount.seed * 1_000_000 + number),
        )
        for number, length in enumerate(lengths, 1)
    ]


async def _program(length: int, seed: int, target: Target) -> None:
    async with asyncio.timeout(PROGRAM_LIMIT):
        try:
            await run_model(
                target.store_now, target.capabilities, steps=length, seed=seed, length=length
            )
        except Failure as failure:
            raise AssertionError(
                f"{failure}\n\nto replay it, add: --program '{written(failure.program)}'"
            ) from failure


async def _replayed(program: Program, target: Target) -> None:
    async with asyncio.timeout(PROGRAM_LIMIT):
        await replay_program(await target.store(), target.capabilities, program)


def _loads(amount: Amount) -> Sequence[Check]:
    shows = "G1, G2, G4 to G8: what tasks were told fits together, and with the log"
    return [
        Check("tasks_on_one_driver", shows, (), partial(_load, amount, 1, 0.0)),
        Check("tasks_on_two_drivers", shows, ("shared",), partial(_load, amount, 2, 0.0)),
        Check("processes", f"{shows}, though one is killed", ("shared",), partial(_split, amount)),
    ]


def _cancelled_loads(amount: Amount) -> Sequence[Check]:
    shows = "G8, G9: what cancelled tasks were told fits together, and with the log"
    one, two = partial(_load, amount, 1, CANCELLED), partial(_load, amount, 2, CANCELLED)
    return [
        Check("cancelled_commits_on_one_driver", shows, (), one),
        Check("cancelled_commits_on_two_drivers", shows, ("shared",), two),
    ]


async def _load(amount: Amount, objects: int, cancelling: float, target: Target) -> None:
    """Run a load, and check what became of it, also if it has failed or stands still."""
    make_driver = await target.store()
    drivers = [make_driver(SystemClock()) for _ in range(objects)]
    records: list[Record] = []
    async with asyncio.timeout(LOAD_LIMIT), contextlib.AsyncExitStack() as opened:
        for driver in drivers:
            await opened.enter_async_context(driver)
        load = run_load(
            drivers,
            records.append,
            operations=amount.operations,
            seed=amount.seed,
            cancelling=cancelling,
        )
        error = await _error_of(load, records)
        history = History([*records, *await read_store(drivers[0], records)])
    _judge(history, error)


async def _error_of(load: Awaitable[None], records: Sequence[Record]) -> Exception | None:
    """Return what a load has raised; end it when it stands still."""
    running = asyncio.ensure_future(load)
    watching = asyncio.create_task(_still(records))
    try:
        await asyncio.wait([running, watching], return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            return TimeoutError(f"nothing has happened for {STILL} seconds")
        await running
    except Exception as error:  # noqa: BLE001 - what was recorded may say more about it
        return error
    finally:
        for task in (running, watching):
            task.cancel()
        await asyncio.wait([running, watching], timeout=STILL)
    return None


async def _still(records: Sequence[Record]) -> None:
    """Return when nothing new is recorded; pages alone may be a watch that runs in circles."""
    seen, before = 0, -1
    happened = 0
    while happened != before:
        before = happened
        await asyncio.sleep(STILL)
        fresh, seen = records[seen:], len(records)
        happened += sum(isinstance(record, Invoked | StateRead) for record in fresh)


async def _split(amount: Amount, target: Target) -> None:
    make_driver = await target.store()
    operations = min(amount.operations, IN_PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        try:
            history = await run_processes(
                make_driver, Path(folder), operations=operations, seed=amount.seed
            )
        except CannotMoveError as error:
            raise NotNeededError(f"what makes the drivers: {error}") from error
    _judge(history, None)


def _judge(history: History, error: Exception | None) -> None:
    """Raise what contradicts the guarantees, and what went wrong."""
    violations = check(history)
    lines = [str(violation) for violation in violations[:MOST_SHOWN]]
    if len(violations) > MOST_SHOWN:
        lines.append(f"and {len(violations) - MOST_SHOWN} more violations")
    if error is not None:
        lines.append(f"{type(error).__name__}: {error}")
        lines += [f"  {type(each).__name__}: {each}" for each in getattr(error, "exceptions", ())]
    if lines:
        raise AssertionError("\n".join(lines)) from error
