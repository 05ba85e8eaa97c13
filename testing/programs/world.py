"""A store beside its model: whatever is done, is done to both and compared, errors included."""

import contextlib
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Any, Self

from msgspec.structs import replace

from flowstate.clock import Clock, FakeClock, SystemClock
from flowstate.commands import Command, GetData, GetStates
from flowstate.context import StateContext
from flowstate.driver import DelayQuery, Driver, Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import CommitUnknownError, FlowstateError, RevisionMismatchError
from flowstate.flow import FlowRegistry
from flowstate.limits import MAX_PAGE
from flowstate.testcases.harness import Capabilities, MakeDriver
from flowstate.testcases.support import DriverWrapper
from flowstate.testing.programs.model import LONG_AGO, Model
from flowstate.testing.programs.plan import Planned

__all__ = ["FLOWS", "World", "outcome"]

FLOWS = ("work", "wait", "é {}%")
DETAILS = ("field", "ids", "floor", "since_rev", "head", "flow")
Sent = tuple[Writes, Verdict]
Snapshot = tuple[object, ...]


async def outcome(doing: Awaitable[object]) -> object:
    """Return a result, or the error of flowstate that came instead."""
    try:
        return await doing
    except FlowstateError as error:
        return error


class Sender(DriverWrapper):
    """Remembers what was sent to a driver, and what it said."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.sent: list[Sent] = []

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Pass on, and remember."""
        verdicts = await self._driver.commit(batch)
        self.sent += zip(batch, verdicts, strict=True)
        return verdicts


