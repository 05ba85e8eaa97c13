"""Tells before a deployment which live instances of a store it would strand."""

from collections.abc import Iterable
from typing import Literal

import attrs
from msgspec import Struct

from flowstate import Engine, FlowRegistry, Status, checking
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.ending import TELL
from flowstate.engines.kernel.fitting import misfit
from flowstate.engines.kernel.instance import OUTCOME, STOP, WORKFLOW, Codes
from flowstate.engines.kernel.starting import flow_of

__all__ = ["Report", "Stranded", "check"]

FIRST_IDS = 10
FLOWS = flow_of("")
LIVE = (Status.ACTIVE, Status.PAUSED)


class Stranded(Struct, frozen=True):
    """Live instances that could not go on.

    Attributes:
        problem: ``misfit``, or ``unknown workflow``.
        workflow: its name.
        stop: where their main threads stand.
        why: what is wrong.
        count: how many there are.
        ids: of the first ones.
    """

    problem: Literal["misfit", "unknown workflow"]
    workflow: str
    stop: str
    why: str
    count: int
    ids: tuple[str, ...]

    def __str__(self) -> str:
        at = f" at {self.stop!r}" if self.stop else ""
        why = f" ({self.why})" if self.why else ""
        ids = ", ".join(map(repr, self.ids))
        return f"{self.problem}: {self.count} of {self.workflow!r}{at}: {ids}{why}"


class Report(Struct, frozen=True):
    """What :func:`check` has found; it is true if that was something.

    Attributes:
        stranded: a finding for each workflow, stop and reason.
        live: how many instances were looked at.
    """

    stranded: tuple[Stranded, ...] = ()
    live: int = 0

    def __bool__(self) -> bool:
        return bool(self.stranded)

    def __str__(self) -> str:
        fine = f"all {self.live} live instances can go on"
        return "\n".join(map(str, self.stranded)) or fine


@attrs.define
class Found:
    """Instances with one problem."""

    ids: list[str] = attrs.Factory(list)
    count: int = 0

    def add(self, id: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.ids) < FIRST_IDS:
            self.ids.append(id)


async def check(engine: Engine, definitions: Iterable[Code]) -> Report:
    """Hold definitions against all live instances of a store; change nothing, and start nothing.

    Run it before a deployment, with the new definitions and the store that they will work on. It
    reads every live instance once: its data, names and places must fit. Where threads wait for
    branches or children, the arguments of that stop are evaluated.

    Args:
        engine: open on the store; its registry need not have the workflows.
        definitions: the workflows as they will be.

    Raises:
        CompileError: a definition cannot be compiled.
        DriverError: the store failed.
    """
    codes = Codes(definitions)
    stranded = list[Stranded]()
    live = 0
    for code in [each for each in codes if each.data is not None]:
        found, count = await _misfits(engine, code, codes)
        stranded += found
        live += count
    return Report((*stranded, *await _unknown(engine, codes)), live)


async def _misfits(engine: Engine, code: Code, codes: Codes) -> tuple[list[Stranded], int]:
    """Return the instances of a workflow that do not fit, and how many there are in all."""
    found: dict[tuple[str, str], Found] = {}
    count = 0
    for status in LIVE:
        labels = {WORKFLOW: code.name}
        async for state in engine.states(labels=labels, latest_only=True, status=status):
            if OUTCOME in state.labels:
                continue  # It only has to tell its parent.
            count += 1
            if why := misfit(state, codes):
                stop = state.labels.get(STOP, "")
                found.setdefault((stop, why), Found()).add(state.id)
    return [
        Stranded("misfit", code.name, stop, why, each.count, tuple(each.ids))
        for (stop, why), each in found.items()
    ], count


async def _unknown(engine: Engine, codes: Codes) -> list[Stranded]:
    """Return the workflows that live in the store and are not among the definitions."""
    flows = FlowRegistry()
    for name in [TELL, *(flow_of(each.name) for each in codes if each.data is not None)]:
        flows.declare(name)
    report = await checking.check(engine, flows, sample=1)
    found = {each.flow for each in report.findings if each.problem == "unknown flow"}
    names = sorted(each.removeprefix(FLOWS) for each in found if each.startswith(FLOWS))
    return [await _living(engine, name) for name in names]


async def _living(engine: Engine, name: str) -> Stranded:
    """Return all live instances of a workflow."""
    found = Found()
    for status in LIVE:
        labels = {WORKFLOW: name}
        async for state in engine.states(labels=labels, latest_only=True, status=status):
            found.add(state.id)
    return Stranded("unknown workflow", name, "", "", found.count, tuple(found.ids))
