"""The tutorial tells the truth: what it says is done, and what it shows is printed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flowstate.testing.faults.ports import free_port

pytestmark = [pytest.mark.repository, pytest.mark.slow]

PAGE = Path(__file__).parents[4] / "docs" / "engines" / "tasks" / "tutorial.md"
BLOCK = re.compile(r"<!-- (\w+)(?: (\S+))? -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TIME, REV = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), re.compile(r'"rev": \d+')


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    port, servers, printed = free_port(), list[subprocess.Popen[str]](), ""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    blocks = BLOCK.findall(PAGE.read_text())
    assert len(blocks) > 10
    try:
        for kind, name, code in blocks:
            text = code.replace("8080", str(port))
            if kind == "file":
                (tmp_path / name).parent.mkdir(exist_ok=True)
                (tmp_path / name).write_text(code)
            elif kind == "serve":
                words = [*text.split(), "--port", str(port)]
                server = subprocess.Popen(
                    words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
                )
                servers.append(server)
                assert server.stderr is not None
                assert any(line.startswith("serving on") for line in server.stderr)
            elif kind == "kill":
                servers[-1].send_signal(signal.SIGKILL)
                servers[-1].wait(60)
            elif kind == "shell":
                done = subprocess.run(
                    ["/bin/sh", "-ec", text],
                    cwd=tmp_path,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                assert done.returncode == 0, done.stderr
                printed = done.stdout
            else:
                assert kind == "shows"
                assert shown(printed) == shown(code), printed
    finally:
        for server in servers:
            server.kill()
            server.wait(60)
            assert server.stderr is not None
            server.stderr.close()


def shown(text: str) -> str:
    """Return a text without what differs from time to time."""
    return REV.sub('"rev": 1', TIME.sub("now", text)).rstrip("\n")
