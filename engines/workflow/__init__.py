"""Durable Python without replay: an ``async def`` that goes on from where it stood."""

from flowstate.engines.kernel.code import MisfitError
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
from flowstate.engines.kernel.steps import effect_key
from flowstate.engines.workflow.checking import Report, Stranded, check
from flowstate.engines.workflow.compiler.errors import CompileError, Problem
from flowstate.engines.workflow.definition import Definition, Helper, Workflow, helper, workflow
from flowstate.engines.workflow.explaining import Explanation, Moment, Standing
from flowstate.engines.workflow.graphs import Graph, graph_of
from flowstate.engines.workflow.marks import (
    MarkError,
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
from flowstate.engines.workflow.workflows import Workflows

__all__ = [
    "Cancelled",
    "ChildFailed",
    "CompileError",
    "Definition",
    "Explanation",
    "Graph",
    "Helper",
    "MarkError",
    "MisfitError",
    "Moment",
    "Note",
    "Problem",
    "Report",
    "Standing",
    "StepFailed",
    "Stranded",
    "Timeout",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowFailed",
    "Workflows",
    "all_of",
    "any_of",
    "check",
    "each",
    "effect_key",
    "first",
    "go",
    "graph_of",
    "helper",
    "sleep",
    "step",
    "sub",
    "until",
    "wait",
    "workflow",
]
