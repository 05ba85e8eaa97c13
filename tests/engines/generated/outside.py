"""What generated workflows act on: what a step gives depends on nothing but its arguments."""

import asyncio
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, ClassVar

from msgspec import Struct, field

from flowstate import RetryPolicy
from flowstate.engines.workflow import Cancelled, ChildFailed, StepFailed, Timeout, effect_key
from tests.engines.compiler import world

__all__ = ["Acts", "Item", "NAMES", "POLICY", "Note", "Paid", "Shared", "Source", "calls", "given"]

POLICY = RetryPolicy(attempts=4, first=1.0, jitter=False, never=(world.Alpha, KeyError))


class Item(Struct):
    n: int


class Paid(Struct):
    n: int


class Note(Struct):
    n: int


class Never(Struct):
    pass


class Shared(Struct):
    """The data of a workflow.

    Attributes:
        forks: threads that were begun.
        joined: those of them that have ended.
        sum: what they have added up.
        added: what updates have added up.
        told: it was, or is about to be, cancelled.
    """

    xs: list[int]
    n: int = 0
    fuel: int = 14
    log: list[str] = []
    forks: int = 0
    joined: int = 0
    sum: int = 0
    added: int = 0
    told: bool = False


class Source(Struct, frozen=True):
    """A workflow, and what its clients do.

    Attributes:
        seed: of all of it.
        text: its source, without the names that it takes for granted.
        messages: that are sent to it.
        adds: what its updates add.
    """

    seed: int
    text: str
    messages: list[Paid | Note] = field(default_factory=list)
    adds: list[int] = field(default_factory=list)


def calm(a: int) -> int:
    return (a * 5 + 1) % 7


class Acts:
    """Where compensations are noted; what they are is found in this module."""

    undone: ClassVar[dict[str, int]] = {}


async def undone(n: int) -> None:
    Acts.undone.setdefault(effect_key(), n)


async def hang() -> None:
    await asyncio.Event().wait()


def never(s: Shared) -> bool:
    return s.n == 10**9


def given(seed: int, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """Return what a step gives in the end, or raise what it always raises."""
    rng = Random(f"{seed} {call.__name__} {args}")
    if call is not calm and rng.random() < 0.12:
        raise rng.choice([world.Alpha, world.Beta, KeyError])(str(args))
    return call(*args)


def chain(error: BaseException | None) -> str:
    """Return an error with its causes. The error that was handled meanwhile is not stored."""
    if error is None:
        return ""
    args = () if isinstance(error, ChildFailed) else error.args  # They have the id of the child.
    return f"{type(error).__name__} {args} < {chain(error.__cause__)}"


def calls() -> Mapping[str, Callable[..., Any]]:
    """Return the steps by name."""
    steps = (world.number, world.numbers, world.pair, world.box, world.maybe, world.fact, calm)
    return {step.__name__: step for step in steps}


NAMES: Mapping[str, Any] = {
    each.__name__: each for each in (Cancelled, ChildFailed, Item, Never, Note, Paid, StepFailed)
}
NAMES = {
    **NAMES,
    "Data": Shared,
    "POLICY": POLICY,
    "Timeout": Timeout,
    "chain": chain,
    "hang": hang,
    "never": never,
}
