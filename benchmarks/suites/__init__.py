"""What is measured of flowstate; one idea in each module."""

from benchmarks.setting import Suite
from benchmarks.suites import (
    chains,
    commits,
    contention,
    delays,
    footprint,
    growth,
    pages,
    processes,
    recovery,
    signals,
    startup,
    waiting,
    watching,
)

__all__ = ["SUITES"]

SUITES: tuple[Suite, ...] = (
    commits.workloads,
    chains.workloads,
    contention.workloads,
    watching.workloads,
    signals.workloads,
    waiting.workloads,
    startup.workloads,
    footprint.workloads,
    processes.workloads,
    growth.workloads,
    pages.workloads,
    delays.workloads,
    recovery.workloads,
)
