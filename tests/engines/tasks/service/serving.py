"""The service as a process: started, killed, and started again."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Self

import httpx

__all__ = ["Served", "write"]

PATIENCE = 60.0


class Served:
    """A process that serves a folder.

    Args:
        folder: of documents.
        store: a URL.
        options: further words of the command line.

    Attributes:
        lines: what it has said so far.
        client: of its service.
    """

    def __init__(self, folder: Path, store: str, *options: str) -> None:
        self._words = ["serve", str(folder), "--store", store, "--port", "0", *options]
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flowstate.engines.tasks", *self._words],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        url = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if line.startswith("serving on "):
                url = line.split()[2].rstrip(",")
                break
        assert url, "".join(self.lines)
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()
        self.client = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False)
        return self

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the process, and return its exit status."""
        self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def __exit__(self, kind: object, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.end(signal.SIGKILL)
        self._reader.join(PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        if kind is not None:
            print("".join(self.lines))  # noqa: T201 - the test has failed

    def start(self, name: str, **fields: Any) -> str:
        """Start an instance, and return its id."""
        reply = self.client.post("/instances", json={"definition": name, **fields})
        reply.raise_for_status()
        id: str = reply.json()["id"]
        return id

    def result(self, id: str) -> Any:
        """Return the output of an instance, as soon as it has one."""
        while True:
            reply = self.client.get(f"/instances/{id}/result", params={"timeout": 10})
            reply.raise_for_status()
            if reply.status_code != httpx.codes.ACCEPTED:
                return reply.json()

    @contextlib.contextmanager
    def feed(self, since: str = "0", **query: str) -> Iterator[Iterator[tuple[str, str]]]:
        """Yield the events of the feed: each with its id, as of now, and its data."""
        headers = {"Last-Event-ID": since}
        with self.client.stream("GET", "/feed", headers=headers, params=query) as reply:
            reply.raise_for_status()
            yield _events(reply.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    id = ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            id = value
        elif name == "data":
            yield id, value


def write(folder: Path, texts: Sequence[str]) -> Path:
    """Write documents into a folder, and return it."""
    folder.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (folder / f"{number}.yaml").write_text(text)
    return folder
