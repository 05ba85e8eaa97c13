"""Holds a registry against a store: what lives there that could not go on with these flows?"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from flowstate.driver import DelayedState, Driver, DueKind, DueQuery
from flowstate.errors import ValueDecodeError, ValueNotFoundError
from flowstate.frozen import EMPTY
from flowstate.registry import FlowRegistry

__all__ = ["Finding", "Problem", "Report", "check"]

Problem = Literal["unknown flow", "value", "damaged", "on_failure"]
"""What is wrong: no such flow; a value that does not decode; what cannot be read; ``on_failure`` of
a registered flow that names no flow."""

KINDS: tuple[tuple[DueKind, str], ...] = (
    ("stall", "active states"),
    ("idle", "paused states"),
    ("delay", "delays and timers"),
)
MOST = 1_000
FIRST_IDS = 10
NEVER_SENT = ""  # The flow of states that were never sent to one; they wait for that.


class Finding(Struct, frozen=True):
    """Something that could not go on.

    Attributes:
        problem: in a word.
        flow: in which it is, or to which it goes.
        what: what kind of thing it is, in words.
        count: how many there are, up to 1,000.
        more: whether there are more than that.
        ids: of the first states.
        error: of the first one, if it is the value or the stored form that is wrong.
    """

    problem: Problem
    flow: str
    what: str
    count: int = 0
    more: bool = False
    ids: tuple[str, ...] = ()
    error: str = ""

    def __str__(self) -> str:
        number = f"more than {self.count}" if self.more else f"{self.count}"
        ids = f": {', '.join(map(repr, self.ids))}" if self.ids else ""
        error = f" ({self.error})" if self.error else ""
        return f"{self.problem}: {number} {self.what} in {self.flow!r}{ids}{error}"


class Report(Struct, frozen=True):
    """What :func:`check` has found; ``str`` makes a line of each finding."""

    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything that lives in the store could go on."""
        return not self.findings

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "everything in the store can go on"


async def check(
    driver: Driver,
    flows: FlowRegistry,
    *,
    values: Mapping[str, Any] = EMPTY,
    sample: int = 100,
) -> Report:
    """Hold a registry against all living states, delays and timers of a store.

    Run it before a deployment, with the new registry and the store that it will work on. The cost
    follows the number of flows, not of states. It changes nothing.

    Args:
        driver: of the store, open.
        flows: the registry. Aliases and declared flows count as known.
        values: types by name, as for ``ctx.get``: a sample of the states in each known flow has to
            decode as them.
        sample: how many states of each flow.

    Raises:
        DriverError: the store failed.
    """
    findings = [
        Finding("on_failure", id, f"the registered flow goes to {to!r}, which is no flow", 1)
        for id, to in flows.failing_to()
        if to not in flows
    ]
    for kind, what in KINDS:
        async for flow in _unknown(driver, kind, flows):
            findings.append(await _found(driver, kind, flow, what))
    if values:
        for flow in flows:
            findings += await _undecodable(driver, flow, values, sample)
    return Report(tuple(findings))


async def _unknown(driver: Driver, kind: DueKind, flows: FlowRegistry) -> AsyncIterator[str]:
    """Iterate over the flows outside of the registry that something lives in."""
    known = [*flows, NEVER_SENT]
    while True:
        query = DueQuery(kind, flows=tuple(known), everything=True, limit=1, others=True)
        others = (await driver.get_due(query)).others
        for flow in others:
            yield flow
        if not others:
            return
        known += others


async def _found(driver: Driver, kind: DueKind, flow: str, what: str) -> Finding:
    page = await driver.get_due(DueQuery(kind, flows=(flow,), everything=True, limit=MOST))
    ids = [each.state.id for each in page.due] + [bad.state_id for bad in page.damaged]
    return Finding(
        "unknown flow", flow, what, len(ids), page.more, tuple(dict.fromkeys(ids))[:FIRST_IDS]
    )


async def _undecodable(
    driver: Driver, flow: str, values: Mapping[str, Any], sample: int
) -> Sequence[Finding]:
    findings: list[Finding] = []
    for kind, what in KINDS[:2]:
        query = DueQuery(kind, flows=(flow,), everything=True, limit=sample)
        page = await driver.get_due(query)
        wrong = {each.state.id: error for each in page.due if (error := _error(each, values))}
        if wrong:
            ids = tuple(wrong)[:FIRST_IDS]
            error = next(iter(wrong.values()))
            findings.append(Finding("value", flow, what, len(wrong), page.more, ids, error))
    return findings


def _error(found: DelayedState, values: Mapping[str, Any]) -> str:
    """Return why a value of a state does not decode; a value that is not there is none."""
    for name, kind in values.items():
        try:
            found.state.get(kind, name)
        except ValueNotFoundError:
            continue
        except ValueDecodeError as error:
            return str(error)
    return ""
