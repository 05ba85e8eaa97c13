"""Holds a registry against a store: what lives there that could not go on with these flows?"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from flowstate.driver import DamagedDelay, DelayedState, Driver, DueKind, DuePage, DueQuery
from flowstate.engine import Engine
from flowstate.errors import (
    InvalidInputError,
    UnknownFlowError,
    ValueDecodeError,
    ValueNotFoundError,
)
from flowstate.ground.frozen import EMPTY, freeze
from flowstate.ground.limits import MAX_PAGE, check_id
from flowstate.ground.options import check_count
from flowstate.registry import FlowRegistry
from flowstate.retrying import read_override
from flowstate.state import State

__all__ = ["Finding", "Problem", "Report", "check"]

Problem = Literal["unknown flow", "alias", "on_failure", "value", "damaged"]
"""What is wrong: something lives in, or goes to, a flow that is not registered; an alias stands for
no flow; failures go to none; a value does not decode; something cannot be read."""

KINDS: tuple[tuple[DueKind, str], ...] = (
    ("stall", "active states"),
    ("idle", "paused states"),
    ("delay", "delays and timers"),
)
STATES = KINDS[:2]
MOST = MAX_PAGE
FIRST_IDS = 10
NEVER_SENT = ""  # The flow of states that were never sent to one; they wait for that.


class Finding(Struct, frozen=True):
    """Something that could not go on.

    Attributes:
        problem: in a word.
        flow: in which it is, or to which it goes.
        what: what kind of thing it is, in words.
        count: how many were found.
        more: whether there may be more of them.
        ids: of the first states.
        error: what is wrong with the first one.
    """

    problem: Problem
    flow: str
    what: str
    count: int = 0
    more: bool = False
    ids: tuple[str, ...] = ()
    error: str = ""

    def __str__(self) -> str:
        number = f"{self.count}{' or more' if self.more else ''} " if self.count else ""
        ids = f": {', '.join(map(repr, self.ids))}" if self.ids else ""
        error = f" ({self.error})" if self.error else ""
        return f"{self.problem}: {number}{self.what} {self.flow!r}{ids}{error}"


class Report(Struct, frozen=True):
    """What :func:`check` has found; ``str`` makes a line of each finding.

    It is true if something was found: ``if report: print(report)``.
    """

    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all that was looked at could go on."""
        return not self.findings

    def __bool__(self) -> bool:
        return not self.ok

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "everything in the store can go on"


async def check(
    store: Driver | Engine,
    flows: FlowRegistry | None = None,
    *,
    values: Mapping[str, Any] = EMPTY,
    sample: int = 100,
) -> Report:
    """Hold a registry against all living states, delays and timers of a store; change nothing.

    Run it before a deployment, with the new registry and the store that it will work on. The cost
    follows the number of flows and the sample, not the number of states.

    Args:
        store: a driver or an engine, open.
        flows: the registry; ``None``: that of the engine. Flows that are only declared, and
            aliases that lead to a flow, count as known.
        values: types by name, as for ``ctx.get``. Those of the sample that have such a value must
            decode.
        sample: how many active and how many paused states of each known flow are looked into,
            from 1 to 1,000: for their values, for an ``on_failure`` of their own, and for damage.

    Raises:
        InvalidInputError: a bad argument; names it.
        DriverError: the store failed.
    """
    check_count("sample", sample, 1, MAX_PAGE)
    values = {check_id("values", name): kind for name, kind in freeze("values", values).items()}
    driver, flows = _parts(store, flows)
    checker = Checker(driver, flows, values, sample)
    await checker.check()
    return Report(tuple(checker.findings))


def _parts(store: Driver | Engine, flows: FlowRegistry | None) -> tuple[Driver, FlowRegistry]:
    driver: Any = store
    if isinstance(store, Engine):
        store.check_open()
        driver, flows = store.driver, store.flows if flows is None else flows
    if not isinstance(flows, FlowRegistry):
        raise InvalidInputError("flows", "must be a FlowRegistry")
    return driver, flows


