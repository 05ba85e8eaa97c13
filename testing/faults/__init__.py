"""Faults of the real world for tests: dying processes, bad networks, full disks, wrong clocks."""

from flowstate.testing.faults.disk import SmallDisk
from flowstate.testing.faults.ports import free_port
from flowstate.testing.faults.proxy import Proxy
from flowstate.testing.faults.worker import Worker
from flowstate.testing.faults.wrong_clock import WrongClock

__all__ = ["Proxy", "SmallDisk", "Worker", "WrongClock", "free_port"]
