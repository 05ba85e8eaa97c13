"""Starts instances again and again: in intervals, at times, one after the other, or by events.

A starter is an instance itself, so it survives restarts, and can be paused, watched and cancelled.
What it starts has an id made of the time or of the event, so that each is started once.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from copy import deepcopy
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import attrs
import msgspec
from msgspec import Struct

from flowstate import (
    Commit,
    Forget,
    InvalidCommandError,
    InvalidInputError,
    RetryPolicy,
    RevisionMismatchError,
    StateContext,
    StateNotFoundError,
    Status,
)
from flowstate.engines.events.consuming import Evaluate, Strategy
from flowstate.engines.events.publishing import EVENTS
from flowstate.engines.events.slots import slot_after
from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.kernel.code import (
    At,
    Code,
    CodeOptions,
    Frame,
    MisfitError,
    Raised,
    Reached,
    Stop,
)
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.errors import InstanceCancelledError, InstanceFailedError
from flowstate.engines.kernel.instance import DATA
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Failed, Operation, Outcome, Run, StepOptions, Wait
from flowstate.engines.kernel.outside import Events, Published, Result
from flowstate.ground.frozen import EMPTY

__all__ = ["Begin", "Gathering", "Plan", "Starter", "Starters", "Starting", "starter_id"]

logger = logging.getLogger("flowstate.engines")

WAIT, START = "wait", "start"  # Stops.
PATIENT = RetryPolicy(attempts=1_000_000, first=0.1, longest=60.0)
LOOK = timedelta(hours=1)  # How often it looks whether the one that runs was forgotten.
MOST_GATHERED = 256 * 1024  # Bytes of events of which some are still missing.
RACES = 64
SHORTEST = timedelta(milliseconds=1)  # Interval.
EARLY = timedelta(seconds=1)  # Between the clocks of the store and of a process.


Begin = Callable[[str, str, Any, int | None], Awaitable[object]]
"""Starts an instance, unless there is one of that id. What it raises is tried again.

