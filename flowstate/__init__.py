"""Low-level flow and state primitives: the layer under workflow engines.

Drivers live in ``flowstate.drivers`` and are imported by name. The core has these floors, each
of which imports only from the ones before it:

- values: :mod:`~flowstate.errors` draws the tree of errors, :mod:`~flowstate.limits` has every
  bound on input, :mod:`~flowstate.state` and :mod:`~flowstate.data` are what is stored,
  :mod:`~flowstate.codec` is the form in which it is stored;
- the contract of stores: :mod:`~flowstate.driver`, :mod:`~flowstate.recovery_rules`;
- what is to be done: :mod:`~flowstate.context`, :mod:`~flowstate.commands`,
  :mod:`~flowstate.registry`;
- against a store: :mod:`~flowstate.planning`, :mod:`~flowstate.batching`,
  :mod:`~flowstate.committing`, :mod:`~flowstate.reading`, :mod:`~flowstate.log_tail`;
- running flows: :mod:`~flowstate.execution`, :mod:`~flowstate.flow_loop`,
  :mod:`~flowstate.heartbeats`, :mod:`~flowstate.engine`, :mod:`~flowstate.delayer`.
"""

from flowstate.clock import Clock, FakeClock, SystemClock
from flowstate.commands import (
    Check,
    Command,
    Commit,
    Delay,
    DelayedPage,
    End,
    Execute,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Noop,
    Page,
    Pause,
    Resume,
    Retry,
    Stack,
    StoreData,
    Transit,
    Unstack,
)
from flowstate.context import StateContext
from flowstate.data import Data, DataRef
from flowstate.delayer import Delayer
from flowstate.driver import DamagedDelay, DamagedRevision, DelayedState, Driver
from flowstate.engine import Engine, Flow
from flowstate.errors import (
    ClaimLostError,
    CodecError,
    CommitUnknownError,
    CompactedError,
    DamagedRevisionError,
    DataNotFoundError,
    DriverClosedError,
    DriverError,
    EngineOverloadedError,
    EngineStoppedError,
    ExecutionLostError,
    FlowstateError,
    HistoryRewoundError,
    InvalidCommandError,
    InvalidInputError,
    LeaseLostError,
    RevisionMismatchError,
    StateNotFoundError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreVersionError,
    UnknownFlowError,
)
from flowstate.log_tail import Watch
from flowstate.registry import FlowRegistry
from flowstate.state import State, Status, Transition

__all__ = [
    "Check",
    "ClaimLostError",
    "Clock",
    "CodecError",
    "Command",
    "Commit",
    "CommitUnknownError",
    "CompactedError",
    "DamagedDelay",
    "DamagedRevision",
    "DamagedRevisionError",
    "Data",
    "DataNotFoundError",
    "DataRef",
    "Delay",
    "DelayedPage",
    "DelayedState",
    "Delayer",
    "Driver",
    "DriverClosedError",
    "DriverError",
    "End",
    "Engine",
    "EngineOverloadedError",
    "EngineStoppedError",
    "Execute",
    "ExecutionLostError",
    "FakeClock",
    "Flow",
    "FlowRegistry",
    "FlowstateError",
    "GetData",
    "GetDelayedStates",
    "GetState",
    "GetStates",
    "HistoryRewoundError",
    "InvalidCommandError",
    "InvalidInputError",
    "LeaseLostError",
    "Noop",
    "Page",
    "Pause",
    "Resume",
    "Retry",
    "RevisionMismatchError",
    "Stack",
    "State",
    "StateContext",
    "StateNotFoundError",
    "Status",
    "StoreBusyError",
    "StoreCorruptError",
    "StoreData",
    "StoreFullError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "StoreVersionError",
    "SystemClock",
    "Transit",
    "Transition",
    "UnknownFlowError",
    "Unstack",
    "Watch",
]
