"""Starts: a state that a commit sends to a flow is executed here, or else by another engine."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from datetime import timedelta

from flowstate.commands import Commit, Delay, Transit
from flowstate.context import StateContext
from flowstate.errors import (
    EngineOverloadedError,
    EngineStoppedError,
    FlowstateError,
    InvalidInputError,
    RevisionMismatchError,
)
from flowstate.frozen import FrozenDict
from flowstate.recovery_rules import AGAIN
from flowstate.runtime import Runtime
from flowstate.tasks import finished

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
        await runtime.committer.commit(Commit(step, _again(ctx, step.to)))
    else:
        await commit_and_keep(runtime, ctx, runtime.committer.commit(Commit(step)))
        await execute_somewhere(runtime, ctx)


def _first_step(ctx: StateContext, to: str | None, annotations: Mapping[str, str]) -> Transit:
    if not isinstance(ctx, StateContext):
        raise InvalidInputError("ctx", f"must be a StateContext, not {type(ctx).__name__}")
    last = ctx.current.transition
    if to is not None:
        return Transit(ctx, to, annotations)
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
        await runtime.committer.delay(_again(ctx, ctx.committed.transition.to))
    except RevisionMismatchError:
        pass  # It has moved on.
    except FlowstateError:
        id = ctx.committed.id
        logger.exception("%r is left to recovery", id, extra={"state_id": id})


def _again(ctx: StateContext, to: str) -> Delay:
    """Return what lets an engine that has the flow go on with the step that a state is in."""
    annotations = FrozenDict({AGAIN: ""})
    return Delay(ctx, to, after=timedelta(0), commit=False, annotations=annotations)
