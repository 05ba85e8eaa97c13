"""Leaders are stopped, killed and sent away: never do two of them recover."""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from flowstate import Commit, Engine, FlowRegistry, State, StateContext, Transit
from flowstate.drivers.postgres import PostgresDriver
from flowstate.recovery import attempt, set_retry_after
from flowstate.recovery.lease import lease_id
from flowstate.recovery.recoverer import lease_name
from tests.recovery.candidate import POLL_INTERVAL
from tests.recovery.candidates import candidate
from tests.recovery.pulse import stood_still
from tests.servers import Postgres

Record = Callable[[str, object], None]

LEASE_ID = lease_id(lease_name("default"))
KILLS = 6
MORE_KILLS = 40
USUAL = 2.0  # Seconds that a lease lasts; none is lost to a machine that halts for half a second.
SHORT = 0.6
TOLERANCE = 0.5  # For processes that wait for a core.


async def stalled(engine: Engine, id: str) -> None:
    """Commit a state that no engine executes."""
    ctx = StateContext(State(id))
    set_retry_after(ctx, timedelta(milliseconds=100))
    engine.flows.declare("work")
    await engine.do(Commit(Transit(ctx, "work")))


async def test_a_stopped_leader_is_refused_when_it_goes_on(
    postgres: Postgres, postgres_schema: str
) -> None:
    url, schema = postgres.url(), postgres_schema
    async with (
        Engine(PostgresDriver(url, schema=schema), FlowRegistry()) as engine,
        candidate(url, schema, USUAL, "hold") as leader,
    ):
        await leader.said("leading")
        await stalled(engine, "job")
        await leader.said("committing")
        leader.stop()
        async with candidate(url, schema, USUAL) as other:
            assert await other.said("ran") == ["job", "1"]
            leader.tell()
            leader.go_on()
            ids = await leader.said("refused")
            await leader.finish()
            await other.finish()
        log = [state async for state in engine.states()]
    assert LEASE_ID in ids
    assert [attempt(state) for state in log if state.id == "job"] == [0, 1, 0]
    assert sum(state.id == LEASE_ID for state in log) == 3  # Taken, taken over, given back.


async def test_a_leader_that_goes_hands_over_at_once(
    postgres: Postgres, postgres_schema: str
) -> None:
    url, schema, lease = postgres.url(), postgres_schema, 60.0
    async with candidate(url, schema, lease) as leader:
        await leader.said("leading")
        async with candidate(url, schema, lease) as other:
            await other.said("ready")
            started = time.monotonic()
            await leader.finish()
            await other.said("leading")
            assert time.monotonic() - started < lease / 10
            await other.finish()


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kills", [KILLS, pytest.param(MORE_KILLS, marks=pytest.mark.nightly)])
async def test_a_killed_leader_is_replaced_within_its_lease(
    kills: int, postgres: Postgres, postgres_schema: str, record_testsuite_property: Record
) -> None:
    url, schema = postgres.url(), postgres_schema
    took: list[float] = []
    stood: list[float] = []
    async with contextlib.AsyncExitStack() as started:
        leader = await started.enter_async_context(candidate(url, schema, SHORT, "pulse"))
        await leader.said("leading")
        for _ in range(kills):
            other = await started.enter_async_context(candidate(url, schema, SHORT, "pulse"))
            await other.said("ready")
            await asyncio.sleep(random.uniform(0, SHORT / 3))  # At any time after a heartbeat.
            killed = time.monotonic()
            leader.kill()
            when, *moments = map(float, await other.said("leading"))
            # A lease ends by time that passes; none does while all processes stand still.
            stretches = list(zip(moments[::2], moments[1::2], strict=True))
            stood.append(stood_still(stretches, killed, when))
            took.append(when - killed - stood[-1])
            leader = other
        await leader.finish()
    took.sort()
    quartiles = [round(each, 3) for each in statistics.quantiles(took, n=4)]
    found = f"from {took[0]:.3f} s to {took[-1]:.3f} s, quartiles {quartiles}"
    found += f"; all stood still for {sum(stood):.3f} s, at most {max(stood):.3f} s at once"
    record_testsuite_property("takeover", found)
    assert took[-1] <= SHORT + POLL_INTERVAL + TOLERANCE, found
