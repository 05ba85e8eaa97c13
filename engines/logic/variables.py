"""Variables that outlive a step: of an instance, of all of its machine, of a namespace."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from flowstate import (
    Commit,
    Engine,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
)
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.instance import DATA, WORKFLOW
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.logic.problems import Problem
from flowstate.engines.logic.stored import Held, Ran

__all__ = ["NAMESPACE", "Scope", "Variables", "changed_here", "get_variables", "set_variables"]

NAMESPACE = "namespace"  # The label of instances of a machine that has one.
VALUES, DONE = "values", "done"
MOST_DONE = 1_000  # Changes that are known to be done.
RACES = 64

Scope = Literal["instance", "machine", "namespace"]
"""Whose variables: those of the instance go when it does."""


class Variables(Struct, frozen=True):
    """Variables of a scope.

    Attributes:
        values: by name.
        revision: that they have; 0: there are none yet.
    """

    values: dict[str, Any]
    revision: int = 0


async def get_variables(scope: Scope, *names: str) -> Variables:
    """Return variables of a scope; without names all. To be run: ``Run(get_variables, ...)``."""
    step = current_step()
    own = await step.engine.get_state(step.instance)
    if scope == "instance":
        held = own.get(Held[Any], DATA)
        return Variables(_some(held.variables, names))
    state = await _latest(step.engine, _id(scope, own))
    return Variables(_some(state.get(dict[str, Any], VALUES, default={}), names), state.rev)


async def set_variables(
    scope: Scope, values: Mapping[str, Any], revision: int | None = None
) -> int:
    """Change variables of a scope, once for each step; ``None`` deletes one. To be run.

    Args:
        scope: whose variables.
        values: by name; the others stay as they are.
        revision: that they must have, so that nothing is lost that others have changed.

    Returns:
        The revision that has the change, for the next one; 0 for an instance.

    Raises:
        Problem: ``variables.changed``: they have another revision by now.
    """
    step = current_step()
    if scope == "instance":
        return 0  # The machine changes it, together with its next place.
    id = _id(scope, await step.engine.get_state(step.instance))
    for _ in range(RACES):
        ctx = StateContext(await _latest(step.engine, id))
        done = ctx.get(list[str], DONE, default=[])
        if step.key in done:
            return ctx.committed.rev
        if revision is not None and revision != ctx.committed.rev:
            raise Problem("variables.changed", f"{id!r} has revision {ctx.committed.rev}")
        ctx.put(_changed(ctx.get(dict[str, Any], VALUES, default={}), values), VALUES)
        ctx.put([*done, step.key][-MOST_DONE:], DONE)
        try:
            await step.engine.do(Commit(Pause(ctx)))
        except RevisionMismatchError:
            continue
        return ctx.committed.rev
    raise RevisionMismatchError([id])


SET = f"{set_variables.__module__}.{set_variables.__qualname__}"


def changed_here(data: Held[Any], ran: Ran) -> None:
    """Change variables of the instance itself, if that is what has run."""
    if ran.what == SET and decoded(str, ran.args[0]) == "instance":
        raw = ran.args[1] if len(ran.args) > 1 else ran.kwargs["values"]
        data.variables = _changed(data.variables, msgspec.json.decode(raw))


def _changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in {**values, **changes}.items() if each is not None}


def _some(values: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: values.get(key) for key in names or values}


def _id(scope: Scope, own: State) -> str:
    name = own.labels[WORKFLOW] if scope == "machine" else own.labels.get(NAMESPACE, "")
    return f"flowstate.variables.{scope}.{name}"


async def _latest(engine: Engine, id: str) -> State:
    try:
        return await engine.get_state(id)
    except StateNotFoundError:
        return State(id)
