"""The benchmarks run, and write what their README says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.redis_servers import RedisLike
from tests.servers import Postgres

pytestmark = [pytest.mark.repository, pytest.mark.slow, pytest.mark.timeout(240)]

ROOT = Path(__file__).parent.parent


def test_tiny_sizes_give_every_result(
    tmp_path: Path, postgres: Postgres, redis_server: RedisLike
) -> None:
    output = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks", "tiny", "--json", str(output)]
    environment = os.environ | {
        "FLOWSTATE_TEST_POSTGRES_URL": postgres.url(),
        "FLOWSTATE_TEST_REDIS_URL": redis_server.url(),
    }
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)

    content = json.loads(output.read_text())

    assert content["schema"] == 1
    assert len(content["results"]) == 42
    for result in content["results"]:
        assert set(result) == {"name", "unit", "ours", "limit", "ratio", "mark", "met"}
        assert result["ratio"] > 0
