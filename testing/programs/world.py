"""A store beside its model: whatever is done, is done to both and compared, errors included."""

import contextlib
from collections.abc import Awaitable, Sequence
from datetime import datetime, timedelta
from typing import Any, Self

from msgspec.structs import replace

from flowstate.clock import Clock, FakeClock, SystemClock
from flowstate.commands import Command, GetData, GetStates
from flowstate.context import StateContext
from flowstate.driver import Driver, DueQuery, NewDelay, NewTimer, Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import FlowstateError
from flowstate.ground.limits import MAX_PAGE
from flowstate.registry import FlowRegistry
from flowstate.testcases.harness import Capabilities, MakeDriver
from flowstate.testcases.support import DriverWrapper
from flowstate.testing.programs.model import LONG_AGO, Model
from flowstate.testing.programs.plan import Planned, sums

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
        sent: every commit that was stored.
        pages: commands to go on with, from pages that were read.
        trace: what was done.
    """

    def __init__(self, make_driver: MakeDriver, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self.clock: Clock = FakeClock(autojump=False) if capabilities.fake_clock else SystemClock()
        self.model = Model()
        self.contexts: dict[str, StateContext] = {}
        self.sent: list[Writes] = []
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
        page = await self.driver.get_due(DueQuery("delay", limit=1))
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

    async def _stored_dues(self) -> tuple[dict[str, datetime], datetime]:
        """Return when all delays of the store are due, and the store's clock."""
        page = await self.driver.get_due(DueQuery("delay", everything=True, limit=MAX_PAGE))
        return {delay.id: delay.due for delay in page.due}, self.saw(page.now)

    async def _dues(self, writes: Writes, low: datetime) -> dict[str, datetime]:
        """Return when the delays and timers of a commit are due; some times are looked up."""
        own: dict[str, NewDelay | NewTimer] = {timer.id: timer for timer in writes.timers}
        own |= {writes.delay_id(index): new for index, new in enumerate(writes.delays)}
        dues = {id: new.due for id, new in own.items() if new.due is not None}
        if len(dues) == len(own):
            return dues
        stored, high = await self._stored_dues()
        for id, new in own.items():
            if new.after is not None:
                due = dues[id] = stored.get(id, LONG_AGO)
                self.between(due, low + new.after, high + new.after, f"time of {new!r}")
        return dues

    async def _learn_claims(self, writes: Writes, low: datetime) -> None:
        """Tell the model until when delays are claimed."""
        if not writes.claims:
            return
        stored, high = await self._stored_dues()
        for claim in writes.claims:
            if self.model.holders.get(claim.id) == claim.holder:  # Not set again since.
                later, due = timedelta(seconds=claim.seconds), stored.get(claim.id, LONG_AGO)
                self.between(due, low + later, high + later, f"time of {claim!r}")
                delay = self.model.delays[claim.id]
                self.model.delays[claim.id] = replace(delay, due=due)

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
        self.sent += [writes for writes, verdict in sent if isinstance(verdict, tuple)]
        return sent

    def _compare_writes(self, found: Writes, expected: Writes) -> None:
        if not set(found.needs) <= set(expected.needs):
            self.same(found.needs, expected.needs, "data that a commit needs")
        wanted = 0 if self.driver.stores_objects else len(found.puts)
        self.same(len(found.bodies), wanted, "number of bodies")
        if found.size < sum(len(data.blob) for data in found.data):
            raise AssertionError(f"a commit has more than {found.size} bytes: {found!r}")
        delays = [
            replace(new, body=sent.body, references=sent.references)
            for new, sent in zip(expected.delays, found.delays, strict=True)
        ]
        timers = [
            replace(new, body=sent.body)
            for new, sent in zip(expected.timers, found.timers, strict=True)
        ]
        expected = replace(
            expected,
            token=found.token,
            needs=found.needs,
            bodies=found.bodies,
            delays=tuple(delays),
            timers=tuple(timers),
            size=found.size,
        )
        found = replace(found, forgets=tuple(sorted(found.forgets)))
        self.same(_unstamped(found), _unstamped(expected), "writes")
        for new in found.delays:
            self._compare_references(new)

    def _compare_references(self, new: NewDelay) -> None:
        """Look whether a delay keeps the data that its state has and its revision has not."""
        stored = self.model.log.get(new.state.rev)
        if new.put is None and stored is not None:
            own = sums(new.state) - sums(stored)
            if not own <= set(new.references) <= sums(new.state):
                self.same(set(new.references), own, f"what {new!r} refers to")

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
        try:
            self.model.check(writes, low)
        except FlowstateError as refusal:
            self.same(verdict, refusal, "verdict")
            return verdict
        if not isinstance(verdict, tuple):
            self.same(verdict, "a commit", "verdict")
            return verdict
        dues = await self._dues(writes, low)
        stamp = self._stamped(verdict)
        now = stamp if verdict and not isinstance(self.clock, FakeClock) else low
        expected = self.model.judge(writes, now, stamp, dues)
        self.same(verdict, expected, "verdict")
        await self._learn_claims(writes, low)
        return expected

    async def commit(self, batch: Sequence[Writes]) -> None:
        """Give a batch, or as much of it as it takes at a time, to the driver."""
        self.trace.append(f"commit({batch!r:.5000})")
        size = self.driver.max_batch_size
        for start in range(0, len(batch), size):
            some = batch[start : start + size]
            low = self.earliest()
            verdicts = await self.driver.commit(some)
            self._take_sent()
            for writes, verdict in zip(some, verdicts, strict=True):
                await self.judge(writes, verdict, low)
            for writes, verdict in zip(some, verdicts, strict=True):
                for data in writes.data if isinstance(verdict, tuple) else ():
                    self.model.data[data.checksum].before = self.model.head


def _unstamped(writes: Writes) -> Writes:
    """Return writes without the times that the store stamps."""
    puts = [replace(state, committed_at=None, delayed_until=None) for state in writes.puts]
    delays = [
        replace(new, state=replace(new.state, committed_at=None, delayed_until=None))
        for new in writes.delays
    ]
    return replace(writes, puts=tuple(puts), delays=tuple(delays))


def told(result: object) -> object:
    """Return what can be compared: of an error, its class and what it names."""
    if not isinstance(result, FlowstateError):
        return result
    return type(result), {name: getattr(result, name, None) for name in DETAILS}


def _snapshot(ctx: StateContext) -> Snapshot:
    return ctx.current, ctx.committed, ctx.transitions, dict(ctx.data)
