"""What certifies the driver."""

import tempfile
from functools import partial

from examples.lmdb_driver.driver import LmdbDriver
from flowstate.testcases import Capabilities, MakeDriver

CAPABILITIES = Capabilities(shared=False, durable=True, fake_clock=True, any_loop=False)


def make_store() -> MakeDriver:
    return partial(LmdbDriver, tempfile.mkdtemp(prefix="flowstate-lmdb-"))
