"""Work that needs a processor and no time of day, done by processes of a pool."""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flowstate.clock import Clock, SystemClock
from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testcases import Capabilities
from flowstate.testing.programs.programs import Failure, run_model, written
from flowstate.testing.simulation.schedules import Schedules, run_schedules
from tests.engines.generated.crashing import compare
from tests.soak.counters import count_up
from tests.soak.generations import come_and_go, measure_of
from tests.soak.stage import Outcome, Piece

__all__ = ["crunch"]

LENGTH = 500  # Operations of a program.
SHOWN_FIGURES = ("callbacks", "checked operations", "crash", "revisions", "takeovers")
MakeDriver = Callable[[Clock], Driver]


def crunch(piece: Piece, place: str) -> Outcome:
    """Do a piece of work.

    Args:
        piece: of work.
        place: the URL of a server, or a folder.
    """
    try:
        return KINDS[piece.stage.kind](piece, place)
    except Exception as error:  # noqa: BLE001 - the others go on; it is shown with its command
        return Outcome(0, [f"{type(error).__name__}: {error}\n    replay: {replay_of(piece)}"])


def replay_of(piece: Piece) -> str:
    """Return the command that does a piece again."""
    return (
        f"python -m tests.soak --only {piece.stage.name} --seed {piece.seed} "
        f"--amount {piece.amount}"
    )


def _schedules(piece: Piece, _place: str) -> Outcome:
    schedules = run_schedules(piece.seed, piece.amount)
    failures = [str(Schedules([each], Counter(), 0.0)) for each in schedules.failures]
    figures = Counter({name: schedules.counts[name] for name in SHOWN_FIGURES})
    return Outcome(piece.amount, failures, figures)


def _workflows(piece: Piece, _place: str) -> Outcome:
    outcome = Outcome(piece.amount)
    for seed in range(piece.seed, piece.seed + piece.amount):
        try:
            if compared := compare(seed):
                outcome.figures[compared.outcome] += 1
                outcome.figures["commits"] += len(compared.explored.points)
        except Exception as error:  # noqa: BLE001 - the others go on; it is shown with its command
            replay = replay_of(Piece(piece.stage, seed, 1))
            outcome.failures.append(f"{type(error).__name__}: {error}\n    replay: {replay}")
    return outcome


def _programs(piece: Piece, place: str) -> Outcome:
    store = piece.stage.store
    running = run_model(
        partial(_new_driver, store, place),
        _capabilities(store),
        steps=piece.amount,
        seed=piece.seed,
        length=LENGTH,
    )
    outcome = Outcome(piece.amount)
    try:
        outcome.figures["programs"] += asyncio.run(running)
    except Failure as failure:
        program = f"FLOWSTATE_TEST_PROGRAM='{written(failure.program)}'"
        command = f"{program} python -m pytest tests/test_model.py -k some-{store}"
        outcome.failures.append(f"{failure}\n    replay: {command}")
    return outcome


def _counters(piece: Piece, place: str) -> Outcome:
    driver = _new_driver(piece.stage.store, place)(SystemClock())
    asyncio.run(count_up(driver, piece.amount, piece.seed))
    return Outcome(piece.amount)


def _generations(piece: Piece, place: str) -> Outcome:
    store, name = piece.stage.store, _new_name()
    driver = _new_driver(store, place, name)(SystemClock())
    measure = measure_of(store, place, name)
    asyncio.run(come_and_go(driver, piece.amount, piece.seed, measure))
    return Outcome(piece.amount)


KINDS: dict[str, Callable[[Piece, str], Outcome]] = {
    "schedules": _schedules,
    "workflows": _workflows,
    "programs": _programs,
    "counters": _counters,
    "generations": _generations,
}


def _capabilities(store: str) -> Capabilities:
    is_server = store in {"postgres", "redis"}
    is_kept = store != "memory"
    return Capabilities(
        shared=is_kept, durable=is_kept, fake_clock=not is_server, any_loop=not is_server
    )


def _new_name() -> str:
    return f"soak_{secrets.token_hex(8)}"


def _new_driver(store: str, place: str, name: str | None = None) -> MakeDriver:
    """Return what opens a new, empty store. Whoever runs the servers removes it with them."""
    name = name or _new_name()
    match store:
        case "postgres":
            return lambda _: PostgresDriver(place, schema=name, pool_size=4)
        case "redis":
            return lambda _: RedisDriver(place, namespace=name)
        case "sqlite":
            path = Path(place) / f"{name}.db"
            return lambda clock: SQLiteDriver(path, clock=clock, synchronous="NORMAL")
        case _:
            return MemoryDriver
