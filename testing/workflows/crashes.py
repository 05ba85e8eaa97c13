"""Finds what a crash breaks in a workflow."""

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from random import Random
from typing import Any, TypeVar

from flowstate.engine import Engine
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.errors import InstanceCancelledError, InstanceFailedError
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.workflow.locks import register_locks
from flowstate.engines.workflow.workflows import Workflows
from flowstate.errors import InvalidCommandError
from flowstate.registry import FlowRegistry
from flowstate.testing.crashes.exploration import Exploration, explore_crashes

__all__ = ["ID", "explore_workflow"]

W = TypeVar("W")
ID = "it"
Client = Callable[[Workflows], Awaitable[object]]
ENDS = (InstanceFailedError, InstanceCancelledError)  # An end like any other: it is compared.


def explore_workflow(
    code: Code,
    data: Any,
    messages: Iterable[Any] | Client = (),
    *,
    make_world: Callable[[], W] = lambda: None,  # type: ignore[assignment,return-value] # no world
    codes: Iterable[Code] = (),
    crashes: int = 1,
    **options: Any,
) -> Exploration:
    """Let the process die before and after everything that an instance writes.

    However it ends, it must end so with every crash: with the same result or error, the same data,
    and the same ``outside``. It runs in memory and in virtual time.

    Args:
        code: the workflow.
        data: of the instance, whose id is ``it``.
        messages: that are sent to it as soon as it is started; or a client that is given the open
            ``Workflows`` when the instance is started, and whose calls are repeated after a crash.
        make_world: called before each run: makes, or makes empty, what the steps act on.
        codes: further workflows that take part.
        crashes: with 2, what recovers dies as well, everywhere; and so on.
        **options: ``outside``, ``invariants``, ``ignore``, ``until``, ``max_runs``, ``longest`` and
            ``seed`` of :func:`flowstate.testing.explore_crashes`.

    Raises:
        AssertionError: something comes out that should not, with or without a crash.
    """
    all_codes = [code, *codes]
    client = messages if callable(messages) else _sends([*messages])

    def make_flows(_: W) -> FlowRegistry:
        registry = FlowRegistry()
        register(registry, Codes(all_codes, rng=Random(0)))  # noqa: S311 - no secret
        register_locks(registry)
        return registry

    async def run(engine: Engine, _: W) -> None:
        async with Workflows(engine, all_codes, rng=Random(0)) as workflows:  # noqa: S311
            await workflows.start(code, ID, data)
            await client(workflows)
            with contextlib.suppress(*ENDS):
                await workflows.result(ID)

    return explore_crashes(make_world, make_flows, run, crashes=crashes, **options)


def _sends(messages: Sequence[Any]) -> Client:
    async def send(workflows: Workflows) -> None:
        for number, message in enumerate(messages):
            with contextlib.suppress(InvalidCommandError):  # It ended without this one.
                await workflows.send(ID, message, key=f"message {number}")

    return send
