"""Before the job: a database file that holds it, and no other."""

from pathlib import Path

from examples.ingest.files import Selection
from examples.ingest.flows import JOB_ID, flows, job_annotations, selection_of
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
    said = f"New job in {database}."
    if database.exists():
        try:
            found = await _job_in(database)
        except (DriverError, StateNotFoundError) as error:
            raise ForeignFileError(f"{database} is not from this demo: {error}") from error
        if found is None:
            for suffix in FILE_SUFFIXES:
                database.with_name(database.name + suffix).unlink(missing_ok=True)
            said = f"{database} of a finished job is replaced."
        elif selection_of(found) == selection:
            return f"Going on with the unfinished job in {database}."
        else:
            raise ForeignFileError(f"{database} holds an unfinished job over another folder")
    async with Engine(SQLiteDriver(database), flows) as engine:
        job = State(JOB_ID, labels={"kind": "job"}, annotations=job_annotations(selection))
        await engine.do(Commit(Transit(StateContext(job), "list")))
    return said


async def _job_in(database: Path) -> State | None:
    """Return the job, or ``None`` when it is finished: when no state is active any more."""
    async with Engine(SQLiteDriver(database), flows) as engine:
        if not await engine.head():
            return None
        job = await engine.get_state(JOB_ID)
        async for _ in engine.states(latest_only=True, status=Status.ACTIVE):
            return job
    return None
