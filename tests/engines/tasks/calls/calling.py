"""Calls of one function, without an interpreter around it."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import attrs

from flowstate import Clock, Engine, FlowRegistry, SystemClock
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call, Function, Runtime

__all__ = ["Caller", "caller", "document_of"]


class NoDocuments:
    def get(self, key: str) -> Document | None:  # noqa: ARG002 - as of Documents
        return None

    async def load(self, key: str) -> Document:
        raise TaskError.of("configuration", f"no document {key}")


def document_of(content: Mapping[str, Any] | None = None) -> Document:
    """A document in which nothing but what is given can be looked up."""
    inner = content or {}
    return Document(
        kind="workflow",
        namespace="tests",
        name="calls",
        version="1.0.0",
        content=inner,
        source=inner,
        text="",
        lines={},
    )


@attrs.frozen
class Caller:
    """Calls functions as a task would."""

    call: Call

    async def __call__(self, function: Function, arguments: Mapping[str, Any], **more: Any) -> Any:
        call = attrs.evolve(self.call, **{"written": arguments, **more})
        return await function(arguments, call)

    async def refused(
        self, function: Function, arguments: Mapping[str, Any], **more: Any
    ) -> tuple[str, int, str]:
        """Return the kind, status and detail of the error that a call raises."""
        try:
            answer = await self(function, arguments, **more)
        except TaskError as error:
            return error.type.rpartition("/")[2], error.status, error.detail
        raise AssertionError(f"was not refused, but gave {answer!r}")


@contextlib.asynccontextmanager
async def caller(
    *,
    clock: Clock | None = None,
    outgoing: Mapping[str, Any] | None = None,
    content: Mapping[str, Any] | None = None,
    evaluates: bool = False,
    **runtime: Any,
) -> AsyncIterator[Caller]:
    """Open what a call needs; loopback addresses are allowed unless ``outgoing`` says otherwise."""
    clock = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            Engine(MemoryDriver(clock), FlowRegistry(), clock=clock)
        )
        expressions = Expressions()
        if evaluates:
            await stack.enter_async_context(expressions)
        allowed = {"private": ("127.0.0.1", "localhost")} if outgoing is None else outgoing
        opened = await stack.enter_async_context(Outgoing(**allowed))
        made = Runtime(engine, NoDocuments(), expressions, outgoing=opened, **runtime)
        stack.push_async_callback(made.processes.close)

        async def evaluate(value: Any, given: Any = None) -> Any:
            is_text = evaluates and isinstance(value, str)
            return await expressions.evaluate(value.strip()[2:-1], given) if is_text else value

        call = Call(
            key="i/main/call/1",
            instance="i",
            document=document_of(content),
            task="/do/0/theTask",
            runtime=made,
            evaluate=evaluate,
        )
        yield Caller(call)
