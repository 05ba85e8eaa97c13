"""Outside worlds, and flows that change them, for crashes to be explored."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Execute,
    FlowRegistry,
    State,
    StateContext,
    Transit,
    recovery,
)

__all__ = ["Keys", "Ledger", "charging", "done", "end", "fails", "only", "start", "without_key"]

L = TypeVar("L", bound="Ledger")


class Ledger:
    """An outside world: what was done to it, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, what: str) -> None:
        self.done.append(what)


class Keys(Ledger):
    """One that knows a key that it has seen."""

    def __call__(self, what: str) -> None:
        if what not in self.done:
            super().__call__(what)


def done(ledger: Ledger) -> list[str]:
    return ledger.done


async def start(engine: Engine, world: object) -> None:
    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "work")), Execute(ctx))


async def end(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


def only(**flows: Callable[..., object]) -> FlowRegistry:
    registry = FlowRegistry()
    for id, flow in flows.items():
        registry.set(id, flow)  # type: ignore[arg-type]
    return registry


def fails(pattern: str) -> "pytest.RaisesExc[AssertionError]":
    return pytest.raises(AssertionError, match=pattern)


def without_key(ledger: Ledger, key: str) -> None:
    ledger("charge")


def charging(effect: Callable[[L, str], None]) -> Callable[[L], FlowRegistry]:
    def make_flows(ledger: L) -> FlowRegistry:
        async def work(ctx: StateContext, engine: Engine) -> Command[None]:
            effect(ledger, recovery.idempotency_key(ctx))
            return Commit(Transit(ctx, "next"))

        return only(work=work, next=end)

    return make_flows