It is given what to start an instance of; the id; the array of events by which it starts, as JSON,
or ``None``; and a revision, if the instance is to see the events that were published after that,
although it starts a moment later."""


class Plan(Struct, frozen=True, omit_defaults=True):
    """When instances start: one of these, and a zone.

    Attributes:
        every: seconds of an interval, whether the one before still runs or not.
        cron: an expression.
        zone: the name of the time zone in which it is read.
        after: seconds after the one before has ended; the first one starts at once.
        on: events.
    """

    every: float | None = None
    cron: str = ""
    zone: str = "UTC"
    after: float | None = None
    on: Strategy | None = None

    def next(self, now: datetime, last: datetime | None = None) -> datetime | None:
        """Return when the next one starts, by time: later than now, but for the first ``after``."""
        if self.every:
            base, interval = last or now, max(SHORTEST, timedelta(seconds=self.every))
            return base + interval * ((now - base) // interval + 1)
        if self.cron:
            return slot_after(self.cron, self.zone, now)
        return now if self.after is not None and last is None else None


class Change(Struct, frozen=True):
    """A message to a starter: start other instances, or at other times.

    Attributes:
        target: see :class:`Starter`.
        plan: see there.
        order: see there.
        since: events count after this revision, if it has not listened before.
    """

    target: str
    plan: Plan
    order: int
    since: int


STOPS = {
    WAIT: Stop(WAIT, "wait", messages={"Change": Change}, is_open=False),
    START: Stop(START, "step"),
}


class Gathering(Struct):
    """Events that belong together, of which some are still missing.

    Attributes:
        strategy: how far it has come.
        keys: that they have in common.
        events: as JSON.
    """

    strategy: Strategy
    keys: dict[str, Any] = msgspec.field(default_factory=dict)
    events: list[Any] = msgspec.field(default_factory=list)


class Starter(Struct, omit_defaults=True):
    """The data of a starter.

    Attributes:
        name: what ids of instances begin with.
        target: what it starts instances of.
        plan: when.
        order: of the target; an older one does not replace it.
        began: when it has begun.
        count: how many it has started one after the other.
        next: when it starts one, by time.
        last: the instance whose end it waits for.
        cursor: the revision of the last event that it has looked at.
        queue: events that it was given and has not looked at.
        gathered: events of which some are still missing, the oldest first.
    """

    name: str
    target: str
    plan: Plan
    order: int = 0
    began: datetime | None = None
    count: int = 0
    next: datetime | None = None
    last: str = ""
    cursor: int | None = None
    queue: list[Published] = msgspec.field(default_factory=list)
    gathered: list[Gathering] = msgspec.field(default_factory=list)


@attrs.define(eq=False)
class Starting:
    """The code of starters.

    Attributes:
        name: of the code.
        runs: the code of the instances that they start.
        call: starts one.
        evaluate: evaluates expressions over events.
        now: returns the time.
    """

    name: str
    runs: Code
    call: Begin
    evaluate: Evaluate
    now: Callable[[], datetime]

    version: int = attrs.field(init=False, default=0)
    takes: Mapping[str, Any] = attrs.field(init=False, default=EMPTY)
    uses: Mapping[str, Code] = attrs.field(init=False, default=EMPTY)
    gives: Any = attrs.field(init=False, default=Any)
    data: Any = attrs.field(init=False, default=Starter)
    options: CodeOptions = attrs.field(init=False, default=CodeOptions(retry=PATIENT))
    stops: Mapping[str, Stop] = attrs.field(init=False, default=STOPS)

    def begin(self, frame: Frame, data: Starter) -> Reached:  # noqa: ARG002 - there are no args
        """Wait for the first time or event."""
        data.began = self.now()
        data.next = data.plan.next(data.began)
        return self._at(WAIT)

    def ask(self, frame: Frame, data: Starter) -> Operation:
        """Return what it waits for, or what starts instances."""
        self.check(frame)
        if frame.stop == START:
            return Run(START, self._start, [data], options=StepOptions(gives=Starter))
        if data.plan.on is not None:
            fields = data.plan.on.found_by(EMPTY)
            return Wait(WAIT, [Change, Events(EVENTS, *fields, after=data.cursor)])
        if data.last:
            return Wait(WAIT, [Change, Result(self.runs, data.last)], LOOK)
        left = None if data.next is None else max(timedelta(0), data.next - self.now())
        return Wait(WAIT, [Change], left)

    def go_on(self, frame: Frame, data: Starter, outcome: Outcome) -> Reached:
        """Note what has come, and what was started."""
        self.check(frame)
        if isinstance(outcome, Failed):
            if isinstance(outcome.error, InstanceFailedError | InstanceCancelledError):
                return self._rest(data)
            is_time = isinstance(outcome.error, TimeoutError) and frame.stop == WAIT
            return self._at(START) if is_time else Raised(outcome.error)
        if isinstance(outcome.value, Change):
            return self._change(data, outcome.value)
        if frame.stop == START:
            for name in Starter.__struct_fields__:
                setattr(data, name, getattr(outcome.value, name))
            return self._at(WAIT)
        if data.plan.on is None:
            return self._rest(data)
        data.queue = outcome.value
        return self._at(START)

    def check(self, frame: Frame) -> None:
        """Raise ``MisfitError`` unless ``frame`` can be entered; runs no user code."""
        if frame.stop and frame.stop not in self.stops:
            raise MisfitError(f"{self.name} has no stop {frame.stop!r}")

    def _at(self, stop: str) -> At:
        return At(Frame(self.name, stop))

    def _rest(self, data: Starter) -> Reached:
        """Let some time pass after the end of an instance."""
        data.last, data.next = "", self.now() + timedelta(seconds=data.plan.after or 0)
        return self._at(WAIT)

    def _change(self, data: Starter, change: Change) -> Reached:
        if change.order >= data.order:
            if change.plan != data.plan:
                data.cursor = change.since if data.plan.on is None else data.cursor
                data.plan, data.gathered = change.plan, []
                data.next = change.plan.next(self.now())
                data.last = data.last if change.plan.after is not None else ""
            data.target, data.order = change.target, change.order
        return self._at(WAIT)

    async def _start(self, data: Starter) -> Starter:
        """Start what is due, and return the data as it is then."""
        data = deepcopy(data)  # A failure leaves it as it was.
        if data.plan.on is None:
            await self._start_at_time(data)
        while data.queue:
            published = data.queue.pop(0)
            data.cursor = published.rev
            await self._take(data, published)
        _forget_some(data)
        return data

    async def _start_at_time(self, data: Starter) -> None:
        if data.last and not await _is_there(data.last):
            self._rest(data)  # It is over, and forgotten.
        if data.last or data.next is None or data.next > self.now() + EARLY:
            return
        id = f"{data.name}@{data.next.isoformat()}"
        if data.plan.after is not None and data.began is not None:
            data.count += 1
            data.last = id = f"{data.name}@{data.began.isoformat()}.{data.count}"
        await self._begin(data.target, id, None, None)
        data.next = data.plan.next(self.now(), data.next)

    async def _take(self, data: Starter, published: Published) -> None:
        """Give an event to the first that lacks it, and start an instance if nothing is missing."""
        event, wanted = published.event, data.plan.on
        assert wanted is not None  # noqa: S101 - else there are no events
        for number, each in enumerate([*data.gathered, Gathering(deepcopy(wanted))]):
            found = await each.strategy.offer(event, each.keys, self.evaluate)
            if not found:
                continue
            if number == len(data.gathered):
                if found == "until":
                    return  # Nothing has begun that it could end.
                data.gathered.append(each)
            if found == "wanted":
                each.events.append(event)
            if await self._is_met(each, data.name):
                del data.gathered[number]
                name = sha256(msgspec.json.encode([event["source"], event["id"]])).hexdigest()[:32]
                await self._begin(data.target, f"{data.name}@{name}", each.events, published.rev)
            return

    async def _is_met(self, gathering: Gathering, name: str) -> bool:
        try:
            return await gathering.strategy.is_met(gathering.events, self.evaluate)
        except ExpressionError as error:
            logger.warning("%r goes on to gather events: %s", name, error)
            return False

    async def _begin(self, target: str, id: str, given: Any, after: int | None) -> None:
        try:
            await self.call(target, id, given, after)
        except InvalidInputError as error:  # It will never be right.
            extra = {"state_id": id}
            logger.warning("%r cannot be started: %s", id, error, extra=extra)


async def _is_there(id: str) -> bool:
    try:
        await current_step().engine.get_state(id)
    except StateNotFoundError:
        return False
    return True


def _forget_some(data: Starter) -> None:
    """Forget the oldest of what lacks events, if it is too much."""
    sizes = [len(msgspec.json.encode(each)) for each in data.gathered]
    while sizes and sum(sizes) > MOST_GATHERED:
        text = "%r forgets %d events, which have waited for others for too long"
        logger.warning(text, data.name, len(data.gathered[0].events))
        del data.gathered[0], sizes[0]


def starter_id(name: str) -> str:
    """Return the id of a starter."""
    return f"flowstate.starter.{name}"


class Starters:
    """The starters of one code.

    Attributes:
        kernel: open, with the code among its codes.
        code: of the starters.
    """

    def __init__(self, kernel: Kernel, code: Code) -> None:
        self.kernel = kernel
        self.code = code

    async def set(self, name: str, target: str, plan: Plan, *, order: int = 0) -> None:
        """Let a starter start instances of a target from now on.

        Events and times that are due are neither lost nor counted twice when the target changes.

        Args:
            name: of the starter.
            target: what it starts instances of.
            plan: when.
            order: of the target: if a higher one was set, this one is not.

        Raises:
            InvalidInputError: the cron expression is none, or the name is too long.
            MailboxFullError: too many changes were not taken.
        """
        engine = self.kernel.engine
        plan.next(engine.clock.now())  # Or it raises.
        for _ in range(RACES):
            if await self.kernel.start(
                self.code, starter_id(name), Starter(name, target, plan, order)
            ):
                return
            try:
                state = await engine.get_state(starter_id(name))
                if state.status is Status.ENDED:
                    await engine.do(Commit(Forget(StateContext(state))))
                    continue
                known = state.get(Starter, DATA)
                if (known.target, known.plan, known.order) != (target, plan, order):
                    change = Change(target, plan, order, await engine.head())
                    await self.kernel.send(state.id, change)
            except (InvalidCommandError, RevisionMismatchError, StateNotFoundError):
                continue  # It has ended just now, or another process is faster.
            return
        raise RevisionMismatchError([starter_id(name)])

    async def end(self, name: str) -> None:
        """Let a starter start no more instances; those that it has started go on."""
        try:
            await self.kernel.cancel(starter_id(name))
        except StateNotFoundError:
            return
