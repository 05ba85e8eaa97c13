"""Documents as states of the store: each version is stored once, and never changes."""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from msgspec import Struct

from flowstate import (
    Commit,
    End,
    Engine,
    InvalidCommandError,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Status,
)
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.errors import DocumentError, TaskError
from flowstate.engines.tasks.runtime import Runtime
from flowstate.engines.tasks.service.following import follow

__all__ = ["DEFINITION", "DEFINITION_VERSION", "Definition", "Definitions", "precedence"]

DEFINITION, DEFINITION_VERSION = "definition", "definition_version"  # Labels of instances.
NAME, VERSION = "document", "document_version"  # Labels of documents.
ALL = {"tasks": "document"}
PREFIX = "tasks.document."  # Of the id of a document.
TEXT = "text"
LATEST = "latest"
MOST_KEPT = 256  # Documents in memory.


class Definition(Struct, frozen=True):
    """A document that is stored.

    Attributes:
        name: ``namespace/name``.
        version: a semantic version.
        added_at: when it was stored.
    """

    name: str
    version: str
    added_at: datetime | None

    @property
    def key(self) -> str:
        """What names it: ``namespace/name:version``."""
        return f"{self.name}:{self.version}"


class Definitions:
    """The documents of a store, for all processes that use it.

    One that ends keeps its text, for instances that were started in that moment.

    Args:
        engine: open until this is left.

    Attributes:
        runtime: for which documents are loaded; set it before that.
    """

    runtime: Runtime

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, dict[str, Definition]] = {}
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._loading = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._read()
        self._follower = asyncio.create_task(follow(self._engine, ALL, self._read, self._see))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])

    async def _read(self) -> int:
        """Learn of all documents that are stored, and return the revision up to which they are."""
        head = await self._engine.head()
        async for state in self._engine.states(labels=ALL, latest_only=True):
            self._see(state)
        return head

    def _see(self, state: State) -> None:
        name, version = state.labels.get(NAME, ""), state.labels.get(VERSION, "")
        if state.id != f"{PREFIX}{name}:{version}":
            return  # Another state has such labels.
        versions = self._known.setdefault(name, {})
        if state.status is Status.PAUSED:
            versions[version] = Definition(name, version, state.committed_at)
        else:
            versions.pop(version, None)

    def __iter__(self) -> Iterator[Definition]:
        """Iterate over all that can be started, by name and version."""
        for name in sorted(self._known):
            versions = self._known[name]
            yield from (versions[each] for each in sorted(versions, key=precedence))

    async def find(self, name: str, version: str = "") -> Definition:
        """Return a document that can be started: a version, or else the newest one.

        Args:
            name: ``namespace/name``, or ``name`` in the namespace ``default``; a version may
                follow after ``:``.
            version: of it; empty or ``latest``: the newest.

        Raises:
            StateNotFoundError: there is none.
        """
        name, _, given = name.partition(":")
        name, version = name if "/" in name else f"default/{name}", version or given
        version = "" if version == LATEST else version
        for is_known in (True, False):
            if not is_known:  # It may be newer than what was seen.
                await self.newest(name)
            versions = self._known.get(name, {})
            chosen = version or max(versions, key=precedence, default="")
            if chosen in versions:
                return versions[chosen]
        raise StateNotFoundError(f"there is no document {f'{name}:{version}'.rstrip(':')!r}")

    async def add(self, text: str, *, file: str = "") -> tuple[Document, bool]:
        """Check a document and store it.

        Returns:
            The document, and whether it was not stored before.

        Raises:
            DocumentError: it is refused.
            InvalidCommandError: that version is stored with another content, or was removed.
            InvalidInputError: it is too large for a state.
        """
        document = await load(text, file=file, runtime=self.runtime)
        labels = {**ALL, NAME: f"{document.namespace}/{document.name}", VERSION: document.version}
        ctx = StateContext(State(PREFIX + document.key, labels=labels))
        ctx.put(text, TEXT)
        try:
            await self._engine.do(Commit(Pause(ctx)))
        except RevisionMismatchError:
            await self._check_same(document)
            return document, False
        self._see(ctx.committed)
        self._keep(document)
        return document, True

    async def _check_same(self, document: Document) -> None:
        state = await self._engine.get_state(PREFIX + document.key)
        if state.status is Status.ENDED:
            raise InvalidCommandError("version", f"{document.key} was removed; raise the version")
        if (known := state.get(str, TEXT)) == document.text:
            return
        stored = await self._loaded(document.key, known)
        if stored.source != document.source:
            text = f"{document.key} is stored with another content; raise the version"
            raise InvalidCommandError("version", text)

    async def remove(self, name: str, version: str) -> None:
        """Let nothing more be started by a document.

        Raises:
            StateNotFoundError: there is no such document.
            InvalidCommandError: instances of it have not ended.
        """
        found = await self.find(name, version)
        labels = {DEFINITION: found.name, DEFINITION_VERSION: found.version}
        live = [
            await self._engine.count(labels=labels, status=each)
            for each in (Status.ACTIVE, Status.PAUSED)
        ]
        if any(live):
            raise InvalidCommandError("version", f"{sum(live)} instances of it have not ended")
        self._see(await self._engine.update(PREFIX + found.key, _end))

    async def newest(self, name: str) -> tuple[Definition | None, int]:
        """Return the newest version as the store has it now, and the last revision of all."""
        rev = 0
        async for state in self._engine.states(labels={**ALL, NAME: name}, latest_only=True):
            rev = max(rev, state.rev)
            self._see(state)
        versions = self._known.get(name, {})
        return versions[max(versions, key=precedence)] if versions else None, rev

    def get(self, key: str) -> Document | None:
        """Return a document that is in memory, or ``None``."""
        found = self._documents.get(key)
        if found is not None:
            self._documents.move_to_end(key)
        return found

    async def load(self, key: str) -> Document:
        """Return a document from the store; of the version ``latest``, the newest one.

        Raises:
            TaskError: ``configuration``: there is no such document, or it cannot be run here.
        """
        async with self._loading:  # Thousands of instances may ask for one.
            try:
                if key.endswith(f":{LATEST}"):
                    key = (await self.find(key)).key
                if (found := self.get(key)) is not None:
                    return found
                found = await self._loaded(key, await self.text(key))
            except (StateNotFoundError, DocumentError) as error:
                raise TaskError.of("configuration", str(error)) from error
            self._keep(found)
            return found

    async def _loaded(self, key: str, text: str) -> Document:
        return await load(text, file=key, runtime=self.runtime, was_loaded=True)

    async def text(self, key: str) -> str:
        """Return the text of a document.

        Raises:
            StateNotFoundError: there is no such document.
        """
        try:
            return (await self._engine.get_state(PREFIX + key)).get(str, TEXT)
        except StateNotFoundError:
            raise StateNotFoundError(f"there is no document {key!r}") from None

    def _keep(self, document: Document) -> None:
        self._documents[document.key] = document
        while len(self._documents) > MOST_KEPT:
            self._documents.popitem(last=False)


def _end(ctx: StateContext) -> Any:
    return None if ctx.current.status is Status.ENDED else End(ctx)


def precedence(version: str) -> Any:
    """Return what semantic versions are compared by."""
    numbers, _, marks = version.partition("+")[0].partition("-")
    parts = [(0, int(each), "") if each.isdecimal() else (1, 0, each) for each in marks.split(".")]
    return [int(each) for each in numbers.split(".")], not marks, parts
