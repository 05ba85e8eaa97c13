"""Describes a task to the function that it calls."""

from typing import Any

import attrs
from msgspec import UNSET

from flowstate.engines.tasks.running.scope import Scope
from flowstate.engines.tasks.runtime import Call

__all__ = ["call_of"]


def call_of(scope: Scope) -> Call:
    """Return what a function is told about the innermost task."""
    level, scene = scope.position.levels[-1], scope.scene
    task = scene.look_up(scope.position, level.task)

    async def evaluate(value: Any, given: Any = UNSET) -> Any:
        with_secrets = attrs.evolve(scope, secrets=True)
        return await with_secrets.template(value, level.input if given is UNSET else given)

    return Call(
        key=f"{scene.instance}/{scope.position.key}",
        instance=scene.instance,
        document=scene.document,
        task=level.task,
        runtime=scene.runtime,
        input=level.input,
        written=task.get("with") or {},
        evaluate=evaluate,
        since=level.started_at,
        taken=(level.passes, next(iter(level.variables.values()), None)),
    )
