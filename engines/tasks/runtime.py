"""What tasks are given from outside: documents, expressions, secrets, functions, permissions."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from flowstate import Engine
from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.tasks.calls.programs import Processes
from flowstate.engines.tasks.calls.subscriptions import Subscriptions
from flowstate.engines.tasks.documents.document import Document
from flowstate.ground.frozen import EMPTY

if TYPE_CHECKING:
    from flowstate.engines.tasks.calls.databases import Database
    from flowstate.engines.tasks.calls.outgoing import Outgoing

__all__ = ["Call", "Documents", "Function", "Runtime", "Secrets"]


class Documents(Protocol):
    """Finds documents by their keys."""

    def get(self, key: str) -> Document | None:
        """Return a document that is in memory, or ``None``; ``load`` brings it there."""

    async def load(self, key: str) -> Document:
        """Return a document, from wherever it is stored.

        Raises:
            TaskError: there is no such document.
        """


class Secrets(Protocol):
    """Finds secrets by their names. They are never stored, logged, or part of an error."""

    async def get(self, name: str) -> Any:
        """Return a secret: a text, or an object of texts.

        Raises:
            TaskError: ``authorization``: there is no such secret, or it is not for this use.
        """


async def _literally(value: Any, given: Any = None) -> Any:  # noqa: ARG001 - as of Call
    return value


@attrs.frozen
class Call:
    """What is known about a call besides its arguments.

    Attributes:
        key: the same whenever this call is repeated, after a failure or a crash.
        instance: the id of the instance.
        document: whose task calls.
        task: the JSON pointer of that task.
        runtime: in which it is called.
        input: of the task, transformed; URI templates are filled from it.
        written: the arguments as the document has them, before their expressions were evaluated.
        evaluate: returns a value of the document with its expressions evaluated, in the place of
            the task and with ``$secrets``; a second argument stands in for the input.
        since: when the task has begun.
        taken: of a subscription: the messages that the task has worked off, and the last of them.
    """

    key: str
    instance: str
    document: Document
    task: str
    runtime: "Runtime"
    input: Any = None
    written: Mapping[str, Any] = EMPTY
    evaluate: Callable[..., Awaitable[Any]] = _literally
    since: datetime | None = None
    taken: tuple[int, Any] = (0, None)


Function = Callable[[Mapping[str, Any], Call], Awaitable[Any]]
"""What a task can call: is given the arguments, whose expressions are evaluated, and returns JSON.

It raises ``TaskError``; every other error becomes one of the kind ``runtime``."""


@attrs.define(eq=False)
class Runtime:
    """What tasks are given from outside.

    Attributes:
        engine: runs them.
        documents: finds documents.
        expressions: evaluates expressions.
        secrets: finds secrets; ``None``: there are none.
        outgoing: says what may be called over the network, and calls it.
        functions: what ``call`` can name, built in or your own.
        catalog: where the catalog ``default`` is, besides ``functions``; empty: nowhere.
        processes: says which programs may run; none by default.
        subscriptions: that are open for tasks.
        databases: by the names that ``call: sql`` can use.
        name: of ``$runtime``.
        version: of ``$runtime``.
        metadata: of ``$runtime``.
        rng: draws the jitter of pauses.
        keep_events: how long events that tasks emit are kept: what is not heard by then is missed.
    """

    engine: Engine
    documents: Documents
    expressions: Expressions
    secrets: Secrets | None = None
    outgoing: "Outgoing | None" = None
    functions: Mapping[str, Function] = EMPTY
    catalog: str = ""
    processes: Processes = attrs.field(factory=Processes)
    subscriptions: Subscriptions = attrs.field(factory=Subscriptions)
    databases: "Mapping[str, Database]" = EMPTY
    name: str = "flowstate"
    version: str = "0.1.0"
    metadata: Mapping[str, Any] = EMPTY
    rng: Random = attrs.field(factory=Random)
    keep_events: timedelta = timedelta(days=1)
