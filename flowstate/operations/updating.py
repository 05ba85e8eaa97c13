"""Updates: read a state, change it, commit it, and do it again when others were faster."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any

import attrs

from flowstate.commands import Command, Commit, GetState, Put
from flowstate.context import StateContext
from flowstate.errors import (
    CommitUnknownError,
    InvalidCommandError,
    InvalidInputError,
    RevisionMismatchError,
    StoreUnavailableError,
)
from flowstate.ground.limits import check_id
from flowstate.ground.options import check_count
from flowstate.ground.tasks import finished
from flowstate.runtime import Runtime
from flowstate.state import State
from flowstate.turns import Line, Place

__all__ = ["Change", "Changes", "update"]

Changes = Command[Any] | Sequence[Command[Any]] | None
"""What a change may return: commands to be committed together with the state."""

Change = Callable[[StateContext], Changes | Awaitable[Changes]]
"""Changes a context; plain or async."""

MAX_SHARED = 100  # Changes that go along with another one.


@attrs.define(eq=False)
class Request(Place):
    """The place in line of an update.

    Attributes:
        change: the one whose turn it is may do it as well.
        context: in which it is called then.
    """

    change: Change
    context: contextvars.Context = attrs.field(init=False, factory=contextvars.copy_context)


async def update(runtime: Runtime, id: str, change: Change, attempts: int) -> State:
    """Do ``Engine.update``, which says what is promised."""
    id = check_id("id", id)
    if not callable(change):
        raise InvalidInputError("change", f"must be a function, not {type(change).__name__}")
    check_count("attempts", attempts, 1)
    request = Request(change)
    async with runtime.turns.share(id, request) as line:
        if line is not None:
            return await _lead(runtime, line, id, change, attempts)
    state: State = request.told.result()
    return state


async def _lead(runtime: Runtime, line: Line, id: str, change: Change, attempts: int) -> State:
    """Change and commit until that wins the race."""
    lost, shares = 0, True
    while True:
        runtime.check_open()
        given, line.state = line.state, None
        ctx = StateContext(given or await _latest(runtime, line, id))
        committed = ctx.committed
        found = change(ctx)
        commands = () if found is None else await _commands(found)
        if getattr(ctx.committed, "id", None) != id:  # Others would go on from it.
            raise InvalidInputError("state.id", "cannot change; use ctx.fork")
        # A change that spoils what it was given must not decide where others go.
        is_shared = found is None and shares and ctx.committed is committed
        others = _take(line, ctx) if is_shared else []
        try:
            await _commit(runtime, line, ctx, commands, others)
        except RevisionMismatchError:
            lost += 1
            if lost == attempts:
                raise
        except InvalidInputError:
            if not others:
                raise
            shares = False  # Nothing tells which of them it was that made the state so.
            continue
        except StoreUnavailableError as error:
            line.fail(error)
            raise
        else:
            if ctx.committed.id == id:  # By an Unstack it becomes another state.
                line.state = ctx.committed
            return ctx.committed
        await runtime.backoff.pause(lost - (given is not None))


async def _latest(runtime: Runtime, line: Line, id: str) -> State:
    try:
        return await runtime.reader.get_state(GetState(id))
    except StoreUnavailableError as error:
        line.fail(error)
        raise


async def _commands(found: Any) -> Sequence[Command[Any]]:
    """Return the commands that a change has returned."""
    if hasattr(found, "__await__"):
        found = await found
    if isinstance(found, Commit):
        return found.commands
    if found is None or isinstance(found, Command):
        return () if found is None else (found,)
    if isinstance(found, list | tuple):
        return found
    raise InvalidCommandError("change", f"cannot return {type(found).__name__}")


def _take(line: Line, ctx: StateContext) -> list[Request]:
    """Do the changes of those who wait, as far as nothing but the state comes of them.

    What raises, is async or returns commands is done by its caller, when its turn comes.
    """
    taken: list[Request] = []
    for place in islice(line.waiting, MAX_SHARED):
        if not isinstance(place, Request) or not _is_done(place, ctx):
            break
        place.is_taken = True
        taken.append(place)
    return taken


def _is_done(request: Request, ctx: StateContext) -> bool:
    """Do a change, unless more than the state and data of the context would come of it."""
    try:
        twin = ctx.copy()
        found: Any = request.context.run(request.change, twin)
        if asyncio.iscoroutine(found):
            found.close()
        is_done = found is None and twin.committed is ctx.committed
        current, data = twin.current, dict(twin.data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - it is raised again where it is waited for
        return False
    if is_done:
        ctx.current, ctx.data = current, data
    return is_done


async def _commit(
    runtime: Runtime,
    line: Line,
    ctx: StateContext,
    commands: Sequence[Command[Any]],
    others: Sequence[Request],
) -> None:
    commit = runtime.committer.commit(Commit(*commands, Put(ctx, keep=True)))
    if others:
        # Others wait for the outcome, so no cancellation may leave it open.
        await finished(_commit_shared(commit, line, ctx, others))
    else:
        await commit


async def _commit_shared(
    commit: Awaitable[None], line: Line, ctx: StateContext, others: Sequence[Request]
) -> None:
    try:
        await commit
    except CommitUnknownError as error:
        for request in others:
            line.tell(request, CommitUnknownError(error.token))
        raise
    except BaseException:
        for request in others:
            line.give_back(request)
        raise
    for request in others:
        line.tell(request, ctx.committed)
