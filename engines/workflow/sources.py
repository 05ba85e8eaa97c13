"""Sources: what sends messages from outside, set up before a wait and torn down after it."""

from abc import ABC, abstractmethod
from hashlib import sha256
from inspect import signature
from typing import Any

import attrs

from flowstate import RetryPolicy
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.workflow.compiler.lookup import hints_of

__all__ = ["Source", "Subscription", "message_of"]


@attrs.frozen
class Subscription:
    """What a source is set up for.

    Attributes:
        wait: the name of the wait.
        name: of the messages.
    """

    wait: str
    name: str

    @property
    def instance(self) -> str:
        """The id of the instance; known within ``setup``."""
        return current_step().instance

    @property
    def token(self) -> str:
        """Differs each time that a thread comes to the wait; known within ``setup``.

        Messages with the name ``<name>#<token>`` are taken by this wait only.
        """
        return sha256(current_step().key.encode()).hexdigest()[:32]


class Source(ABC):
    """Sends messages while an instance waits for them.

    ``setup`` and ``teardown`` are steps: each a ``def`` in a worker thread, or an ``async def``, of
    which the effects have a key, and which may run again after a crash. What they change of the
    data is lost.

    Attributes:
        retry: of both. What was begun to be set up is torn down, even if setting up has failed or
            the instance is cancelled. If tearing down is given up, the instance fails there.
    """

    retry: RetryPolicy = RetryPolicy(attempts=1_000_000, first=1.0, longest=60.0)

    async def setup(self, data: Any, subscription: Subscription) -> Any:  # noqa: B027 - or not
        """Let messages be sent from now on; return what ``teardown`` needs to know, as JSON."""

    @abstractmethod
    def handle(self, data: Any, message: Any) -> Any:
        """Change the data in place, and return the answer, as the handler of ``On`` does."""

    async def teardown(self, data: Any, set_up: Any, handled: bool) -> None:  # noqa: B027
        """Let no more messages be sent.

        Args:
            data: a copy.
            set_up: what ``setup`` returned; ``None`` if it did not get that far.
            handled: whether it was a message of this source that ended the wait.
        """


def message_of(source: Source | type[Source]) -> Any:
    """Return the class of the messages of a source: the annotation of what it handles."""
    handle: Any = getattr(source.handle, "__func__", source.handle)
    if not callable(handle):  # A field of a class, which each source has its own of.
        return Any
    return hints_of(handle).get([*signature(handle).parameters][-1], Any)
