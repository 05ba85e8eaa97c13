"""What certifies the driver."""

import tempfile
from functools import partial

from examples.lmdb_driver.driver import LmdbDriver
from flowstate.clock import Clock
from flowstate.testcases import Capabilities, MakeDriver

CAPABILITIES = Capabilities(shared=False, durable=True, fake_clock=True, any_loop=False)


def open_store(path: str, clock: Clock) -> LmdbDriver:
    return LmdbDriver(path, clock)


def make_store() -> MakeDriver:
    return partial(open_store, tempfile.mkdtemp(prefix="flowstate-lmdb-"))
