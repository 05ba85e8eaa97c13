"""Examples are loaded from their files and run as a service would, in virtual time."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from flowstate import Delayer, Engine, FakeClock, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.expressions.in_process import InProcessExpressions
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.service.tasks import Tasks
from flowstate.ground.frozen import EMPTY
from flowstate.testing import stands_at
from tests.engines.tasks.calls.serving import served

__all__ = ["EXAMPLES", "event", "example", "stands_at"]

EXAMPLES = Path(__file__).parents[4] / "examples" / "tasks"


@contextlib.asynccontextmanager
async def example(
    name: str,
    app: Any = None,
    *,
    hosts: tuple[str, ...] = (),
    autojump: bool = True,
    instead: Mapping[str, str] = EMPTY,
    **options: Any,
) -> AsyncIterator[Tasks]:
    """Open tasks with one example; an app stands in for the hosts that it calls.

    ``instead`` has texts that stand for others, such as shorter times.
    """
    clock = FakeClock(autojump=autojump)
    async with contextlib.AsyncExitStack() as stack:
        stand_ins: Mapping[str, str] = {}
        if app is not None:
            origin = await stack.enter_async_context(served(app))
            stand_ins = {f"https://{host}": origin for host in hosts}
        engine = Engine(MemoryDriver(clock), FlowRegistry(), clock=clock)
        await stack.enter_async_context(engine)
        await stack.enter_async_context(Delayer(engine))
        tasks = await stack.enter_async_context(
            Tasks(
                engine,
                expressions=InProcessExpressions(),
                outgoing=Outgoing(stand_ins=stand_ins),
                rng=Random(0),
                **options,
            )
        )
        text = (EXAMPLES / f"{name}.yaml").read_text()
        for old, new in instead.items():
            assert old in text
            text = text.replace(old, new)
        await tasks.add(text, file=f"{name}.yaml")
        yield tasks


def event(kind: str, subject: str = "", **data: Any) -> CloudEvent:
    return CloudEvent(f"{kind} {subject} {data}", "/tests", kind, subject=subject, data=data)
