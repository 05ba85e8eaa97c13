"""Lets live instances go on with another version of their document, where they fit it."""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from flowstate import InvalidInputError, StateContext, Status
from flowstate.engines.kernel.code import Frame, MisfitError
from flowstate.engines.kernel.fitting import misfit
from flowstate.engines.kernel.instance import OUTCOME, Codes, Instance
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.documents.migrating import Misfit, fits
from flowstate.engines.tasks.running.position import AT, Level, decode, encode
from flowstate.engines.tasks.service.definitions import DEFINITION_VERSION
from flowstate.engines.workflow.operating import Operators

__all__ = ["Migrated", "Migrating"]


class Migrated(Struct, frozen=True):
    """What a migration has done, or would do.

    Attributes:
        fit: how many instances go on with the other version.
        misfits: why others do not, by their ids; the first 1,000 of them.
    """

    fit: int
    misfits: Mapping[str, str]


class Migrating(Operators):
    """Repairs instances of documents."""

    async def migrate(
        self, id: str, old: Document, new: Document, *, plan: bool, by: str, why: str
    ) -> None:
        """Let an instance go on with another document, or only tell whether it could.

        Raises:
            StateNotFoundError: there is no such instance.
            MisfitError: it does not fit.
            InvalidInputError: it has ended, or is not of the old document.
            RevisionMismatchError: it moves too fast.
        """

        def change(ctx: StateContext) -> None:
            move(ctx, self.codes, old, new)

        if plan:
            change(StateContext(await self.engine.get_state(id)))
        else:
            await self._repair(id, "migrate", change, by, why)


def move(ctx: StateContext, codes: Codes, old: Document, new: Document) -> None:
    """Let a live instance go on with another document."""
    if OUTCOME in ctx.current.labels or ctx.current.status is Status.ENDED:
        raise InvalidInputError("id", "has ended")
    instance = Instance.of(ctx, codes)
    if instance.data.definition != old.key:
        raise InvalidInputError("id", f"is an instance of {instance.data.definition}")
    for thread in instance.threads.values():
        thread.frames = [_moved(frame, old, new) for frame in thread.frames]
    instance.data.definition = new.key
    instance.save(ctx)
    ctx.set_label(DEFINITION_VERSION, new.version)
    if why := misfit(ctx.current, codes):
        raise MisfitError(why)


def _moved(frame: Frame, old: Document, new: Document) -> Frame:
    position = decode(frame.names[AT])
    inner = [*position.levels[1:], None]
    levels = [
        _moved_level(level, below, old, new)
        for level, below in zip(position.levels, inner, strict=True)
    ]
    fetched = {_place(old, new, place): found for place, found in position.fetched.items()}
    at = encode(replace(position, levels=levels, fetched=fetched))
    return replace(frame, stop=_place(old, new, frame.stop), names={**frame.names, AT: at})


def _moved_level(level: Level, inner: Level | None, old: Document, new: Document) -> Level:
    """Return a level with the places that the other document has."""
    task = _place(old, new, level.task)
    if not level.list:
        return replace(level, task=task)
    place = _place(old, new, level.list)
    if inner is None:
        raise MisfitError(f"it stands between two tasks of {level.list}; try again")
    # Its index is ahead of the task that runs by as much as before.
    ahead = level.index - _index(inner.task, level.list)
    return replace(
        level, task=task, list=place, index=_index(_place(old, new, inner.task), place) + ahead
    )


def _index(task: str, tasks: str) -> int:
    return int(task.removeprefix(f"{tasks}/").partition("/")[0])


def _place(old: Document, new: Document, place: str) -> str:
    found = fits(old, new, place)
    if isinstance(found, Misfit):
        raise MisfitError(found.reason)
    return found
