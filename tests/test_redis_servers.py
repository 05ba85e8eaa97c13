"""The Redis servers of the tests do what the tests rely on."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.redis_servers import DURABLE, VERSIONS, GivenRedis, RedisServer

STARTED_BY_ANOTHER = """
import sys
from tests.redis_servers import RedisServer
server = RedisServer()
server.start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_has_its_version(version: str) -> None:
    with RedisServer(version=version) as server, server.client() as client:
        info = client.info("server")
    if version == "valkey":
        assert info["server_name"] == "valkey"
    else:
        assert str(info["redis_version"]).startswith(version)


def test_keeps_its_data_and_its_port() -> None:
    with RedisServer(DURABLE) as server:
        for number, end in enumerate((server.stop, server.kill, server.restart), 1):
            url = server.url()
            assert server.ask("INCR", "number") == number
            end()
            server.start()
            assert server.url() == url
        assert server.ask("GET", "number") == "3"


def test_keeps_nothing_by_default() -> None:
    with RedisServer() as server:
        server.ask("SET", "a", "b")
        server.restart()
        assert server.ask("DBSIZE") == 0


def test_leaves_nothing() -> None:
    with RedisServer() as server:
        folder = server.folder
        server.kill()
        server.kill()
        assert server.pid == 0

    assert not folder.exists()


def test_says_why_it_does_not_start() -> None:
    with (
        pytest.raises(RuntimeError, match="no_such_setting"),
        RedisServer({"no_such_setting": 1}) as server,
    ):
        pytest.fail(f"started: {server.log}")


def test_goes_with_tests_that_are_killed() -> None:
    command = [sys.executable, "-c", STARTED_BY_ANOTHER]
    with subprocess.Popen(command, stdin=-1, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        pid, folder = other.stdout.readline().split()
        server = os.pidfd_open(int(pid))
        os.kill(other.pid, signal.SIGKILL)

        assert select.select([server], [], [], 10)[0]
        os.close(server)
    give_up = time.monotonic() + 10
    while Path(folder).exists():
        assert time.monotonic() < give_up
        time.sleep(0.01)  # reason: a process that is not ours removes it


def test_given_server_is_left_as_it_is() -> None:
    assert GivenRedis("redis://db.example:6380/3").url() == "redis://db.example:6380/3"
