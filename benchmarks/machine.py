"""What the figures depend on: the machine, how busy it was, and the versions of everything."""

import os
import platform
import re
import sqlite3
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import flowstate

__all__ = ["Load", "machine", "versions"]

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers" / "requirements.txt"
LIBRARIES = ("msgspec", "psycopg", "psycopg-pool", "redis")
KINDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


def machine(folder: Path) -> dict[str, Any]:
    """Describe this machine, and the disk that the folder is on."""
    return {
        "processor": _first(Path("/proc/cpuinfo"), r"model name\s*: (.*)") or platform.processor(),
        "cores": os.cpu_count(),
        "usable cores": _usable_cores(),
        "virtual": " hypervisor" in _read(Path("/proc/cpuinfo")),
        "memory": _memory(),
        "system": platform.platform(),
        "file system": _file_system(folder),
    }


def versions() -> dict[str, str]:
    """Return the versions of what takes part; what is not installed is not in it."""
    found = {
        "python": f"{platform.python_implementation()} {sys.version}",
        "flowstate": _flowstate(),
        "sqlite": sqlite3.sqlite_version,
    }
    for name in (*LIBRARIES, *_peers()):
        if version := _version(name):
            found[name] = version
    return found


class Load:
    """How busy the machine is, from when this is made."""

    def __init__(self) -> None:
        self._before = _load()
        self._times = _times()
        self._own = _own()

    def since(self) -> dict[str, Any]:
        """Return the load before and now, and what the cores did between, as shares of them all.

        "own" is what this process and its children did that have ended; servers go on, and are in
        "others". "steal" is what the host of a virtual machine gave to others.
        """
        gone = [after - before for before, after in zip(self._times, _times(), strict=True)]
        total = sum(gone)
        found: dict[str, Any] = {"load before": self._before, "load after": _load()}
        if total:
            shares = {kind: ticks / total for kind, ticks in zip(KINDS, gone, strict=True)}
            own = (_own() - self._own) * os.sysconf("SC_CLK_TCK") / total
            busy = 1 - shares["idle"] - shares["iowait"] - shares["steal"]
            found["own"] = round(own, 3)
            found["others"] = round(max(0.0, busy - own), 3)
            found |= {kind: round(shares[kind], 3) for kind in ("idle", "iowait", "steal")}
        return found


def _flowstate() -> str:
    """Return the version with the commit that is checked out, and whether that is changed."""
    folder = Path(str(flowstate.__file__)).resolve().parent.parent
    version = _version("flowstate-engine") or "not installed"
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not commit:
        return version
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{version} at {commit}{', changed' if changed else ''}"


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _peers() -> list[str]:
    return re.findall(r"^[\w-]+", _read(PEERS), re.MULTILINE)


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _memory() -> int:
    """Return how many bytes the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _file_system(folder: Path) -> str:
    """Return its type, by the longest mount point that the folder is under."""
    mounts = [line.split()[1:3] for line in _read(Path("/proc/mounts")).splitlines()]
    under = [(point, type_) for point, type_ in mounts if folder.resolve().is_relative_to(point)]
    return max(under, key=lambda mount: len(mount[0]))[1] if under else ""


def _load() -> list[float]:
    return [round(average, 2) for average in os.getloadavg()]


def _times() -> list[int]:
    """Return the ticks that all cores have spent so far, by kind; zeros if it is not known."""
    line = _first(Path("/proc/stat"), r"cpu +(.*)")
    return [int(ticks) for ticks in line.split()[: len(KINDS)]] if line else [0] * len(KINDS)


def _own() -> float:
    return sum(os.times()[:4])


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _first(path: Path, pattern: str) -> str:
    found = re.search(pattern, _read(path))
    return found.group(1).strip() if found else ""
