"""The flows that run instances on an engine."""

import contextlib
from functools import partial
from hashlib import sha256
from typing import Any

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    InvalidCommandError,
    InvalidInputError,
    Noop,
    RetryPolicy,
    RevisionMismatchError,
    StateContext,
    StateNotFoundError,
    Transit,
)
from flowstate.engines.kernel.control import CONTROL, ChildEnded
from flowstate.engines.kernel.ending import TELL
from flowstate.engines.kernel.errors import StoredError
from flowstate.engines.kernel.events import EVENT, run_event
from flowstate.engines.kernel.instance import ERROR, ORIGIN, WORKFLOW, Codes
from flowstate.engines.kernel.outside import end_topic
from flowstate.engines.kernel.starting import Origin, flow_of
from flowstate.engines.kernel.telling import latest, mark_of, tell, without_mark
from flowstate.engines.kernel.turn import Turn

__all__ = ["register"]

RACES = 64  # With those that begin to wait.
PATIENT = RetryPolicy(attempts=1_000_000, first=0.1, longest=60.0)


def register(flows: FlowRegistry, codes: Codes) -> None:
    """Let a registry run the instances of all workflows, in place of those that it ran so far."""
    for code in codes:
        if code.data is not None:
            flows.set(flow_of(code.name), partial(_turn, codes), replace=True, retry=PATIENT)
    flows.set(TELL, _tell, replace=True, retry=PATIENT)
    flows.set(EVENT, run_event, replace=True, retry=PATIENT)


async def _turn(codes: Codes, ctx: StateContext, engine: Engine) -> Command[Any]:
    return await Turn(ctx, engine, codes).run()


async def _tell(ctx: StateContext, engine: Engine) -> Command[Any]:
    """Tell those that wait for an instance that it has ended, and then end it."""
    if ORIGIN in ctx.current.values:
        await _tell_parent(ctx, engine, ctx.get(Origin, ORIGIN))
    found, home = mark_of(ctx.current.id), flow_of(ctx.current.labels[WORKFLOW])
    with contextlib.suppress(InvalidInputError):  # It is known here.
        engine.flows.declare(home)
    for _ in range(RACES):
        try:
            # It ends in its own flow, whether others have waited for it or not.
            await engine.do(Commit(Transit(ctx, home), End(ctx), *without_mark(found)))
        except RevisionMismatchError as error:
            if ctx.current.id in error.ids:
                raise
        else:
            return Noop()
        await tell(engine, end_topic(ctx.current.id))
        found = StateContext(await latest(engine, found.current.id))
    raise RevisionMismatchError([found.current.id])


async def _tell_parent(ctx: StateContext, engine: Engine, origin: Origin) -> None:
    error = ctx.get(StoredError, ERROR, default=None)
    key = sha256(ctx.effect_key.encode()).hexdigest()  # It may be longer than keys can be.
    told = ChildEnded(ctx.current.id, origin.thread, origin.passed, ctx.committed.rev, error)
    with contextlib.suppress(StateNotFoundError, InvalidCommandError):  # The parent has ended.
        await engine.signal(origin.parent, CONTROL, told, key=key)
