"""The kinds of tasks."""

from collections.abc import Mapping

from flowstate.engines.tasks.running.advancing import Kind
from flowstate.engines.tasks.running.calling import CallKind, RunKind
from flowstate.engines.tasks.running.catching import TryKind
from flowstate.engines.tasks.running.iterating import ForKind, ListenKind
from flowstate.engines.tasks.running.plain import (
    DoKind,
    EmitKind,
    ForkKind,
    RaiseKind,
    SetKind,
    SwitchKind,
    WaitKind,
)

__all__ = ["KINDS"]

KINDS: Mapping[str, Kind] = {
    "call": CallKind(),
    "do": DoKind(),
    "document": DoKind(),
    "emit": EmitKind(),
    "for": ForKind(),
    "fork": ForkKind(),
    "listen": ListenKind(),
    "raise": RaiseKind(),
    "run": RunKind(),
    "set": SetKind(),
    "switch": SwitchKind(),
    "try": TryKind(),
    "wait": WaitKind(),
}
