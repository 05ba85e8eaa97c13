"""What happens to a file: every flow ends in a commit, from which any process can go on.

The job itself is a state too. Its one flow lists the folder and makes a state for each file;
a file goes ``start`` → ``read`` → ``measure`` → ``finish`` and ends.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from msgspec import json

from examples.ingest.files import Selection, name_of, path_from
from examples.ingest.measure import Figures, SkippedError, measure, read
from flowstate import (
    Command,
    Commit,
    Data,
    End,
    Engine,
    FlowRegistry,
    State,
    StateContext,
    StoreData,
    Transit,
)

__all__ = ["FILES", "JOB", "JOB_ID", "flows", "job_annotations", "selection_of"]

JOB_ID = "/job"  # No file is called so: their ids are relative paths.
JOB = {"kind": "job"}
FILES = {"kind": "file"}
FILES_PER_COMMIT = 100

flows = FlowRegistry()


def job_annotations(selection: Selection) -> Mapping[str, str]:
    """Return what a job has to remember of its input; URIs, since paths need not be text."""
    return {
        "folder": selection.folder.as_uri(),
        "database": selection.database.as_uri(),
        "take": "library" if selection.library else "everything",
    }


def selection_of(job: State) -> Selection:
    """Return the input of a job."""
    noted = job.annotations
    folder, database = path_from(noted["folder"]), path_from(noted["database"])
    return Selection(folder, database, library=noted["take"] == "library")


@flows.flow("list")
async def list_files(ctx: StateContext, engine: Engine) -> Command[None]:
    """Make a state for every file. Killed half-way, it adds those that are still missing."""
    selection = selection_of(ctx.current)
    paths = await asyncio.to_thread(list, selection.paths())
    known = {state.id async for state in engine.states(labels=FILES, latest_only=True)}
    missing = [state for path in paths if (state := _file(path, selection)).id not in known]
    for first in range(0, len(missing), FILES_PER_COMMIT):
        chunk = missing[first : first + FILES_PER_COMMIT]
        await engine.do(Commit(*(Transit(StateContext(state), "start") for state in chunk)))
    ctx.set_annotation("files", str(len(known) + len(missing)))
    return Commit(End(ctx))


def _file(path: Path, selection: Selection) -> State:
    name = name_of(path, selection.folder)
    return State(name, labels={**FILES, "name": name}, annotations={"uri": path.as_uri()})


@flows.flow("start")
def start(ctx: StateContext, engine: Engine) -> Command[None]:
    """Tell the log that a worker works on the file from now on."""
    return Commit(Transit(ctx, "read"))


@flows.flow("read", blocking=True)
def read_file(ctx: StateContext, engine: Engine) -> Command[None]:
    """Store the content, so that what is measured later does not depend on the file any more.

    It waits for the disk, so it is registered as blocking and runs in a thread.
    """
    try:
        content = read(path_from(ctx.current.annotations["uri"]))
    except SkippedError as skipped:
        return _store(ctx, Figures(skipped.outcome))
    ctx.data["content"] = Data(content)
    return Commit(StoreData(ctx, "content"), Transit(ctx, "measure"))


@flows.flow("measure")
async def measure_file(ctx: StateContext, engine: Engine) -> Command[None]:
    """Measure the stored content: the same figures, however often this runs."""
    content = await engine.get_data(ctx, "content")
    suffix = path_from(ctx.current.annotations["uri"]).suffix
    return _store(ctx, await asyncio.to_thread(measure, content.blob, suffix))


def _store(ctx: StateContext, figures: Figures) -> Command[None]:
    ctx.data["figures"] = Data(json.encode(figures))
    ctx.set_label("outcome", figures.outcome)
    return Commit(StoreData(ctx, "figures"), Transit(ctx, "finish"))


@flows.flow("finish")
def finish(ctx: StateContext, engine: Engine) -> Command[None]:
    """End the state: nothing executes it any more."""
    return Commit(End(ctx))
