"""Schedules: states that start an instance of a workflow at each time of a cron expression.

A schedule is a state that waits from slot to slot. The id of what it starts is made of its name
and the slot, so that each occurrence starts once, whatever crashes.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    InvalidInputError,
    Receive,
    RetryPolicy,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    encoded,
)
from flowstate.engines.events.slots import slot_after
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.control import CONTROL
from flowstate.engines.kernel.instance import DATA, OUTCOME, Codes
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.starting import Origin, flow_of, new_instance
from flowstate.engines.workflow.checking import SCHEDULES
from flowstate.ground.limits import check_id

__all__ = ["Due", "Overlap", "Plan", "Scheduled", "Schedules", "register_schedules", "schedule_id"]

SCHEDULE, SLOT = "schedule", "slot"  # Labels of what was started.
OF = "schedules"  # The label of a schedule: the name of its workflow.
PLAN, DUE = "plan", "due"  # Values of a schedule.
PREFIX = "flowstate.schedule."  # Of its id.
MOST_QUEUED = 1_000
PATIENT = RetryPolicy(attempts=1_000_000, first=0.1, longest=60.0)
RACES = 64
LONG_AGO = datetime.min.replace(tzinfo=UTC)

Overlap = Literal["skip", "queue", "parallel"]
"""What becomes of an occurrence while the one before it runs: it is left out, it begins after that,
or it begins at once."""


class Plan(Struct, frozen=True, omit_defaults=True):
    """What a schedule does; the stored form.

    Attributes:
        workflow: the name.
        cron: the expression.
        zone: the name of the time zone in which it is read.
        overlap: see :data:`Overlap`.
        data: of each instance.
        args: of each instance, by name.
    """

    workflow: str
    cron: str
    zone: str
    overlap: Overlap
    data: Raw
    args: Mapping[str, Raw]


class Due(Struct, omit_defaults=True):
    """How far a schedule has come; the stored form.

    Attributes:
        next: the slot that it waits for.
        last: the id of what it has started last.
        queue: slots whose turn has not come.
        left_out: how many occurrences were left out, because another one ran or of a full queue.
    """

    next: datetime
    last: str = ""
    queue: list[datetime] = msgspec.field(default_factory=list)
    left_out: int = 0


class Scheduled(Struct, frozen=True):
    """A schedule.

    Attributes:
        name: of it.
        plan: what it does.
        due: how far it has come.
    """

    name: str
    plan: Plan
    due: Due


def schedule_id(name: str) -> str:
    """Return the id of the state of a schedule."""
    return f"{PREFIX}{name}"


def register_schedules(flows: FlowRegistry, codes: Codes) -> None:
    """Let a registry run the schedules of workflows."""
    for code in codes:
        if code.data is not None:
            run = partial(_run, codes)
            flows.set(SCHEDULES + code.name, run, replace=True, retry=PATIENT)


class Schedules:
    """The schedules of some workflows.

    Attributes:
        engine: open.
        codes: of the workflows.
    """

    def __init__(self, engine: Engine, codes: Codes) -> None:
        self.engine = engine
        self.codes = codes

    async def set(
        self,
        name: str,
        code: Code,
        cron: str,
        data: Any,
        args: Mapping[str, Any],
        *,
        zone: str,
        overlap: Overlap,
    ) -> bool:
        """Do ``Workflows.schedule``, which says what is promised."""
        values = {key: encoded(f"args[{key!r}]", value) for key, value in args.items()}
        plan = Plan(code.name, cron, zone, overlap, encoded("data", data), values)
        _check(code, plan)
        due = Due(slot_after(plan.cron, plan.zone, self.engine.clock.now()))
        check_id("name", f"{name}@{due.next.isoformat()}")
        for _ in range(RACES):
            ctx = StateContext(await self._latest(name))
            is_over = ctx.current.status is Status.ENDED
            if ctx.committed.rev and not is_over:
                if ctx.get(Plan, PLAN) == plan:
                    return False
                known = ctx.get(Due, DUE)
                due = Due(due.next, known.last, known.queue, known.left_out)
            ctx.put(plan, PLAN)
            ctx.put(due, DUE)
            ctx.set_label(OF, code.name)
            try:
                await self.engine.start(ctx, SCHEDULES + code.name)
            except RevisionMismatchError:
                continue
            return True
        raise RevisionMismatchError([schedule_id(name)])

    async def _latest(self, name: str) -> State:
        try:
            return await self.engine.get_state(schedule_id(name))
        except StateNotFoundError:
            return State(schedule_id(name))

    async def end(self, name: str) -> None:
        """Do ``Workflows.unschedule``, which says what is promised."""
        await self.engine.update(
            schedule_id(name), lambda ctx: None if ctx.current.status is Status.ENDED else End(ctx)
        )

    async def all(self) -> AsyncIterator[Scheduled]:
        """Iterate over the schedules of the workflows."""
        labels = [{OF: code.name} for code in self.codes if code.data is not None]
        async for state in self.engine.states(
            labels=labels, latest_only=True, status=Status.PAUSED
        ):
            plan, due = state.get(Plan, PLAN), state.get(Due, DUE)
            yield Scheduled(state.id.removeprefix(PREFIX), plan, due)


async def _run(codes: Codes, ctx: StateContext, engine: Engine) -> Command[Any]:
    """Start what is due, and wait for the next slot, or for the end of what runs."""
    plan, due = ctx.get(Plan, PLAN), ctx.get(Due, DUE)
    ctx.remove(CONTROL)
    now = max(engine.clock.now(), ctx.committed.committed_at or LONG_AGO)
    if due.next <= now:
        due.queue.append(due.next)
        due.next = slot_after(plan.cron, plan.zone, now)
    await _start_queued(engine, codes, ctx.current.id.removeprefix(PREFIX), plan, due)
    ctx.put(due, DUE)
    to, wait = ctx.current.transition.to, max(timedelta(0), due.next - now)
    return Commit(Receive(ctx, CONTROL, to=to, timeout=wait, timeout_to=to))


async def _start_queued(engine: Engine, codes: Codes, name: str, plan: Plan, due: Due) -> None:
    """Start the slots whose turn has come."""
    while due.queue:
        if plan.overlap != "parallel" and await _runs(engine, due.last):
            most = MOST_QUEUED if plan.overlap == "queue" else 0
            due.left_out += max(0, len(due.queue) - most)
            del due.queue[most:]
            return
        slot = due.queue.pop(0)
        made = _instance(codes[plan.workflow], name, plan, slot)
        due.last = made.current.id
        try:
            await engine.start(made, flow_of(plan.workflow))
        except RevisionMismatchError:
            continue  # It was started before a crash.


async def _runs(engine: Engine, id: str) -> bool:
    if not id:
        return False
    try:
        state = await engine.get_state(id)
    except StateNotFoundError:
        return False
    return state.status is not Status.ENDED and OUTCOME not in state.labels


def _instance(code: Code, name: str, plan: Plan, slot: datetime) -> StateContext:
    """Return the new instance of a slot."""
    at = slot.isoformat()
    args = {key: decoded(Any, raw) for key, raw in plan.args.items()}
    # What is queued needs to know when this one ends, as a parent of its children does.
    origin = Origin(schedule_id(name), "", 0) if plan.overlap == "queue" else None
    return new_instance(
        code,
        f"{name}@{at}",
        decoded(Any, plan.data),
        {**args, SLOT: slot} if SLOT in code.takes else args,
        labels={SCHEDULE: name, SLOT: at},
        origin=origin,
    )


def _check(code: Code, plan: Plan) -> None:
    """Refuse data and arguments that are not of their types."""
    kinds = {DATA: code.data, **code.takes}
    for name, raw in {**plan.args, DATA: plan.data}.items():
        if name not in kinds:
            raise InvalidInputError("args", f"{code.name!r} has no argument {name!r}")
        try:
            decoded(kinds[name], raw)
        except msgspec.MsgspecError as error:
            raise InvalidInputError(name, f"is not of its type: {error}") from error
