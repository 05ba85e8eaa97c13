"""The client of documents: stores them, starts instances of them, and talks to those."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from hashlib import sha256
from random import Random
from types import TracebackType
from typing import Any, Self

from flowstate import (
    Engine,
    InvalidCommandError,
    InvalidInputError,
    State,
    StateNotFoundError,
    Status,
)
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.events.starting import Starters
from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.kernel.instance import DATA, STOP, WORKFLOW
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.running.code import TaskCode
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.running.scheduling import plan_of, starting
from flowstate.engines.tasks.runtime import Runtime
from flowstate.engines.tasks.service.definitions import (
    DEFINITION,
    DEFINITION_VERSION,
    Definitions,
)
from flowstate.engines.tasks.service.instances import (
    CODE,
    Details,
    Listing,
    Moments,
    Summary,
    Wanted,
    details_of,
    error_of,
    listing,
    moments_of,
)
from flowstate.engines.tasks.service.metrics import Metrics
from flowstate.engines.tasks.service.migrating import Migrated, Migrating
from flowstate.engines.tasks.service.retention import Keep, retain
from flowstate.ground.frozen import EMPTY

__all__ = ["Tasks"]

ALL = Wanted()
MOST_MISFITS = 1_000  # That are told.


class Tasks:
    """Documents and their instances.

    Retries, timeouts and events need a ``Delayer``, and instances of processes that die need a
    ``Recoverer``, as all flows do. All processes that use a store run all documents that it has.

    Args:
        engine: open until this is left.
        expressions: evaluates expressions; ``None``: it makes its own.
        outgoing: says what may be called over the network; ``None``: the rules by default.
        keep: which ended instances are kept; empty: all.
        rng: draws ids and pauses.
        given: further fields of ``Runtime``, such as ``secrets`` and ``functions``.

    Attributes:
        definitions: the documents.
        kernel: runs the instances; operators find more here, such as ``edit`` and ``fork``.
        metrics: counts what happens.
        ending: set when a server is told to end, so that its feeds do.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        expressions: Expressions | None = None,
        outgoing: Outgoing | None = None,
        keep: Sequence[Keep] = (),
        rng: Random | None = None,
        **given: Any,
    ) -> None:
        self.engine = engine
        self.definitions, self._outgoing = Definitions(engine), outgoing or Outgoing()
        self.runtime = Runtime(
            engine,
            self.definitions,
            expressions or Expressions(),
            outgoing=self._outgoing,
            **given,
        )
        self.definitions.runtime = self.runtime
        self._code = TaskCode(self.runtime)
        starter: Any = starting(self.runtime, self._code)
        self.kernel = Migrating(engine, [self._code, starter], rng=rng)
        self._starters = Starters(self.kernel, starter)
        self.metrics, self.ending = Metrics(engine), asyncio.Event()
        self._keep, self._rng = keep, rng or Random()  # noqa: S311 - ids are no secrets
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.runtime.expressions)
            await stack.enter_async_context(self._outgoing)
            await stack.enter_async_context(self.definitions)
            await stack.enter_async_context(self.kernel)
            stack.push_async_callback(self.runtime.processes.close)
            stack.push_async_callback(self.runtime.subscriptions.close)
            _begin(stack, self.metrics.run())
            if self._keep:
                _begin(stack, retain(self.engine, self._keep, self.names, rng=self._rng))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def names(self) -> set[str]:
        """Return the names of all documents that can be started, as ``namespace/name``."""
        return {each.name for each in self.definitions}

    # --- Documents. ---

    async def add(self, text: str, *, file: str = "") -> tuple[Document, bool]:
        """Check a document and store it, see :meth:`Definitions.add`.

        The newest version of a document is what its ``schedule`` starts.
        """
        document, is_new = await self.definitions.add(text, file=file)
        await self._schedule(f"{document.namespace}/{document.name}")
        return document, is_new

    async def remove(self, name: str, version: str) -> None:
        """Let nothing more be started by a document, see :meth:`Definitions.remove`."""
        found = await self.definitions.find(name, version)
        await self.definitions.remove(found.name, found.version)
        await self._schedule(found.name)

    async def _schedule(self, name: str) -> None:
        """Let the newest version start by itself, if it says when, and no other one."""
        starter, after = name.replace("/", "."), None
        newest, rev = await self.definitions.newest(name)
        while rev != after:  # Another process may have changed it meanwhile, and be done before.
            document = newest and await self.definitions.load(newest.key)
            plan = document and await plan_of(document, self.runtime)
            if document and plan:
                await self._starters.set(starter, document.key, plan, order=rev)
            else:
                await self._starters.end(starter)
            after, (newest, rev) = rev, await self.definitions.newest(name)

    # --- Instances. ---

    async def start(
        self,
        name: str,
        input: Any = None,  # noqa: A002 - as documents call it
        *,
        id: str = "",
        key: str = "",
        version: str = "",
        labels: Mapping[str, str] = EMPTY,
    ) -> str:
        """Start an instance of a document, and return its id.

        Args:
            name: ``namespace/name``, or ``name`` in the namespace ``default``; a version may
                follow after ``:``.
            input: JSON.
            id: of the instance; empty: it gets one.
            key: makes it safe to start again: the same name and key give the same instance.
            version: of the document; empty: the newest.
            labels: of the instance, by which it is listed.

        Raises:
            StateNotFoundError: there is no such document.
            InvalidCommandError: the id or key is that of an instance of another document, or with
                another input.
            InvalidInputError: the input is no JSON or too large, or a label or the id is refused.
            CommitUnknownError: it could not be found out whether it was started; give an id or a
                key, and start it again.
        """
        found = await self.definitions.find(name, version)
        prefix = found.name.replace("/", ".")
        if key:
            id = id or f"{prefix}.{sha256(key.encode()).hexdigest()[:32]}"
        id = id or f"{prefix}.{self._rng.getrandbits(128):032x}"
        data = TaskData(found.key, input, self.engine.clock.now())
        if not await self.kernel.start(self._code, id, data, labels=labels):
            known = (await self._instance(id)).get(TaskData, DATA)
            if (known.definition.partition(":")[0], known.input) != (found.name, input):
                text = f"{id!r} was started by another document, or with another input"
                raise InvalidCommandError("id", text)
        return id

    async def result(self, id: str, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109
        """Return the output of an instance, as soon as it has one.

        Args:
            id: of the instance.
            timeout: seconds to wait at most.

        Raises:
            TaskError: it has ended with this error.
            InstanceCancelledError: it was cancelled.
            TimeoutError: it has not ended in time.
        """
        try:
            return await self.kernel.result(id, timeout=timeout)
        except InstanceFailedError as error:
            raise error_of(error) from error

    async def publish(self, event: CloudEvent) -> bool:
        """Publish an event, for all that listen and for starts by events.

        Returns:
            Whether it was published; ``False`` if its source and id are known.
        """
        return await publish(self.engine, event, keep=self.runtime.keep_events)

    async def cancel(self, id: str, *, hard: bool = False) -> None:
        """Cancel an instance, see ``Kernel.cancel``."""
        await self.kernel.cancel((await self._instance(id)).id, hard=hard)

    async def pause(self, id: str) -> None:
        """Let an instance begin no task until it is resumed."""
        await self.kernel.pause((await self._instance(id)).id)

    async def resume(self, id: str) -> None:
        """Let an instance go on that was paused."""
        await self.kernel.resume((await self._instance(id)).id)

    async def retry(self, id: str, *, by: str = "", why: str = "") -> None:
        """Try again what has failed, see ``Operators.retry``."""
        await self.kernel.retry((await self._instance(id)).id, by=by, why=why)

    async def migrate(
        self,
        name: str,
        version: str,
        *,
        id: str = "",
        since: str = "",
        task: str = "",
        plan: bool = False,
        by: str = "",
        why: str = "",
    ) -> Migrated:
        """Let live instances of a document go on with another version, where they fit it.

        Each is a commit of its own; what does not fit stays as it is. Tasks are found by their
        names, so an instance fits if the one at which it stands, and all around it, are there. A
        task that runs meanwhile runs again, with its key.

        Args:
            name: of the document.
            version: with which they go on.
            id: of one instance; otherwise all.
            since: only those of this version.
            task: only those that stand at the task with this JSON pointer.
            plan: change nothing, only tell.
            by: who does it.
            why: for people.

        Raises:
            StateNotFoundError: there is no such document or instance.
            TaskError: ``configuration``: a document cannot be run here.
            RevisionMismatchError: an instance moves too fast; do it again.
        """
        new = await self.definitions.load((await self.definitions.find(name, version)).key)
        fit, misfits = 0, dict[str, str]()
        async for state in self._live(new, id, {DEFINITION_VERSION: since, STOP: task}):
            old = await self.definitions.load(state.get(TaskData, DATA).definition)
            if old.key == new.key:
                continue
            try:
                await self.kernel.migrate(state.id, old, new, plan=plan, by=by, why=why)
            except MisfitError as error:
                if len(misfits) < MOST_MISFITS:
                    misfits[state.id] = str(error)
            except InvalidInputError:
                continue  # It has ended meanwhile.
            else:
                fit += 1
        return Migrated(fit, misfits)

    async def _live(
        self, document: Document, id: str, labels: Mapping[str, str]
    ) -> AsyncIterator[State]:
        if id:
            yield await self._instance(id)
            return
        own = {DEFINITION: f"{document.namespace}/{document.name}"}
        own |= {name: value for name, value in labels.items() if value}
        for status in (Status.ACTIVE, Status.PAUSED):
            async for state in self.engine.states(labels=own, latest_only=True, status=status):
                yield state

    # --- What there is. ---

    async def list(self, wanted: Wanted = ALL) -> Listing:
        """Return a page of instances.

        Raises:
            InvalidInputError: something that is wanted is refused.
        """
        return await listing(self.engine, wanted)

    async def get(self, id: str) -> Details:
        """Return all that is known about an instance; the cost follows its revisions.

        Raises:
            StateNotFoundError: there is no such instance.
        """
        return await details_of(self.engine, self.kernel.codes, await self._instance(id))

    async def summary(self, id: str) -> Summary:
        """Return what a list tells of an instance.

        Raises:
            StateNotFoundError: there is no such instance.
        """
        return Summary.of(await self._instance(id))

    async def history(self, id: str, *, after: int = 0, limit: int = 1_000) -> Moments:
        """Return a page of the revisions of an instance that are stored, the oldest first.

        Args:
            id: of the instance.
            after: ``next`` of the page before.
            limit: at most so many, from 1 to 1,000.

        Raises:
            StateNotFoundError: there is no such instance.
        """
        await self._instance(id)
        return await moments_of(self.engine, id, after, limit)

    async def _instance(self, id: str) -> State:
        try:
            state = await self.engine.get_state(id)
        except StateNotFoundError:
            raise StateNotFoundError(f"there is no instance {id!r}") from None
        if state.labels.get(WORKFLOW) != CODE:
            raise StateNotFoundError(f"{id!r} is no instance of a document")
        return state


def _begin(stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
    """Do something in the background until the stack is left."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        await asyncio.wait([task])

    stack.push_async_callback(end)
