"""Durable Python without replay: an ``async def`` that goes on from where it stood."""

from flowstate.engines.workflow.compiler.errors import CompileError, Problem
from flowstate.engines.workflow.definition import Definition, Helper, Workflow, helper, workflow
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

__all__ = [
    "CompileError",
    "Definition",
    "Helper",
    "MarkError",
    "Problem",
    "Timeout",
    "Workflow",
    "all_of",
    "any_of",
    "each",
    "first",
    "go",
    "helper",
    "sleep",
    "step",
    "sub",
    "until",
    "wait",
    "workflow",
]
