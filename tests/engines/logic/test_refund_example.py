"""The example of a refund: it ends one way or the other, wherever its process dies."""

import contextlib
from random import Random

import pytest

from flowstate import Engine, FlowRegistry
from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.logic import CloudEvent, Machines
from flowstate.testing import explore_crashes

pytestmark = [pytest.mark.repository, pytest.mark.slow]

example = pytest.importorskip("examples.refund_machine")
RECEIPT = {"receipt": "receipt for 995"}
ENDS = {
    "settled": ["995 cents are yours again", "give back 995"],
    "refused": ["give back 995", "sorry: bank.refused: closed"],
    "nothing": ["give back 995", "sorry: timeout: state 'ask' has taken too long"],
    "cancel": ["give back 995", "sorry: it was cancelled"],
    "busy": ["sorry: retries.exceeded: 5 attempts, the last one: bank.busy: try again"],
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("runs", [15, pytest.param(300, marks=pytest.mark.nightly)])
def test_a_refund_ends_wherever_its_process_dies(end: str, runs: int) -> None:
    def world() -> dict[str, str]:
        example.booked.clear()
        example.busy = 1_000_000 if end == "busy" else 2
        return example.booked  # type: ignore[no-any-return]

    def flows(_: dict[str, str]) -> FlowRegistry:
        registry = FlowRegistry()
        register(registry, Codes([example.refunds], rng=Random(0)))
        return registry

    async def run(engine: Engine, _: dict[str, str]) -> None:
        async with Machines(engine, [example.refunds], rng=Random(0)) as machines:
            await machines.start(example.refunds, "r", example.Refund(995))
            if end in {"settled", "refused"}:
                event = CloudEvent("1", "/bank", end, data={"why": "closed"}, extensions=RECEIPT)
                await machines.publish(event)
            elif end == "cancel":
                await machines.engine.wait_for("r", until=example.is_settled)
                await machines.cancel("r")
            with contextlib.suppress(InstanceCancelledError):
                await machines.result("r")

    seen = set[tuple[str, ...]]()

    def outside(booked: dict[str, str]) -> list[str]:
        seen.add(tuple(sorted(booked.values())))
        return sorted(booked.values())

    explore_crashes(
        world,
        flows,
        run,
        outside=outside,
        ignore=("at", "rev", "after", "data"),
        crashes=2,
        max_runs=runs,
    )
    assert seen == {tuple(ENDS[end])}
