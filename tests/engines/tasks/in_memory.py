"""Documents that are only in the memory of a process."""

from collections.abc import Iterable

from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.errors import TaskError

__all__ = ["InMemoryDocuments"]


class InMemoryDocuments:
    """Documents that a program has."""

    def __init__(self, documents: Iterable[Document] = ()) -> None:
        self._documents = {each.key: each for each in documents}

    def add(self, document: Document) -> None:
        """Add a document; of the versions of one name, the one added last is the latest."""
        self._documents[document.key] = document

    def get(self, key: str) -> Document | None:
        """Return a document; ``None``: there is none."""
        return self._documents.get(key)

    async def load(self, key: str) -> Document:
        """Return a document; the version ``latest`` is the one that was added last.

        Raises:
            TaskError: ``configuration``: there is none.
        """
        name, _, version = key.rpartition(":")
        if version == "latest":
            found = [each for each in self._documents if each.rpartition(":")[0] == name]
            key = found[-1] if found else key
        if key not in self._documents:
            raise TaskError.of("configuration", f"there is no document {key!r}")
        return self._documents[key]
