"""The ``schedule`` of a document: what starts its instances."""

from datetime import datetime
from typing import Any

import msgspec

from flowstate import RevisionMismatchError
from flowstate.engines.events.consuming import Strategy
from flowstate.engines.events.starting import Plan, Starting
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.starting import flow_of, new_instance
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.durations import seconds_of
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.code import TaskCode
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.running.listening import strategy_of
from flowstate.engines.tasks.running.position import Level, Position
from flowstate.engines.tasks.running.scope import Scene, Scope
from flowstate.engines.tasks.runtime import Runtime

__all__ = ["STARTER", "plan_of", "starting"]

STARTER = "tasks.starter"  # The name of the code.


async def plan_of(document: Document, runtime: Runtime) -> Plan | None:
    """Return when instances of a document start by themselves; ``None``: they never do.

    Raises:
        TaskError: ``expression``: a constant of an event's filter cannot be evaluated;
            ``configuration``: an interval of no length.
        ValueError: a duration is none.
    """
    schedule = document.content.get("schedule") or {}
    if "on" in schedule:
        return Plan(on=await _strategy(document, runtime, schedule["on"]))
    if "cron" in schedule:
        return Plan(cron=schedule["cron"])
    for name in ("every", "after"):
        if name in schedule:
            seconds = seconds_of(schedule[name])
            if name == "every" and not seconds:
                raise TaskError.of("configuration", "schedule.every must be longer than nothing")
            return msgspec.convert({name: seconds}, Plan)
    return None


async def _strategy(document: Document, runtime: Runtime, on: Any) -> Strategy:
    now = runtime.engine.clock.now()
    scene = Scene(runtime, document, "", TaskData(document.key, None, now))
    scope = Scope(scene, Position([Level("", now)]), None, has_input=False)
    return await strategy_of(on, scope, None)


def starting(runtime: Runtime, code: TaskCode) -> Starting:
    """Return the code of starters of documents; a target is the key of one."""

    async def start(target: str, id: str, given: Any, after: int | None) -> None:
        engine = current_step().engine
        data = TaskData(target, given or {}, engine.clock.now(), after=after)
        try:
            await engine.start(new_instance(code, id, data, {}), flow_of(code.name))
        except RevisionMismatchError:
            return  # It was started before.

    async def evaluate(program: str, value: Any) -> Any:
        with runtime.engine.clock.working():
            return await runtime.expressions.evaluate(program, value)

    def now() -> datetime:
        return runtime.engine.clock.now()

    return Starting(STARTER, code, start, evaluate, now)
