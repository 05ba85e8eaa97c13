"""Every error that flowstate raises, as one tree.

::

    FlowstateError
    ├── InvalidInputError (ValueError)      a value is refused; names the field
    │   └── InvalidCommandError             a command is refused as a whole
    ├── UnknownFlowError (LookupError)      no such flow in the registry
    ├── StateNotFoundError (LookupError)
    ├── DataNotFoundError (LookupError)
    ├── ValueNotFoundError (LookupError)
    ├── RevisionMismatchError               compare-and-set lost; names the ids
    ├── CommitUnknownError                  the outcome of a commit could not be found out
    ├── CompactedError                      asked for revisions below the retention floor
    ├── HistoryRewoundError                 the store's head is behind the caller's cursor
    ├── CodecError (ValueError)             stored bytes cannot be read
    │   ├── DamagedRevisionError            one revision cannot be read; names it
    │   └── ValueDecodeError                one value of a state cannot be read; names it
    ├── ClaimLostError                      a delay is gone, or another process has claimed it
    ├── ExecutionLostError                  stopped, because others may have taken it over
    ├── FlowTimeoutError (TimeoutError)     a call of a flow took longer than it may
    ├── LeaseLostError                      another process may hold the lease by now
    ├── MailboxFullError                    a state has too many messages that it did not receive
    ├── EngineStoppedError                  the engine is stopping or has stopped
    ├── EngineOverloadedError               no room for another background execution
    └── DriverError                         the store failed
        ├── DriverClosedError
        ├── StoreBusyError                  kept locked by others for too long
        ├── StoreFullError
        ├── StoreReadOnlyError
        ├── StoreCorruptError
        ├── StoreVersionError               written by a newer library
        └── StoreUnavailableError

Input errors are raised before anything is written; they are the same on every driver.
"""

from collections.abc import Iterable
from typing import Any

__all__ = [
    "ClaimLostError",
    "CodecError",
    "CommitUnknownError",
    "CompactedError",
    "DamagedRevisionError",
    "DataNotFoundError",
    "DriverClosedError",
    "DriverError",
    "EngineOverloadedError",
    "EngineStoppedError",
    "ExecutionLostError",
    "FlowTimeoutError",
    "FlowstateError",
    "HistoryRewoundError",
    "InvalidCommandError",
    "InvalidInputError",
    "LeaseLostError",
    "MailboxFullError",
    "RevisionMismatchError",
    "StateNotFoundError",
    "StoreBusyError",
    "StoreCorruptError",
    "StoreFullError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "StoreVersionError",
    "UnknownFlowError",
    "ValueDecodeError",
    "ValueNotFoundError",
]


class FlowstateError(Exception):
    """The base of every error that flowstate raises. Can be pickled, with its attributes."""

    def __reduce__(self) -> tuple[Any, ...]:
        # That of Exception calls the class with the message, which most here do not take.
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[FlowstateError], args: Any, attributes: Any) -> FlowstateError:
    error = kind.__new__(kind, *args)
    error.args = args  # One that is also an OSError takes none before its ``__init__``.
    vars(error).update(attributes)
    return error


class InvalidInputError(FlowstateError, ValueError):
    """A value was refused before anything was written.

    Attributes:
        field: where the value came from, such as ``"state.id"``.
        reason: what is wrong with it.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class InvalidCommandError(InvalidInputError):
    """A command is refused as a whole: nested, empty, contradictory, too large, of a wrong type."""


class UnknownFlowError(FlowstateError, LookupError):
    """The registry has no such flow, or it is only declared and runs elsewhere.

    Attributes:
        flow: the flow id.
    """

    def __init__(self, flow: str, reason: str = "is not registered") -> None:
        super().__init__(f"flow {flow!r} {reason}")
        self.flow = flow


class StateNotFoundError(FlowstateError, LookupError):
    """No stored state answers the request."""


class DataNotFoundError(FlowstateError, LookupError):
    """The data is not in the context, not referenced by the state, or no longer stored."""


class ValueNotFoundError(FlowstateError, LookupError):
    """The state has no value under this name.

    Attributes:
        id: of the state.
        rev: its revision; 0 if it was never committed.
        name: of the value.
    """

    def __init__(self, id: str, rev: int, name: str) -> None:
        super().__init__(f"{id!r} has no value {name!r} at revision {rev}")
        self.id = id
        self.rev = rev
        self.name = name


class RevisionMismatchError(FlowstateError):
    """The compare-and-set of a commit was refused; nothing of the commit was written.

    Attributes:
        ids: every state id whose stored revision differs from the expected one, sorted.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids: tuple[str, ...] = tuple(sorted(set(ids)))
        super().__init__(f"stored revision differs for: {', '.join(map(repr, self.ids))}")


