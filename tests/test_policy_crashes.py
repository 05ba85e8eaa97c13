"""Wherever the process dies around a failure, all ends as without a crash."""

from datetime import timedelta

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    End,
    Engine,
    FlowRegistry,
    RetryPolicy,
    State,
    StateContext,
    Transit,
)
from flowstate.testing import explore_crashes

OFTEN = RetryPolicy(attempts=4, first=10.0)


class DeclinedError(Exception):
    """What the service says."""


class Service:
    """Charges each key once, after it has declined that so many times.

    It outlives the process, and answers by key.
    """

    def __init__(self) -> None:
        self.declines: dict[str, int] = {}
        self.charged: list[str] = []
        self.refunded: list[str] = []

    def charge(self, key: str, declines: int) -> None:
        if key in self.charged:
            return
        if (seen := self.declines.get(key, 0)) < declines:
            self.declines[key] = seen + 1
            raise DeclinedError(key)
        self.charged.append(key)

    def refund(self, key: str) -> None:
        if key not in self.refunded:
            self.refunded.append(key)


def outside(service: Service) -> object:
    """Count, since the keys hold revisions, of which a crash makes more."""
    return len(service.charged), len(service.refunded)


async def start(engine: Engine, _: Service) -> None:
    ctx = StateContext(State("order"))
    await engine.do(Commit(Transit(ctx, "reserve")))
    await engine.execute(ctx)


def shop(service: Service, declines: int) -> FlowRegistry:
    flows = FlowRegistry()

    @flows.flow
    async def reserve(ctx: StateContext, _: Engine) -> Command[None]:
        return Commit(Transit(ctx, "charge"))

    @flows.flow("charge", retry=OFTEN, on_failure="refund")
    async def charge(ctx: StateContext, _: Engine) -> Command[None]:
        service.charge(ctx.effect_key, declines)
        return Commit(Transit(ctx, "ship"))

    @flows.flow("refund", retry=OFTEN)
    async def refund(ctx: StateContext, _: Engine) -> Command[None]:
        service.refund(ctx.effect_key)
        return Commit(End(ctx, {"why": "refunded"}))

    @flows.flow
    async def ship(ctx: StateContext, _: Engine) -> Command[None]:
        return Commit(End(ctx, {"why": "shipped"}))

    return flows


@pytest.mark.parametrize("crashes", [1, 2])
@pytest.mark.parametrize("declines", [0, 2, 1_000])
def test_an_order_is_charged_once_or_refunded_once(declines: int, crashes: int) -> None:
    explored = explore_crashes(
        Service,
        lambda service: shop(service, declines),
        start,
        outside=outside,
        crashes=crashes,
        max_runs=100,
    )
    assert explored.diverged == 0


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_flow_of_a_claimed_delay_fails_once_and_goes_on(crashes: int) -> None:
    def make_flows(service: Service) -> FlowRegistry:
        flows = shop(service, 1)

        @flows.flow("later", retry=OFTEN)
        async def later(ctx: StateContext, _: Engine) -> Command[None]:
            service.charge(ctx.effect_key, 1)
            return Commit(End(ctx))

        return flows

    async def start_later(engine: Engine, _: Service) -> None:
        ctx = StateContext(State("order"))
        later = Delay(ctx, "later", timedelta(hours=1), commit=False)
        await engine.do(Commit(Transit(ctx, "reserve"), later))

    explored = explore_crashes(
        Service, make_flows, start_later, outside=outside, crashes=crashes, max_runs=100
    )
    assert explored.diverged == 0
