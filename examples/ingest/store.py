"""Before the job: a database file that holds it, and no other."""

from pathlib import Path

from examples.ingest.files import Selection
from examples.ingest.flows import JOB, JOB_ID, flows, job_annotations, selection_of
from flowstate import (
    Commit,
    DriverError,
    Engine,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Transit,
)
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["ForeignFileError", "prepare"]

FILE_SUFFIXES = ("", "-wal", "-shm", "-lock", "-turn")  # What the driver keeps beside the file.


class ForeignFileError(Exception):
    """The database file is something that the demo must not replace."""


async def prepare(selection: Selection) -> str:
    """Make sure that the database holds the job, begun or not; return a line that says how.

    Raises:
        ForeignFileError: the file is no store of this demo, or holds another job, unfinished.
    """
    database = selection.database
    if not database.exists():
        await _begin(selection)
        return f"New job in {database}."
    try:
        unfinished = await _unfinished_job(database)
    except (DriverError, StateNotFoundError) as error:
        raise ForeignFileError(f"{database} is not from this demo: {error}") from error
    if unfinished is None:
        for suffix in FILE_SUFFIXES:
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        await _begin(selection)
        return f"{database} of a finished job is replaced."
    if selection_of(unfinished) != selection:
        raise ForeignFileError(f"{database} holds an unfinished job over another folder")
    return f"Going on with the unfinished job in {database}."


async def _begin(selection: Selection) -> None:
    job = State(JOB_ID, labels=JOB, annotations=job_annotations(selection))
    async with Engine(SQLiteDriver(selection.database), flows) as engine:
        await engine.do(Commit(Transit(StateContext(job), "list")))


async def _unfinished_job(database: Path) -> State | None:
    """Return the job, unless it is finished: then no state is active any more."""
    async with Engine(SQLiteDriver(database), flows) as engine:
        if not await engine.head():
            return None
        job = await engine.get_state(JOB_ID)
        async for _ in engine.states(latest_only=True, status=Status.ACTIVE):
            return job
    return None