class Checker:
    """Collects what it finds.

    Attributes:
        findings: so far.
    """

    def __init__(
        self, driver: Driver, flows: FlowRegistry, values: Mapping[str, Any], sample: int
    ) -> None:
        self.findings: list[Finding] = []
        self._driver = driver
        self._flows = flows
        self._known = [id for id in flows if _is_known(flows, id)]
        self._values = values
        self._sample = sample
        self._damaged: dict[str, DamagedDelay] = {}

    async def check(self) -> None:
        """Find everything."""
        self._check_registry()
        for kind, what in KINDS:
            async for flow in self._unknown(kind):
                await self._count(kind, flow, what)
        for kind, what in STATES:
            for flow in self._known:
                await self._look_into(kind, flow, what)
        if self._damaged:
            self._note_damaged([*self._damaged.values()])

    def _check_registry(self) -> None:
        for id in self._flows:
            if not _is_known(self._flows, id):
                self.findings.append(Finding("alias", id, "stands for no flow:"))
        for id, to in self._flows.failing_to():
            if not _is_known(self._flows, to):
                what = f"failures of flow {id!r} go to no flow:"
                self.findings.append(Finding("on_failure", to, what))

    async def _unknown(self, kind: DueKind) -> AsyncIterator[str]:
        """Iterate over the flows outside of the registry that something lives in."""
        known = [*self._known, NEVER_SENT]
        while others := (await self._page(kind, known, 1, others=True)).others:
            for flow in others:
                yield flow
            known += others

    async def _page(
        self, kind: DueKind, flows: Iterable[str], limit: int, *, others: bool = False
    ) -> DuePage:
        query = DueQuery(kind, flows=tuple(flows), everything=True, limit=limit, others=others)
        page = await self._driver.get_due(query)
        self._damaged.update({bad.id: bad for bad in page.damaged})
        return page

    async def _count(self, kind: DueKind, flow: str, what: str) -> None:
        page = await self._page(kind, [flow], MOST)
        ids = [each.state.id for each in page.due]
        if ids or page.more:  # Else they have gone meanwhile, or cannot be read.
            where = "to flow" if kind == "delay" else "in flow"
            self._note("unknown flow", flow, f"{what} {where}", ids, more=page.more)

    async def _look_into(self, kind: DueKind, flow: str, what: str) -> None:
        page = await self._page(kind, [flow], self._sample)
        wrong = {each.state.id: error for each in page.due if (error := self._error(each.state))}
        if wrong:
            error = next(iter(wrong.values()))
            self._note("value", flow, f"{what} in flow", [*wrong], error, more=page.more)
        self._check_overrides(page.due, what, more=page.more)

    def _error(self, state: State) -> str:
        """Return why a value of a state does not decode; one that is not there is not wrong."""
        for name, kind in self._values.items():
            try:
                state.get(kind, name)
            except ValueNotFoundError:
                continue
            except ValueDecodeError as error:
                return str(error)
        return ""

    def _check_overrides(self, found: Sequence[DelayedState], what: str, *, more: bool) -> None:
        lost: dict[str, list[str]] = {}
        for each in found:
            to = read_override(each.state.annotations).on_failure
            if to is not None and not _is_known(self._flows, to):
                lost.setdefault(to, []).append(each.state.id)
        for to, ids in lost.items():
            self._note("on_failure", to, f"{what} whose failures go to", ids, more=more)

    def _note(
        self,
        problem: Problem,
        flow: str,
        what: str,
        ids: Sequence[str],
        error: str = "",
        *,
        more: bool,
    ) -> None:
        first = tuple(dict.fromkeys(ids))[:FIRST_IDS]
        self.findings.append(Finding(problem, flow, what, len(ids), more, first, error))

    def _note_damaged(self, damaged: Sequence[DamagedDelay]) -> None:
        ids = [bad.state_id for bad in damaged]
        what = "states, delays or timers that cannot be read, in any flow"
        self._note("damaged", NEVER_SENT, what, ids, damaged[0].error, more=True)


def _is_known(flows: FlowRegistry, id: str) -> bool:
    try:
        flows.check(id)
    except UnknownFlowError:
        return False
    return True
