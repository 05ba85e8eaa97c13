"""``python -m benchmarks.peers.postgres``: workflows of three steps, here and elsewhere.

benchmarks/README.md says what it needs and how it measures.
"""

import argparse
import importlib
import json
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from importlib import metadata
from pathlib import Path
from statistics import median

import psycopg

from benchmarks.peers.restate import restate_server
from benchmarks.peers.workers import SYSTEMS
from benchmarks.postgres.database import Database

__all__ = ["main"]

ROOT = Path(__file__).parent.parent.parent
COLUMNS = ((1, 1), (1, 8), (1, 32), (4, 8))  # Processes, and concurrency in each.
MARKS = {"DBOS": 25.0, "absurd": 10.0, "Restate": None}
NEEDS = {
    "DBOS": ("dbos",),
    "absurd": ("absurd-sdk", "absurdctl"),
    "Restate": ("restate-sdk", "hypercorn", "httpx"),
}
TIME_LIMIT = 120

# For each column, workflows per second and milliseconds of CPU of the client for each.
Sample = list[tuple[float, float]]


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.postgres")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="at each concurrency")
    parser.add_argument("--restate", type=Path, help="the program restate-server")
    parser.add_argument("--json", type=Path, help="where to write the samples")
    arguments = parser.parse_args()
    systems = _found(arguments.restate)
    samples = _measure(systems, arguments.restate, arguments.rounds, arguments.seconds)
    _print_table(samples)
    for peer, mark in MARKS.items():
        _compare(samples, peer, mark)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(samples, indent=1))


def _found(restate: Path | None) -> list[str]:
    """Return the systems that are installed, and tell of those that are not."""
    systems = ["flowstate"]
    for peer, distributions in NEEDS.items():
        try:
            versions = [f"{name} {metadata.version(name)}" for name in distributions]
        except metadata.PackageNotFoundError as error:
            print(f"{peer}: not measured, {error}")
            continue
        if peer == "Restate" and restate is None:
            print(f"{peer}: not measured, no server named by --restate")
        else:
            print(f"{peer}: {', '.join(versions)}")
            systems += [system for system in SYSTEMS if system.startswith(peer)]
    return systems


def _measure(
    systems: list[str], restate: Path | None, rounds: int, seconds: float
) -> dict[str, list[Sample]]:
    """Let one system after the other work, each in processes of its own, in every round."""
    samples: dict[str, list[Sample]] = {system: [] for system in systems}
    with ExitStack() as stack:
        database = Database(stack)
        if any(system.startswith("absurd") for system in systems):
            _install_absurd(database.url("absurd"))
        for number in range(rounds):
            for system in systems:
                print(f"round {number + 1}/{rounds}: {system}", flush=True)
                peer = system.partition(",")[0]
                with (
                    restate_server(restate)
                    if peer == "Restate" and restate
                    else nullcontext(database.url(peer.lower()))
                ) as url:
                    samples[system].append(_sample(system, url, seconds))
    return samples


def _install_absurd(url: str) -> None:
    script = importlib.import_module("absurdctl").BUNDLED_SCHEMA_SQL
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(script)


def _sample(system: str, url: str, seconds: float) -> Sample:
    alone = [str(concurrency) for processes, concurrency in COLUMNS if processes == 1]
    sample = _run(system, url, seconds, alone, 1)
    for processes, concurrency in COLUMNS:
        if processes > 1:
            sample += _run(system, url, seconds, [str(concurrency)], processes)
    return sample


def _run(system: str, url: str, seconds: float, at: list[str], processes: int) -> Sample:
    """Run so many processes at once, and add up what they did."""
    command = [sys.executable, "-m", "benchmarks.peers.workers", system, url, str(seconds), *at]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    outputs = [process.communicate(timeout=TIME_LIMIT)[0] for process in running]
    if any(process.returncode for process in running):
        raise RuntimeError(f"{system} failed")
    each = [json.loads(output.splitlines()[-1]) for output in outputs]
    return [
        (sum(rate for rate, _ in column), median(cpu for _, cpu in column))
        for column in zip(*each, strict=True)
    ]


def _print_table(samples: dict[str, list[Sample]]) -> None:
    """Print the medians, what they went from and to, and the CPU."""
    heads = [f"{n} at once" if p == 1 else f"{p} x {n} at once" for p, n in COLUMNS]
    print(f"{'workflows per second':20}" + "".join(f"{head:>26}" for head in heads))
    for system, rounds in samples.items():
        cells = []
        for column in zip(*rounds, strict=True):
            rates = [rate for rate, _ in column]
            cells.append(f"{median(rates):,.0f} ({min(rates):,.0f} - {max(rates):,.0f})")
        print(f"{system:20}" + "".join(f"{cell:>26}" for cell in cells))
    for system, rounds in samples.items():
        columns = zip(*rounds, strict=True)
        cells = [f"{median(cpu for _, cpu in column):.2f} ms CPU" for column in columns]
        print(f"{system:20}" + "".join(f"{cell:>26}" for cell in cells))


def _compare(samples: dict[str, list[Sample]], peer: str, mark: float | None) -> None:
    """Print how many times as fast as the best of a peer's ways, round by round."""
    ways = [rounds for system, rounds in samples.items() if system.startswith(peer)]
    if not ways:
        return
    ratios: list[list[float]] = []
    for ours, *others in zip(samples["flowstate"], *ways, strict=True):
        best = [max(way[n][0] for way in others) for n in range(len(COLUMNS))]
        rates = [rate for rate, _ in ours]
        ratios.append([a / b for a, b in zip(rates, best, strict=True)])
        ratios[-1].append(max(rates) / max(best))
    cells = [f"{median(column):.1f}" for column in zip(*ratios, strict=True)]
    line = f"times {peer}'s best: {', '.join(cells[:-1])}; best by best {cells[-1]}"
    if mark is not None:
        verdict = "met" if float(cells[-1]) >= mark else "NOT MET"
        line += f", at least {mark:.0f}: {verdict}"
    print(line)


if __name__ == "__main__":
    main()
