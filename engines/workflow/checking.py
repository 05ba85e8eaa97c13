"""Tells before a deployment which live instances of a store it would strand."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct

import flowstate
from flowstate import DamagedRevisionError, Engine, FlowRegistry, State, Status
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.ending import TELL
from flowstate.engines.kernel.fitting import misfit
from flowstate.engines.kernel.instance import OUTCOME, STOP, VERSION, WORKFLOW, Codes
from flowstate.engines.kernel.starting import flow_of
from flowstate.ground.frozen import EMPTY

__all__ = ["Found", "Report", "SCHEDULES", "Stranded", "check", "version_of"]

FIRST_IDS = 10
FLOWS = flow_of("")
SCHEDULES = "workflows.schedule."  # The flows of schedules, which an extra brings.
LIVE = (Status.ACTIVE, Status.PAUSED)

Problem = Literal["misfit", "unknown workflow", "damaged"]


class Stranded(Struct, frozen=True):
    """Live instances that could not go on.

    Attributes:
        problem: ``misfit``, ``unknown workflow``, or ``damaged``: they cannot be read.
        workflow: its name.
        stop: where their main threads stand.
        why: what is wrong.
        count: how many there are.
        ids: of the first ones.
    """

    problem: Problem
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
        versions: by workflow and version, how many there are of it; of workflows that have several.
    """

    stranded: tuple[Stranded, ...] = ()
    live: int = 0
    versions: Mapping[str, Mapping[int, int]] = EMPTY

    def __bool__(self) -> bool:
        return bool(self.stranded)

    def __str__(self) -> str:
        lines = [*map(str, self.stranded)] or [f"all {self.live} live instances can go on"]
        for name, counts in self.versions.items():
            each = [f"{count or 'none'} of version {version}" for version, count in counts.items()]
            lines.append(f"live instances of {name!r}: {', '.join(each)}")
        return "\n".join(lines)


class Found:
    """Instances that could not go on, collected by what is wrong with them."""

    def __init__(self) -> None:
        self._count = Counter[tuple[Problem, str, str, str]]()
        self._ids: dict[tuple[Problem, str, str, str], list[str]] = {}

    def add(self, id: str, workflow: str, problem: Problem, why: str = "", stop: str = "") -> None:
        """Count one."""
        key = problem, workflow, stop, why
        self._count[key] += 1
        if self._count[key] <= FIRST_IDS:
            self._ids.setdefault(key, []).append(id)

    def stranded(self) -> tuple[Stranded, ...]:
        """Return what was found."""
        found = self._count.items()
        return tuple(Stranded(*key, count, tuple(self._ids[key])) for key, count in found)


def version_of(state: State) -> int:
    """Return the version with which an instance goes on; 0 if it is not counted."""
    version = state.labels.get(VERSION, "")
    return int(version) if version.isdecimal() else 0


async def check(
    engine: Engine,
    definitions: Iterable[Code],
    *,
    progress: Callable[[int], object] = lambda _: None,
) -> Report:
    """Hold definitions against all live instances of a store; change nothing, and start nothing.

    Run it before a deployment, with the new definitions and the store that they will work on. It
    reads every live instance once: its data, names and places must fit. Where threads wait for
    branches or children, the arguments of that stop are evaluated.

    Args:
        engine: open on the store; its registry need not have the workflows.
        definitions: the workflows as they will be, with those older versions that stay.
        progress: is called with the number of instances so far, after each.

    Raises:
        CompileError: a definition cannot be compiled.
        InvalidInputError: two definitions have one name and one version.
        DriverError: the store failed.
    """
    codes, found, live = Codes(definitions), Found(), 0
    versions: dict[str, Counter[int]] = {}
    for code in codes:
        known = [each.version for each in codes.versions(code.name)]
        versions[code.name] = counts = Counter(dict.fromkeys(known, 0))
        async for state in _living(engine, code.name, found):
            live += 1
            progress(live)
            counts[version_of(state)] += 1
            if why := misfit(state, codes):
                found.add(state.id, code.name, "misfit", why, state.labels.get(STOP, ""))
    for flow in await _unknown(engine, codes):
        if (name := flow.removeprefix(SCHEDULES)) != flow and name not in codes:
            async for state in engine.in_flow(flow):
                found.add(state.id, name, "unknown workflow", "a schedule starts it")
        elif (name := flow.removeprefix(FLOWS)) != flow:
            async for state in _living(engine, name, found):
                found.add(state.id, name, "unknown workflow")
    several = {name: dict(sorted(each.items())) for name, each in versions.items() if len(each) > 1}
    return Report(found.stranded(), live, several)


async def _living(engine: Engine, workflow: str, found: Found) -> AsyncIterator[State]:
    """Iterate over live instances that have more to do than to tell their parents."""
    for status in LIVE:
        since, is_damaged = 0, True
        while is_damaged:
            is_damaged = False
            try:
                async for state in engine.states(
                    labels={WORKFLOW: workflow}, latest_only=True, status=status, since_rev=since
                ):
                    if OUTCOME not in state.labels:
                        yield state
            except DamagedRevisionError as error:
                found.add(error.id, workflow, "damaged", str(error))
                since, is_damaged = error.rev, True


async def _unknown(engine: Engine, codes: Codes) -> list[str]:
    """Return the flows that something lives in and that are not those of the definitions."""
    flows = FlowRegistry()
    for name in [TELL, *(flow_of(each.name) for each in codes)]:
        flows.declare(name)
    report = await flowstate.check(engine, flows, sample=1)
    return sorted({each.flow for each in report.findings if each.problem == "unknown flow"})
