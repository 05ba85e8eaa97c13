"""The flows that run instances on an engine."""

from functools import partial
from typing import Any

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    InvalidCommandError,
    RetryPolicy,
    StateContext,
    StateNotFoundError,
)
from flowstate.engines.kernel.control import CONTROL, ChildEnded
from flowstate.engines.kernel.ending import TELL
from flowstate.engines.kernel.errors import StoredError
from flowstate.engines.kernel.instance import ERROR, ORIGIN, Codes
from flowstate.engines.kernel.starting import Origin, flow_of
from flowstate.engines.kernel.turn import Turn

__all__ = ["register"]

PATIENT = RetryPolicy(attempts=1_000_000, first=0.1, longest=60.0)


def register(flows: FlowRegistry, codes: Codes) -> None:
    """Let a registry run the instances of all workflows, in place of those that it ran so far."""
    for code in codes:
        if code.data is not None:
            flows.set(flow_of(code.name), partial(_turn, codes, code.name), replace=True)
    flows.set(TELL, _tell, replace=True, retry=PATIENT)


async def _turn(codes: Codes, name: str, ctx: StateContext, engine: Engine) -> Command[Any]:
    return await Turn(ctx, engine, codes, name).run()


async def _tell(ctx: StateContext, engine: Engine) -> Command[Any]:
    """Tell the parent of a child that it has ended, once, and then end it."""
    id, origin = ctx.current.id, ctx.get(Origin, ORIGIN)
    error = ctx.get(StoredError, ERROR, default=None)
    told = ChildEnded(id, origin.thread, origin.passed, error)
    try:
        await engine.signal(origin.parent, CONTROL, told, key=ctx.effect_key)
    except StateNotFoundError:
        pass  # The parent is forgotten.
    except InvalidCommandError:
        pass  # The parent has ended.
    return Commit(End(ctx))
