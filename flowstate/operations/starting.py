"""Starts: a state that a commit sends to a flow is executed here, or else by another engine."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping

from flowstate.commands import Commit, Transit
from flowstate.context import StateContext, check_context
from flowstate.errors import (
    EngineOverloadedError,
    EngineStoppedError,
    FlowstateError,
    InvalidInputError,
    RevisionMismatchError,
)
from flowstate.ground.limits import check_id
from flowstate.ground.tasks import finished
from flowstate.planning.delays import again
from flowstate.runtime import Runtime

__all__ = ["commit_and_keep", "execute_somewhere", "start"]

logger = logging.getLogger("flowstate.engine")


async def start(
    runtime: Runtime,
    ctx: StateContext,
    to: str | None,
    annotations: Mapping[str, str],
    *,
    elsewhere: bool,
) -> None:
    """Do ``Engine.start``, which says what is promised."""
    step = _first_step(ctx, to, annotations)
    if elsewhere or not runtime.can_execute(step.to):
        await runtime.committer.commit(Commit(step, again(ctx, step.to)))
    else:
        await commit_and_keep(runtime, ctx, runtime.committer.commit(Commit(step)))
        await execute_somewhere(runtime, ctx)


def _first_step(ctx: StateContext, to: str | None, annotations: Mapping[str, str]) -> Transit:
    check_context(ctx)
    last = ctx.current.transition
    if to is not None:
        return Transit(ctx, check_id("to", to), annotations)
    if not last.to:
        raise InvalidInputError("to", "is needed: the state was never sent to a flow")
    if last is not ctx.committed.transition:  # Else they tell of another step.
        annotations = {**last.annotations, **annotations}
    return Transit(ctx, last.to, annotations)


async def commit_and_keep(runtime: Runtime, ctx: StateContext, commit: Awaitable[None]) -> None:
    """Do a commit after which a state is to be executed here; cancelled, pass the state on."""
    before = ctx.committed.rev
    try:
        await commit
    except asyncio.CancelledError:
        if ctx.committed.rev != before:
            await finished(_pass_on(runtime, ctx))
        raise


async def execute_somewhere(runtime: Runtime, ctx: StateContext) -> None:
    """Execute a committed state in the background; where that fails, let another engine do it."""
    try:
        await runtime.flow_loop.submit(ctx)
    except (EngineOverloadedError, EngineStoppedError):
        await _pass_on(runtime, ctx)
    except asyncio.CancelledError:
        await finished(_pass_on(runtime, ctx))
        raise


async def _pass_on(runtime: Runtime, ctx: StateContext) -> None:
    """Let another engine execute a state (best effort: else it is recovered later)."""
    try:
        await runtime.committer.delay(again(ctx, ctx.committed.transition.to))
    except RevisionMismatchError:
        pass  # It has moved on.
    except FlowstateError:
        id = ctx.committed.id
        logger.exception("%r is left to recovery", id, extra={"state_id": id})
