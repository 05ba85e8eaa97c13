"""Libraries for state machines in memory: nothing is stored, and no other process sees a step."""

import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

from benchmarks.peers.work import Prepare, Works, looped

__all__ = ["automat", "python_statemachine", "transitions", "transitions_async"]

STEPS = [["go", "first", "second"], ["go", "second", "first"]]


def _called(step: Callable[[], Any]) -> Prepare:
    async def times(count: int) -> None:
        for _ in range(count):
            step()

    return looped(times)


@asynccontextmanager
async def transitions(place: str) -> AsyncIterator[Works]:
    """``Machine``, with a model whose method ``go`` is called."""
    library = importlib.import_module("transitions")
    model = type("Model", (), {})()
    library.Machine(model, states=["first", "second"], transitions=STEPS, initial="first")
    yield {"rate": _called(model.go)}


@asynccontextmanager
async def transitions_async(place: str) -> AsyncIterator[Works]:
    """``AsyncMachine``, whose ``go`` is awaited."""
    library = importlib.import_module("transitions.extensions.asyncio")
    model: Any = type("Model", (), {})()
    library.AsyncMachine(model, states=["first", "second"], transitions=STEPS, initial="first")

    async def times(count: int) -> None:
        for _ in range(count):
            await model.go()

    yield {"rate": looped(times)}


@asynccontextmanager
async def python_statemachine(place: str) -> AsyncIterator[Works]:
    """A class of the library with two states and an event between them."""
    library = importlib.import_module("statemachine")
    first, second = library.State(initial=True), library.State()
    members = {"first": first, "second": second, "go": first.to(second) | second.to(first)}
    machine = type(library.StateMachine)("Steps", (library.StateMachine,), members)
    yield {"rate": _called(machine().go)}


class Inputs(Protocol):
    """What a machine of Automat can be told."""

    def go(self) -> None:
        """Take a step."""


@asynccontextmanager
async def automat(place: str) -> AsyncIterator[Works]:
    """A machine made by ``TypeMachineBuilder``, of two states without data."""
    library = importlib.import_module("automat")
    builder = library.TypeMachineBuilder(Inputs, type("Core", (), {}))
    first, second = builder.state("first"), builder.state("second")
    first.upon(Inputs.go).to(second).returns(None)
    second.upon(Inputs.go).to(first).returns(None)
    yield {"rate": _called(builder.build()(object()).go)}
