"""Random programs against a store and its model: run them, make failing ones short, replay them."""
# ruff: noqa: S311 - this chance is no secret

import time
from collections.abc import Callable, Sequence
from random import Random

from flowstate.testcases.harness import Capabilities, MakeDriver
from flowstate.testing.programs.batches import BATCHES
from flowstate.testing.programs.reads import READING, inspect
from flowstate.testing.programs.world import World
from flowstate.testing.programs.writes import IDS, WRITING

__all__ = [
    "Failure",
    "NewStore",
    "OPERATIONS",
    "Program",
    "parse",
    "random_program",
    "replay_program",
    "run_model",
    "written",
]

NewStore = Callable[[], MakeDriver]
"""Called for each program: makes what opens a new, empty store."""

Program = Sequence[tuple[str, int]]
"""Names of operations, each with the seed of its chance."""

OPERATIONS = WRITING | BATCHES | READING
NAMES = list(OPERATIONS)
WEIGHTS = [weight for weight, _ in OPERATIONS.values()]
LENGTH = 250
SHRINK_SECONDS = 60.0
SHOWN = 30
LONG_ID = max(IDS, key=len)


class Failure(AssertionError):  # noqa: N818 - it is no error of the program that raises it
    """A store did not do as its model.

    Attributes:
        program: a short program that shows it; see :func:`replay_program`.
    """

    def __init__(
        self, program: Program, seed: str, reason: BaseException, trace: list[str]
    ) -> None:
        steps = "\n".join(f"  {line}" for line in trace[-SHOWN:])
        what = f"{type(reason).__name__}: {reason}\n\nwhat was done at last:\n{steps}"
        super().__init__(
            f"{what.replace(LONG_ID, '<long id>')}\n\n"
            f"seed {seed}, made as short as this program:\n  {written(program)}"
        )
        self.program = program


def written(program: Program) -> str:
    """Return a program as text, for :func:`parse`."""
    return " ".join(f"{name}:{seed}" for name, seed in program)


def parse(text: str) -> Program:
    """Return the program that was written."""
    pairs = (step.rsplit(":", 1) for step in text.split())
    return [(name, int(seed)) for name, seed in pairs]


def random_program(seed: str, length: int) -> Program:
    """Return a program; the same one for the same seed."""
    rng = Random(seed)
    names = rng.choices(NAMES, WEIGHTS, k=length)
    return [(name, rng.getrandbits(32)) for name in names]


async def replay_program(
    make_driver: MakeDriver,
    capabilities: Capabilities,
    program: Program,
    trace: list[str] | None = None,
) -> None:
    """Do a program with an empty store and its model, and compare everything in the end.

    Raises:
        AssertionError: the store did not do as its model.
    """
    world = World(make_driver, capabilities)
    if trace is not None:
        world.trace = trace
    async with world:
        for name, seed in program:
            world.take_turn()
            await OPERATIONS[name][1](world, Random(seed))
        await inspect(world, Random(0))


async def run_model(
    new_store: NewStore, capabilities: Capabilities, *, steps: int, seed: int, length: int = LENGTH
) -> int:
    """Run random programs, each on a store of its own; return how many there were.

    Args:
        new_store: makes the stores.
        capabilities: of the stores.
        steps: how many operations in all.
        seed: of all chance; the same programs come for the same seed.
        length: how many operations a program has.

    Raises:
        Failure: a store did not do as its model.
    """
    count = -(-steps // length)
    for number in range(count):
        program = random_program(f"{seed}/{number}", min(length, steps - number * length))
        failure = await _failure(new_store, capabilities, program)
        if failure is not None:
            short = await _shortened(new_store, capabilities, program)
            trace: list[str] = []
            reason = await _failure(new_store, capabilities, short, trace) or failure
            raise Failure(short, f"{seed}/{number}", reason, trace) from reason
    return count


async def _failure(
    new_store: NewStore,
    capabilities: Capabilities,
    program: Program,
    trace: list[str] | None = None,
) -> Exception | None:
    try:
        await replay_program(new_store(), capabilities, program, trace)
    except Exception as error:  # noqa: BLE001 - whatever it is, it should not have come
        return error
    return None


async def _shortened(new_store: NewStore, capabilities: Capabilities, program: Program) -> Program:
    """Leave operations out, first many at once, as long as the program still fails."""
    end = time.monotonic() + SHRINK_SECONDS
    size = len(program) // 2
    while size and time.monotonic() < end:
        start = 0
        while start < len(program) and time.monotonic() < end:
            shorter = [*program[:start], *program[start + size :]]
            if await _failure(new_store, capabilities, shorter):
                program = shorter
            else:
                start += size
        size //= 2
    return program
