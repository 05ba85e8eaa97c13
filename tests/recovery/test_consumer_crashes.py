"""Wherever the process dies around a consumer or a retention, all ends as without a crash."""

import random
from collections import Counter
from contextlib import suppress
from datetime import timedelta

import pytest

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    Noop,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Transit,
)
from flowstate.recovery import Consumer, Retention
from flowstate.testing import explore_crashes
from flowstate.testing.crashes.outcome import Outcome

ORDER = {"kind": "order"}
ORDERS = ("a", "b", "c")
LEASE = 15.0
SAVE_EVERY = 5.0


class World:
    """What happens outside of the store."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def keys(self) -> set[str]:
        return {*self.called}


def no_flows(_: World) -> FlowRegistry:
    flows = FlowRegistry()
    flows.set("ship", lambda ctx, _: Commit(End(ctx)))
    return flows


async def place_orders(engine: Engine) -> None:
    for id in ORDERS:
        with suppress(StateNotFoundError):
            await engine.get_state(id)
            continue
        await engine.do(Commit(Pause(StateContext(State(id, labels=ORDER)))))


async def consume(engine: Engine, consumer: Consumer) -> None:
    async with consumer:
        await place_orders(engine)
        while not consumer.is_consuming or await consumer.lag():
            await engine.clock.sleep(1.0)
        await engine.clock.sleep(2 * SAVE_EVERY)  # And the place is stored.


def consumer_of(engine: Engine, handle: object) -> Consumer:
    return Consumer(
        engine,
        "orders",
        handle,  # type: ignore[arg-type]
        labels=ORDER,
        save_every=SAVE_EVERY,
        lease=LEASE,
        rng=random.Random(0),
    )


async def copy_orders(engine: Engine, world: World) -> None:
    """Make a shipment of each order, and count them in one state."""

    async def handle(state: State) -> list[Command[None]]:
        world.called.append(state.id)
        total = StateContext(State("total"))
        with suppress(StateNotFoundError):
            total = StateContext(await engine.get_state("total"))
        total.put(total.get(int, default=0) + 1)
        return [Transit(StateContext(State(f"shipment {state.id}")), "ship"), Pause(total)]

    await consume(engine, consumer_of(engine, handle))


def each_is_counted_once(outcome: Outcome[World]) -> None:
    assert outcome.states["total"].get(int) == len(ORDERS)
    made = Counter(state.id for state in outcome.log if state.id == "total")
    assert made["total"] == len(ORDERS)


@pytest.mark.parametrize("crashes", [1, 2])
def test_what_a_consumer_commits_happens_once(crashes: int) -> None:
    explored = explore_crashes(
        World,
        no_flows,
        copy_orders,
        outside=World.keys,
        invariants=[each_is_counted_once],
        crashes=crashes,
        max_runs=150,
    )
    assert explored.diverged == 0


async def call_for_orders(engine: Engine, world: World) -> None:
    """Tell another service about each order, which knows it by its revision."""

    async def handle(state: State) -> None:
        world.called.append(f"{state.id}:{state.rev}")
        await engine.clock.sleep(1.0)

    await consume(engine, consumer_of(engine, handle))


def nothing_is_left_out_or_out_of_order(outcome: Outcome[World]) -> None:
    first = [*dict.fromkeys(call.partition(":")[0] for call in outcome.world.called)]
    assert first == [*ORDERS]


@pytest.mark.parametrize("crashes", [1, 2])
def test_what_a_consumer_only_calls_happens_at_least_once(crashes: int) -> None:
    explored = explore_crashes(
        World,
        no_flows,
        call_for_orders,
        invariants=[nothing_is_left_out_or_out_of_order],
        crashes=crashes,
        max_runs=150,
    )
    assert explored.diverged == 0


async def come_and_go(engine: Engine, _: World) -> None:
    """Let orders end and be forgotten; what is active stays."""
    with suppress(RevisionMismatchError):  # It has been done.
        orders = [End(StateContext(State(id))) for id in ORDERS]
        await engine.do(Commit(Transit(StateContext(State("active")), "wait"), *orders))
    await engine.clock.sleep(1.0)
    retention = Retention(
        engine,
        timedelta(0),
        history=timedelta(0),
        every=1.0,
        batch=1,
        lease=LEASE,
        rng=random.Random(0),
    )
    async with retention:
        await passes(engine, retention)
        with suppress(RevisionMismatchError):  # A later revision than those of what is forgotten.
            await engine.do(Commit(Transit(StateContext(State("last")), "wait")))
        await passes(engine, retention)


async def passes(engine: Engine, retention: Retention) -> None:
    wanted = retention.stats().passes + 2
    while retention.stats().passes < wanted:
        await engine.clock.sleep(1.0)


def waiting(_: World) -> FlowRegistry:
    flows = FlowRegistry()
    flows.set("wait", lambda *_: Noop())
    return flows


def orders_are_gone(outcome: Outcome[World]) -> None:
    assert {state.id for state in outcome.log} == {"active", "last"}


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_retention_forgets_in_the_end(crashes: int) -> None:
    explored = explore_crashes(
        World,
        waiting,
        come_and_go,
        invariants=[orders_are_gone],
        until=lambda states: "last" in states,
        crashes=crashes,
        max_runs=150,
    )
    assert explored.diverged == 0
    assert len(explored.points) > len(ORDERS) + 1  # A commit for each of them.
