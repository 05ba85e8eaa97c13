"""What the tests of servers share: short writes, whole logs, and a proxy before a server."""

import contextlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from flowstate import State, Transition
from flowstate.driver import Driver, StateQuery, Writes
from flowstate.testcases.support import encoded
from flowstate.testing.faults import Proxy

__all__ = ["commit_one", "put", "read_log", "through_proxy"]


def put(token: str, id: str, rev: int = 0) -> Writes:
    """Return writes that put one state at the revision that it expects."""
    return encoded(Writes(token, (State(id, rev, transition=Transition("next")),)))


async def commit_one(driver: Driver, writes: Writes) -> tuple[State, ...]:
    """Commit one, and raise what refuses it."""
    (verdict,) = await driver.commit([encoded(writes)])
    if not isinstance(verdict, tuple):
        raise verdict
    return verdict


async def read_log(driver: Driver) -> list[State]:
    """Return every revision."""
    page = await driver.get_states(StateQuery(limit=1_000))
    assert not page.more
    return list(page.states)


@contextlib.asynccontextmanager
async def through_proxy(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Start a proxy before a server; also return the URL that leads through it."""
    parts = urlsplit(url)
    assert parts.port is not None
    async with Proxy(parts.hostname or "", parts.port) as proxy:
        yield proxy, proxy.url(url)