class World:
    """A store, opened twice if it can be shared, and its model.

    Attributes:
        model: what the store must hold.
        contexts: one for each state, from its last commit.
        sent: every commit that has reached the store, with its verdict.
        pages: commands to go on with, from pages that were read.
        trace: what was done.
    """

    def __init__(self, make_driver: MakeDriver, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.clock: Clock = FakeClock(autojump=False) if capabilities.fake_clock else SystemClock()
        self.model = Model()
        self.contexts: dict[str, StateContext] = {}
        self.sent: list[Sent] = []
        self.pages: list[GetStates] = []
        self.trace: list[str] = []
        self._make_driver = make_driver
        self._flows = FlowRegistry()
        for flow in FLOWS:
            self._flows.declare(flow)
        self._exit = contextlib.AsyncExitStack()
        self._opened: list[tuple[Engine, Sender]] = []
        self._turn = 0
        self._seen = LONG_AGO  # The store's clock has been here.

    async def __aenter__(self) -> Self:
        for _ in range(2 if self.capabilities.shared else 1):
            driver = Sender(self._make_driver(self.clock))
            engine = Engine(driver, self._flows, clock=self.clock)
            self._opened.append((await self._exit.enter_async_context(engine), driver))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._opened = []
        await self._exit.aclose()

    async def reopen(self) -> None:
        """Close the store, and open it again."""
        await self.__aexit__()
        await self.__aenter__()

    def take_turn(self) -> None:
        """Let the other engine, if there is one, do what comes next."""
        self._turn += 1

    @property
    def engine(self) -> Engine:
        """The engine whose turn it is."""
        return self._opened[self._turn % len(self._opened)][0]

    @property
    def driver(self) -> Sender:
        """The driver of that engine."""
        return self._opened[self._turn % len(self._opened)][1]

    def same(self, found: object, expected: object, what: str) -> None:
        """Compare.

        Raises:
            AssertionError: the store is not as the model.
        """
        if told(found) != told(expected):
            raise AssertionError(f"{what}:\n  expected {expected!r}\n  found    {found!r}")

    # Time

    async def now(self) -> datetime:
        """Return the store's clock."""
        if isinstance(self.clock, FakeClock):
            return self.clock.now()
        page = await self.driver.get_delayed(DelayQuery(limit=1))
        return self.saw(page.now)

    def earliest(self) -> datetime:
        """Return what the store's clock cannot be before."""
        return self.clock.now() if isinstance(self.clock, FakeClock) else self._seen

    def saw(self, now: datetime) -> datetime:
        """Note a time that the store has given as its own."""
        if isinstance(self.clock, FakeClock):
            self.same(now, self.clock.now(), "the store's clock")
        self._seen = max(self._seen, now)
        return now

    def between(self, time: datetime, low: datetime, high: datetime | None, what: str) -> None:
        """Look whether a time can be true.

        Raises:
            AssertionError: it cannot.
        """
        if time < low or (high is not None and time > high):
            raise AssertionError(f"{what}: {time} is not between {low} and {high}")

    def _stamped(self, verdict: Verdict) -> datetime:
        """Return when a commit was stamped."""
        stamps = [state.committed_at for state in verdict] if isinstance(verdict, tuple) else []
        if not stamps or stamps[0] is None:
            return LONG_AGO
        self.same(set(stamps), {stamps[0]}, "times of one commit")
        low, high = self.model.last, None
        if isinstance(self.clock, FakeClock):
            low = max(low, self.clock.now())
            high = max(low, self._seen)
        self.between(stamps[0], low, high, "time of a commit")
        self._seen = max(self._seen, stamps[0])
        return stamps[0]

    async def _dues(self, writes: Writes, low: datetime) -> list[datetime]:
        """Return when the delays of a commit are due; those without a time are looked up."""
        if all(new.due is not None for new in writes.delays):
            return [new.due or LONG_AGO for new in writes.delays]
        page = await self.driver.get_delayed(DelayQuery(everything=True, limit=MAX_PAGE))
        high = self.saw(page.now)
        stored = {delay.id: delay.due for delay in page.delayed}
        dues = []
        for index, new in enumerate(writes.delays):
            id = f"{writes.token}.{index}"
            due = stored.get(id, new.due)
            if due is None and id in self.model.delays:
                # Stored before, and removed by a later commit of the same batch.
                due = self.model.delays[id].due
            if due is None:
                raise AssertionError(f"the delay {id} is not stored")
            if new.after is not None and id not in self.model.delays:
                self.between(due, low + new.after, high + new.after, "time of a delay")
            dues.append(due)
        return dues

    # Commits

    async def do(self, command: Command[Any]) -> None:
        """Do a command that changes contexts or the store."""
        self.trace.append(f"do({command!r:.3000})")
        planned = Planned(FLOWS, self.model.data)
        expected: object = None
        writes: Writes | None = None
        try:
            writes = planned.do(command)
        except FlowstateError as error:
            expected = error
        low = self.earliest()
        before = {ctx: _snapshot(ctx) for ctx in planned.drafts}
        result = await outcome(self.engine.do(command))
        sent = self._take_sent()
        self.same(len(sent), 0 if writes is None else 1, f"commits sent, outcome {result!r}")
        states: tuple[Any, ...] = ()
        if writes is not None:
            ((given, verdict),) = sent
            self._compare_writes(given, writes)
            expected = await self.judge(given, verdict, low)
            if isinstance(expected, tuple):
                states, expected = expected, None
        if isinstance(command, GetData) and expected is None:
            expected = planned.found
        self.same(result, expected, "outcome")
        failed = isinstance(result, FlowstateError)
        self._compare_contexts(planned, before, states, failed=failed)
        if not failed:
            self._keep(planned)

    def _take_sent(self) -> list[Sent]:
        sent, self.driver.sent = self.driver.sent, []
        self.sent += sent
        return sent

    def _compare_writes(self, found: Writes, expected: Writes) -> None:
        if not set(found.needs) <= set(expected.needs):
            self.same(found.needs, expected.needs, "data that a commit needs")
        self.same(found, replace(expected, token=found.token, needs=found.needs), "writes")

    def _compare_contexts(
        self,
        planned: Planned,
        before: dict[StateContext, Snapshot],
        states: tuple[Any, ...],
        *,
        failed: bool,
    ) -> None:
        """Look whether contexts are as they were, or as they were drafted."""
        committed = iter(states)
        for ctx, draft in planned.drafts.items():
            if failed:
                wanted = before[ctx]
            elif states and draft.put:
                state = next(committed)
                wanted = (state, state, (), draft.data)
            else:
                wanted = (draft.state, before[ctx][1], draft.steps, draft.data)
            self.same(_snapshot(ctx), wanted, "context")

    def _keep(self, planned: Planned) -> None:
        """Go on with the contexts that know the latest revision."""
        for ctx in planned.drafts:
            id = ctx.committed.id
            if self.model.latest.get(id, 0) == ctx.committed.rev:
                self.contexts[id] = ctx

    async def judge(self, writes: Writes, verdict: Verdict, low: datetime) -> object:
        """Compare a verdict with that of the model, which applies the commit; return it."""
        known = self.model.verdicts.get(writes.token)
        refusal: FlowstateError | None = None
        try:
            self.model.check(writes)
        except FlowstateError as error:
            refusal = error
        if known is not None and refusal is not None:
            # It may only be forgotten that it was committed if its revisions are.
            lost = not all(state.rev in self.model.log for state in known)
            if lost and isinstance(verdict, CommitUnknownError):
                return verdict
            if (lost or not known) and isinstance(verdict, RevisionMismatchError):
                known = None
            self.same(verdict, refusal if known is None else known, "verdict of a replay")
            return verdict
        if refusal is not None or not isinstance(verdict, tuple):
            self.same(verdict, refusal or "a commit", "verdict")
            return verdict
        dues = await self._dues(writes, low)
        expected = self.model.judge(writes, self._stamped(verdict), dues)
        self.same(verdict, expected, "verdict")
        return expected

    def _is_refused(self, writes: Writes) -> bool:
        """Return whether the model refuses a commit that was never committed so far."""
        if writes.token in self.model.verdicts:
            return False
        try:
            self.model.check(writes)
        except FlowstateError:
            return True
        return False

    async def commit(self, batch: Sequence[Writes]) -> None:
        """Give a batch, or as much of it as it takes at a time, to the driver."""
        self.trace.append(f"commit({batch!r:.5000})")
        size = self.driver.batch_limit
        for start in range(0, len(batch), size):
            some = batch[start : start + size]
            low = self.earliest()
            verdicts = await self.driver.commit(some)
            self._take_sent()
            refused: dict[str, Verdict] = {}
            for place, (writes, verdict) in enumerate(zip(some, verdicts, strict=True)):
                later = zip(some[place + 1 :], verdicts[place + 1 :], strict=True)
                again = any(each.token == writes.token and same == verdict for each, same in later)
                if again and isinstance(verdict, tuple) and self._is_refused(writes):
                    continue  # It was committed all the same, by the one that comes later.
                if writes.token in refused and told(refused[writes.token]) == told(verdict):
                    continue  # What was refused may be refused again, whatever came between.
                await self.judge(writes, verdict, low)
                if isinstance(verdict, FlowstateError):
                    refused[writes.token] = verdict
            for writes, verdict in zip(some, verdicts, strict=True):
                for data in writes.data if isinstance(verdict, tuple) else ():
                    if data.checksum in self.model.data:  # Not if it was a replay.
                        self.model.data[data.checksum].before = self.model.head


def told(result: object) -> object:
    """Return what can be compared: of an error, its class and what it names."""
    if not isinstance(result, FlowstateError):
        return result
    return type(result), {name: getattr(result, name, None) for name in DETAILS}


def _snapshot(ctx: StateContext) -> Snapshot:
    return ctx.current, ctx.committed, ctx.transitions, dict(ctx.data)
