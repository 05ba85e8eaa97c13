"""Low-level flow and state primitives: the layer under workflow engines.

Drivers live in ``flowstate.drivers`` and are imported by name. For drivers and engines of your own
``flowstate.ground.frozen`` and ``flowstate.ground.limits`` are public, too. The floors of the core,
each of which imports only from those before it:

- ground, errors, clock;
- values: values, data, state, validation;
- the contract of stores: writes, queries, driver, codec, recovery_rules, retrying, dead;
- what is to be done: timers, effect_keys, executed, context, commands, registry;
- against a store: turns, log, planning, committing;
- running flows: executions, runtime;
- what an engine does: operations, engine, delayer;
- on top: checking.

``mailboxes`` stands on three of them: what is in a mailbox is a value, to receive is part of
planning, and to send is something that an engine does.
"""

from flowstate.checking import Finding, Report, check
from flowstate.clock import Clock, FakeClock, SystemClock
from flowstate.commands import (
    CancelTimer,
    Check,
    Command,
    Commit,
    Delay,
    DelayedPage,
    End,
    Execute,
    Forget,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Noop,
    Page,
    Pause,
    Put,
    Resume,
    Retry,
    SetTimer,
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
    FlowTimeoutError,
    HistoryRewoundError,
    InvalidCommandError,
    InvalidInputError,
    LeaseLostError,
    MailboxFullError,
    RevisionMismatchError,
    StateNotFoundError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    StoreVersionError,
    UnknownFlowError,
    ValueDecodeError,
    ValueNotFoundError,
)
from flowstate.ground.counters import EngineStats
from flowstate.log.watch import Watch
from flowstate.mailboxes.mailbox import mailbox_id
from flowstate.mailboxes.receiving import Receive
from flowstate.registry import FlowRegistry
from flowstate.retrying import RetryPolicy
from flowstate.state import State, Status, Timer, Transition
from flowstate.values import encoded

__all__ = [
    "CancelTimer",
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
    "EngineStats",
    "EngineStoppedError",
    "Execute",
    "ExecutionLostError",
    "FakeClock",
    "Finding",
    "Flow",
    "FlowRegistry",
    "FlowTimeoutError",
    "FlowstateError",
    "Forget",
    "GetData",
    "GetDelayedStates",
    "GetState",
    "GetStates",
    "HistoryRewoundError",
    "InvalidCommandError",
    "InvalidInputError",
    "LeaseLostError",
    "MailboxFullError",
    "Noop",
    "Page",
    "Pause",
    "Put",
    "Receive",
    "Report",
    "Resume",
    "Retry",
    "RetryPolicy",
    "RevisionMismatchError",
    "SetTimer",
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
    "Timer",
    "Transit",
    "Transition",
    "UnknownFlowError",
    "Unstack",
    "ValueDecodeError",
    "ValueNotFoundError",
    "Watch",
    "check",
    "encoded",
    "mailbox_id",
]
