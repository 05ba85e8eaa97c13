"""What these tests do with a driver, and with the server's functions themselves."""

from typing import Any

from psycopg import AsyncConnection

from flowstate.driver import Driver, Liveness, Seen, StateQuery, Verdict, Writes
from flowstate.drivers.postgres.batch import encoded, register, verdicts_of
from flowstate.drivers.postgres.queries import Queries
from flowstate.ground.limits import MAX_REV
from flowstate.testcases.support import encoded as with_bodies

__all__ = ["changed_to", "commit", "commit_on", "head_of", "liveness_of"]


async def head_of(driver: Driver) -> int:
    """Return the highest revision."""
    return (await driver.get_states(StateQuery(after=MAX_REV, limit=1))).head


async def changed_to(driver: Driver, rev: int) -> Seen:
    """Wait for a revision as watches do; what they are told may come early."""
    seen = Seen()
    while seen.head < rev:
        seen = await driver.changed(seen)
    return seen


async def liveness_of(driver: Driver, id: str) -> Liveness:
    """Return what is known about a state that is there."""
    (found,) = await driver.get_liveness([id])
    assert found is not None
    return found


async def commit(driver: Driver, *batch: Writes) -> list[Verdict]:
    """Commit a batch; the stored forms are made here."""
    return list(await driver.commit([with_bodies(writes) for writes in batch]))


async def commit_on(connection: AsyncConnection[Any], schema: str, *batch: Writes) -> bool:
    """Let the server's function commit, in a transaction that may be open.

    Returns whether it says that some session listens.
    """
    writes = [with_bodies(each) for each in batch]
    parameters = encoded(writes, 5.0)
    cursor = connection.cursor()
    register(cursor)
    await cursor.execute(Queries(schema).commit_of(parameters), parameters)
    (answer,) = await cursor.fetchall()
    assert all(isinstance(verdict, tuple) for verdict in verdicts_of(writes, answer))
    return bool(answer[-1])
