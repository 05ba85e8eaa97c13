"""Wherever processes die, what is entered is left: locks are passed on, and errors are undone."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from random import Random

import attrs
import pytest

from flowstate import Engine, FlowRegistry, State
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.workflow import (
    WorkflowCancelled,
    WorkflowFailed,
    Workflows,
    compensating,
    effect_key,
    lock,
    rate_limit,
    step,
    wait,
    workflow,
)
from flowstate.engines.workflow.locks import register_locks
from flowstate.testing import explore_crashes
from tests.engines.workflow.orders import Approved, Order

pytestmark = pytest.mark.slow


@attrs.define
class Shop:
    """Acts once for each key; outlives the processes.

    Attributes:
        acts: by their keys.
        within: the instance that is in the critical section.
    """

    acts: dict[str, str] = attrs.Factory(dict)
    within: str = ""


shop = Shop()


async def act(what: str) -> None:
    await asyncio.sleep(0)
    shop.acts.setdefault(effect_key(), what)
    if what == "fail":
        raise ConnectionError


async def begin(id: str) -> None:
    await asyncio.sleep(0)
    assert shop.within in ("", id), "two hold the lock"
    shop.within = id


async def end(id: str) -> None:
    await asyncio.sleep(0)
    assert shop.within in ("", id), "two hold the lock"
    shop.within = ""


@workflow("locked")
async def locked(s: Order) -> str:
    async with lock("stock", timeout=600):
        await step(begin, s.by)
        await step(end, s.by)
    return s.by


@workflow("waiting")
async def waiting(s: Order) -> str:
    async with lock("stock"):
        await wait("approval", Approved)
    return s.by


@workflow("limited")
async def limited(s: Order) -> str:
    for item in s.cart:
        async with rate_limit("mails", 1, per=10):
            await step(act, item)
    return s.by


@workflow("saga")
async def saga(s: Order) -> str:
    async with compensating() as undo, lock("stock"):
        for item in s.cart:
            undo(act, f"undo {item}")
            await step(act, item)
        await wait("approval", Approved)
    return s.by


CODES = [locked, waiting, limited, saga]


def world() -> Shop:
    shop.__init__()  # type: ignore[misc]
    return shop


def flows(_: Shop) -> FlowRegistry:
    registry = FlowRegistry()
    register(registry, Codes(CODES, rng=Random(0)))
    register_locks(registry)
    return registry


async def ends(workflows: Workflows, *ids: str) -> None:
    for id in ids:
        with suppress(WorkflowCancelled, WorkflowFailed):
            await workflows.result(id)


async def contend(workflows: Workflows) -> None:
    await workflows.start(locked, "a", Order([], "a"))
    await workflows.start(locked, "b", Order([], "b"))
    await ends(workflows, "a", "b")


async def cancel_a_waiter(workflows: Workflows) -> None:
    await workflows.start(waiting, "a", Order([], "a"))
    await workflows.engine.wait_for("a", until=has_the_lock)
    await workflows.start(waiting, "b", Order([], "b"))
    await workflows.engine.wait_for("b", until=waits_or_is_over)
    await workflows.cancel("b")
    await ends(workflows, "b")
    await workflows.send("a", Approved("x"), key="k")
    await ends(workflows, "a")


async def cancel_the_holder(workflows: Workflows) -> None:
    await workflows.start(waiting, "a", Order([], "a"))
    await workflows.engine.wait_for("a", until=has_the_lock)
    await workflows.start(waiting, "b", Order([], "b"))
    await workflows.cancel("a", hard=True)
    await workflows.send("b", Approved("x"), key="k", early=True)
    await ends(workflows, "b")


def waits_or_is_over(state: State) -> bool:
    return state.labels.get("stop") == "turn" or "outcome" in state.labels


def has_the_lock(state: State) -> bool:
    return state.labels.get("stop") == "approval" or "outcome" in state.labels


async def limit(workflows: Workflows) -> None:
    await workflows.start(limited, "a", Order(["1", "2"], "a"))
    await ends(workflows, "a")


async def cancel_a_saga(workflows: Workflows) -> None:
    await workflows.start(saga, "a", Order(["1", "2"], "a"))
    await workflows.engine.wait_for("a", until=has_the_lock)
    await workflows.cancel("a")
    await ends(workflows, "a")


async def fail_a_saga(workflows: Workflows) -> None:
    await workflows.start(saga, "a", Order(["1", "fail"], "a"))
    await ends(workflows, "a")


@pytest.mark.parametrize(
    "use", [contend, cancel_a_waiter, cancel_the_holder, limit, cancel_a_saga, fail_a_saga]
)
def test_what_is_entered_is_left(use: Callable[[Workflows], Awaitable[None]]) -> None:
    async def run(engine: Engine, _: Shop) -> None:
        await use(Workflows(engine, CODES, rng=Random(0)))

    def until(states: Mapping[str, State]) -> bool:
        own = [each for id, each in states.items() if not id.startswith("flowstate.")]
        is_free = not any(id.startswith("flowstate.lock") for id in states)
        return bool(own) and is_free and all(each.status == "ended" for each in own)

    explore_crashes(
        world,
        flows,
        run,
        outside=lambda shop: (sorted(shop.acts.values()), shop.within),
        ignore=("threads",),  # Who is ended by force has the revision of its lock in it.
        until=until,
        crashes=2,
        max_runs=25,
    )
