"""What is measured of flowstate; one idea in each module."""

from benchmarks.setting import Suite
from benchmarks.suites import (
    chains,
    commits,
    contention,
    counting,
    delays,
    footprint,
    growth,
    pages,
    policies,
    processes,
    pruning,
    recovery,
    signals,
    starting,
    startup,
    timers,
    values,
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
    values.workloads,
    policies.workloads,
    starting.workloads,
    startup.workloads,
    footprint.workloads,
    processes.workloads,
    growth.workloads,
    pages.workloads,
    delays.workloads,
    recovery.workloads,
    counting.workloads,
    timers.workloads,
    pruning.workloads,
)
