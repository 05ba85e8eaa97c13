"""Durable Python without replay: an ``async def`` that goes on from where it stood."""

from flowstate import RetryPolicy as Retry
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.current_step import CurrentStep, current_step
from flowstate.engines.kernel.errors import (
    Cancelled,
    ChildFailed,
    StepFailed,
)
from flowstate.engines.kernel.errors import (
    InstanceCancelledError as WorkflowCancelled,
)
from flowstate.engines.kernel.errors import (
    InstanceFailedError as WorkflowFailed,
)
from flowstate.engines.kernel.outside import Event, Result
from flowstate.engines.kernel.steps import effect_key
from flowstate.engines.workflow.checking import Report, Stranded, check
from flowstate.engines.workflow.compiler.errors import CompileError, Problem
from flowstate.engines.workflow.definition import Definition, Helper, Workflow, helper, workflow
from flowstate.engines.workflow.explaining import Explanation, Moment, Standing
from flowstate.engines.workflow.graphs import Graph, graph_of
from flowstate.engines.workflow.locks import DeadlockError, Held, free_lock, lock, lock_line
from flowstate.engines.workflow.managers import Manager
from flowstate.engines.workflow.marking import MarkError
from flowstate.engines.workflow.marks import (
    Timeout,
    all_of,
    any_of,
    each,
    first,
    go,
    sleep,
    step,
    sub,
    until,
    wait,
)
from flowstate.engines.workflow.operators import Note
from flowstate.engines.workflow.rates import rate_limit
from flowstate.engines.workflow.sections import (
    After,
    Break,
    Case,
    Continue,
    Default,
    For,
    Go,
    If,
    On,
    Return,
    S,
    Sections,
    Step,
    Switch,
    Wait,
    WaitFor,
)
from flowstate.engines.workflow.sources import Source, Subscription
from flowstate.engines.workflow.undoing import Undo, compensating
from flowstate.engines.workflow.workflows import Workflows

__all__ = [
    "After",
    "Break",
    "Cancelled",
    "Case",
    "ChildFailed",
    "CompileError",
    "Continue",
    "CurrentStep",
    "DeadlockError",
    "Default",
    "Definition",
    "Event",
    "Explanation",
    "For",
    "Go",
    "Graph",
    "Held",
    "Helper",
    "If",
    "Manager",
    "MarkError",
    "MisfitError",
    "Moment",
    "Note",
    "On",
    "Problem",
    "Report",
    "Result",
    "Retry",
    "Return",
    "S",
    "Sections",
    "Source",
    "Standing",
    "Step",
    "StepFailed",
    "Stranded",
    "Subscription",
    "Switch",
    "Timeout",
    "Undo",
    "Wait",
    "WaitFor",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowFailed",
    "Workflows",
    "all_of",
    "any_of",
    "check",
    "compensating",
    "current_step",
    "each",
    "effect_key",
    "first",
    "free_lock",
    "go",
    "graph_of",
    "helper",
    "lock",
    "lock_line",
    "rate_limit",
    "sleep",
    "step",
    "sub",
    "until",
    "wait",
    "workflow",
]
