"""The oldest server that the driver takes, and a server that is compatible."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstate import Clock
from flowstate.drivers.redis import RedisDriver
from flowstate.testcases import ALL, Capabilities, run
from tests.conftest import GIVEN_REDIS
from tests.redis_servers import VERSIONS, RedisServer

OTHERS = [version for version in VERSIONS if version != "8.2"]
CAPABILITIES = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)
SHORT = {
    "batch_is_judged_in_order",
    "counts_of_states",
    "claim_has_one_holder",
    "compacting_keeps_the_latest_revisions",
    "compaction_leaves_data_of_delays",
    "defect_10_removed_label_stays_removed",
    "delay_of_another_process_is_noticed",
    "forgets_of_a_batch",
    "forgotten_states_are_compacted",
    "heartbeat_of_another_revision",
    "idle_states_that_move_on",
    "one_state_with_every_filter",
    "superseded_delays_vanish",
    "timers_of_a_batch",
    "watch_below_the_floor",
}
FOLDER = Path(__file__).parent
FILES = (
    "clients",
    "damage",
    "due",
    "editions",
    "forgetting",
    "keys",
    "lost_replies",
    "one_state",
    "page",
    "rewound",
    "timers",
)


@pytest.fixture(scope="module", params=OTHERS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(version=request.param) as server:
        yield server


async def test_short_cases(server: RedisServer) -> None:
    cases = [case for case in ALL if case.name in SHORT]
    assert len(cases) == len(SHORT)
    for case in cases:
        namespace = secrets.token_hex(8)

        def make(_clock: Clock, namespace: str = namespace) -> RedisDriver:
            return RedisDriver(server.url(), namespace=namespace)

        await run(case, make, CAPABILITIES)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_tests_of_the_driver(server: RedisServer) -> None:
    files = [str(FOLDER / f"test_{name}.py") for name in FILES]
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "-q", "-x"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        env={**os.environ, GIVEN_REDIS: server.url()},
        cwd=FOLDER.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