class CommitUnknownError(FlowstateError):
    """The store could not be asked whether a commit happened.

    Read the states to find out. The same writes under the same token are never applied twice.

    Attributes:
        token: the token of the commit; its revisions, if any, are stored with it.
    """

    def __init__(self, token: str) -> None:
        super().__init__(f"outcome of commit {token} is unknown")
        self.token = token


class CompactedError(FlowstateError):
    """The revisions asked for may have been removed by ``compact``.

    Attributes:
        floor: the lowest revision from which the log is complete. Read the latest states
            first, then go on from ``floor - 1`` or later.
    """

    def __init__(self, floor: int) -> None:
        super().__init__(f"revisions below {floor} are compacted")
        self.floor = floor


class HistoryRewoundError(FlowstateError):
    """The cursor is above the store's head: the store was restored from an older copy.

    Attributes:
        since_rev: the cursor.
        head: the highest revision in the store.
    """

    def __init__(self, since_rev: int, head: int) -> None:
        super().__init__(f"cursor {since_rev} is above the head {head} of the store")
        self.since_rev = since_rev
        self.head = head


class CodecError(FlowstateError, ValueError):
    """Stored bytes are damaged, or were written by a newer, incompatible library."""


class DamagedRevisionError(CodecError):
    """A stored revision cannot be read: it is damaged, or a newer library wrote it.

    Nothing else is hidden by it: read on from ``since_rev=error.rev``.

    Attributes:
        rev: the revision.
        id: of the state, as far as that can be read.
    """

    def __init__(self, rev: int, id: str, reason: str) -> None:
        super().__init__(f"revision {rev} of {id!r} cannot be read: {reason}")
        self.rev = rev
        self.id = id


class ValueDecodeError(CodecError):
    """A value of a state is not of the type that it was asked for as.

    Attributes:
        id: of the state.
        rev: its revision; 0 if it was never committed.
        name: of the value.
        path: where in the value, such as ``"$.items[0].price"``; ``"$"`` is all of it.
    """

    def __init__(self, id: str, rev: int, name: str, path: str, reason: str) -> None:
        what = f"value {name!r} of {id!r} at revision {rev}"
        super().__init__(f"{what} cannot be decoded, at {path}: {reason}")
        self.id = id
        self.rev = rev
        self.name = name
        self.path = path


class ClaimLostError(FlowstateError):
    """A delay is gone, or another process has claimed it; nothing of the commit was written.

    Attributes:
        ids: of the delays.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self.ids: tuple[str, ...] = tuple(sorted(set(ids)))
        super().__init__(f"claim refused for delays: {', '.join(self.ids)}")


class ExecutionLostError(FlowstateError):
    """An execution was stopped, because its state could not be kept alive in the store.

    Other engines may recover the state by now. It is as it was last committed.

    Attributes:
        id: of the state.
    """

    def __init__(self, id: str) -> None:
        super().__init__(f"the execution of {id!r} was stopped: no heartbeat got through in time")
        self.id = id


class FlowTimeoutError(FlowstateError, TimeoutError):
    """A call of a flow took longer than its ``timeout``.

    Attributes:
        flow: the flow id.
        id: of the state.
        seconds: how long the call may take.
    """

    def __init__(self, flow: str, id: str, seconds: float) -> None:
        super().__init__(f"flow {flow!r} of {id!r} took longer than {seconds:g} s")
        self.flow = flow
        self.id = id
        self.seconds = seconds


class LeaseLostError(FlowstateError):
    """A lease is not held by this process, as far as it can know.

    Attributes:
        name: of the lease.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"the lease {name!r} is not held by this process")
        self.name = name


class MailboxFullError(FlowstateError):
    """A state has as many messages that it has not received as its mailbox can hold.

    Attributes:
        id: of the state.
    """

    def __init__(self, id: str) -> None:
        super().__init__(f"the mailbox of {id!r} is full")
        self.id = id


class EngineStoppedError(FlowstateError):
    """The engine is stopping or has stopped; it takes no more work."""


class EngineOverloadedError(FlowstateError):
    """As many executions wait as ``max_pending`` allows, and the caller is itself one."""


class DriverError(FlowstateError):
    """The store failed. What a failed commit had written was rolled back."""


class DriverClosedError(DriverError):
    """The driver is not open."""


class StoreBusyError(DriverError):
    """Others kept the store locked for longer than the driver was told to wait."""


class StoreFullError(DriverError):
    """The store has no room left."""


class StoreReadOnlyError(DriverError):
    """The store cannot be written to."""


class StoreCorruptError(DriverError):
    """The store is damaged, or is not a flowstate store."""


class StoreVersionError(DriverError):
    """The store's schema is newer than this library."""


class StoreUnavailableError(DriverError):
    """The store cannot be reached or opened."""
