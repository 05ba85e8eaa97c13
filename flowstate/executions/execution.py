"""One execution of an engine: a context on its way from flow to flow."""

import asyncio
import math
from collections.abc import Callable, Mapping

import attrs
from msgspec import Struct

from flowstate.context import StateContext
from flowstate.driver import Heartbeat
from flowstate.executed import Executed, Notice
from flowstate.executions.tenure import NEVER, RENEW_AT, Held, Note, read_note
from flowstate.recovery_rules import stalls_after
from flowstate.retrying import read_override
from flowstate.state import State, Status

__all__ = ["Begun", "Execution", "Note", "read_note"]

ACTIVE = Status.ACTIVE  # Enums look their members up slowly.


class Begun(Struct, frozen=True):
    """What an execution goes on from when its flow has failed.

    Attributes:
        state: with the transition to the flow.
        rev: of the state in the store.
        taken: how many steps led from that revision to this state.
    """

    state: State
    rev: int
    taken: int = 0


# state       means                                       left by
# waiting     promised, or between two flows; kept alive  a flow is called → running; released;
#                                                         superseded; over
# running     a flow runs in ``task``; kept alive         it returned → waiting; released;
#                                                         superseded; lost; over
# released    no tenure: its state ended or pauses, or    a commit of its own → as before;
#             never stalls                                superseded; over
# superseded  others have moved its state on: no further  a commit of its own, which shows that
#             flow is called                              it was not so → as before; over
# lost        no heartbeat got through in time, so its    over
#             task was cancelled
# over        left the heartbeats; ``finished`` is set
#
# Others recover the state only after its tenure; "lost" comes before that.
@attrs.define(eq=False, repr=False)
class Execution(Held):
    """A context that an engine executes, or has promised to.

    Attributes:
        began: when, in seconds of the engine's monotonic clock.
        on_change: called when a commit may have brought the next heartbeat forward.
        loop: in which it runs.
        stop: set when the engine begins to stop.
        id: of the state.
        state: the revision that is kept alive, as of when that was looked at last.
        task: what runs it; ``None`` while no flow runs: before the first one, and while it is
            confirmed before the next one.
        finished: set, to what went wrong or ``None``, when a background execution is over.
        failure: what a flow has raised, when its policy has dealt with that.
        notice: what its flow is told.
        others: tells further executions of the same state, if there are any in this process.
        timeout: seconds for each call, if the state says so itself.
        is_plain: to call a flow, nothing has to be seen to but what that flow wants.
        rules: the annotations that say how long its state may stand still; ``None`` when a commit
            with the same ones may change that, or tells something else.
        is_over: whether it has ended.
        is_lost: whether it was stopped because others may have taken it over.
        is_doubtful: whether a heartbeat may have come after the state had stalled, when another
            process had seen that already.
        is_in_thread: whether a thread runs its flow, which cannot be stopped.
        may_interrupt: whether a flow runs that is cancelled when others move the state on.
        is_interrupted: whether it was cancelled because of that.
        is_beaten: whether it has ended by a lost race, so that nothing has come of its last flow.
        cancellations: of the task, before the flow was called.
    """

    began: float
    on_change: "Callable[[Execution], None] | None" = None
    loop: asyncio.AbstractEventLoop | None = None
    stop: asyncio.Event | None = None
    id: str = attrs.field(init=False)
    state: State | None = attrs.field(init=False, default=None)
    task: asyncio.Task[object] | None = attrs.field(init=False, default=None)
    finished: asyncio.Future[BaseException | None] | None = attrs.field(init=False, default=None)
    failure: BaseException | None = attrs.field(init=False, default=None)
    notice: Notice = attrs.field(init=False)
    others: Executed | None = attrs.field(init=False, default=None)
    timeout: float | None = attrs.field(init=False, default=None)
    is_plain: bool = attrs.field(init=False, default=True)
    rules: Mapping[str, str] | None = attrs.field(init=False, default=None)
    is_over: bool = attrs.field(init=False, default=False)
    is_lost: bool = attrs.field(init=False, default=False)
    is_doubtful: bool = attrs.field(init=False, default=False)
    is_in_thread: bool = attrs.field(init=False, default=False)
    may_interrupt: bool = attrs.field(init=False, default=False)
    is_interrupted: bool = attrs.field(init=False, default=False)
    is_beaten: bool = attrs.field(init=False, default=False)
    cancellations: int = attrs.field(init=False)
    _entered: "Begun | None" = attrs.field(init=False)
    _outer: Callable[[float], None] | None = attrs.field(init=False, default=None)
    _outer_notice: Notice | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._enter(self.began)

    def follow(self, ctx: StateContext, now: float) -> None:
        """Go on with a context, which may be another one."""
        if ctx is not self.ctx:
            self.leave()
            self.ctx = ctx
            self._enter(now)
        else:
            self._begin(now)

    def _enter(self, now: float) -> None:
        ctx = self.ctx
        self.notice = notice = Notice(self.stop)
        # The hook is not kept here: this would refer to itself, and wait for the garbage collector.
        self._outer, ctx._on_commit = ctx._on_commit, self.committed
        self._outer_notice, ctx._notice = ctx._notice, notice
        self._begin(now)

    def _begin(self, now: float) -> None:
        ctx, self._entered = self.ctx, None
        committed, sent_at = ctx.committed, ctx._sent_at
        self.id = committed.id
        if committed.rev and not _wants_execution(committed):
            self._entered = Begun(ctx.current, committed.rev, ctx._taken)
        self._keep(NEVER if sent_at is None else min(sent_at, now))

    def leave(self) -> None:
        """Give the context back to the execution that this one is nested in, if there is one."""
        ctx, outer = self.ctx, self._outer
        if ctx._notice is self.notice:
            ctx._on_commit, self._outer = outer, None
            if outer is not None:
                self.catch_up()
                ctx._notice = self._outer_notice
                outer(self.sent_at)

    @property
    def begun(self) -> "Begun | None":
        """What a flow that failed can be tried again from, as a commit.

        That is the committed revision, if it is one to be executed. If it is not, the execution
        goes on from what it began with. It cannot go on if its own commit has set the state aside.
        """
        committed, entered = self.ctx.committed, self._entered
        if _wants_execution(committed):
            return Begun(committed, committed.rev)
        return entered if entered is not None and 0 < entered.rev == committed.rev else None

    def committed(self, sent_at: float) -> None:
        """Go on with what a commit has left. Runs for each commit."""
        state = self.ctx.committed
        if (
            state.annotations is self.rules
            and not state.transition.annotations
            and self.seconds is not None
            and self.others is None
        ):
            return  # As nearly always. It may stand still for longer: that can be seen later.
        if state is not self.state:
            self._keep(sent_at)
            if self.on_change is not None:
                self.on_change(self)
            if self.others is not None:
                self.others.tell(state)

    def catch_up(self) -> None:
        """Go on with what the last commits have left, which was not looked at."""
        ctx = self.ctx
        if ctx.committed is not self.state and not self.notice.is_superseded:
            self._keep(NEVER if ctx._sent_at is None else ctx._sent_at)

    def _keep(self, sent_at: float) -> None:
        self.state = state = self.ctx.committed
        self.sent_at = sent_at
        self._retry_at = 0.0  # It was for another revision, which may stand still for longer.
        # Of a state whose delay fires without a commit only the revision is known.
        known = state if state.transition.to else self.ctx.current
        rules = known.annotations
        if rules or self.timeout is not None:
            self.timeout = read_override(rules).timeout
            self.is_plain = self.timeout is None and not self.is_lost
        self.rules = None if known.transition.annotations else rules
        if state.rev and (after := stalls_after(known)) is not None:
            self.seconds = seconds = after.total_seconds()
            self.fresh_until = sent_at + seconds * RENEW_AT
        else:
            self.seconds, self.fresh_until = None, math.inf
        if self.notice.is_superseded:  # By a commit of its own, as it turns out.
            self.notice = self.ctx._notice = Notice(self.stop)

    def renewed(self, sent_at: float) -> None:
        """Note that the store has heard of the state after this time."""
        self.is_doubtful = False
        super().renewed(sent_at)
        if self.tenure is not None:
            self.ctx._sent_at = self.sent_at

    def release(self) -> None:
        """Keep it no longer: it is not ours any more.

        What has not begun is confirmed first, which finds that out again.
        """
        self.seconds, self.fresh_until = None, math.inf if self.task else NEVER

    def is_behind(self, rev: int) -> bool:
        """Return whether what it has committed is older than this revision of its state."""
        return self.ctx.committed.rev < rev

    def moved_on(self, rev: int) -> None:
        """Note that this process has given its state this revision, for others.

        It is kept alive until the next heartbeat says the same, and is stopped if none gets
        through: whatever else happens, it must not run on for long next to who took it over.
        """
        if not self.is_over and self.is_behind(rev):
            self._tell_superseded()

    def supersede(self) -> None:
        """Note that a heartbeat has found its state moved on."""
        self.release()
        self._tell_superseded()

    def _tell_superseded(self) -> None:
        """Call no further flow, and tell the one that runs; cancel it if it wants that."""
        self.catch_up()  # Else a commit of before would look like one that came after this.
        self.rules = None
        self.notice.supersede()
        self.fresh_until = NEVER
        if self.task is not None and self.may_interrupt:
            self.is_interrupted, self.may_interrupt = True, False
            self.task.cancel()

    def lose(self) -> None:
        """Stop it, because others may have taken it over."""
        self.interrupt()
        self.release()

    def interrupt(self) -> None:
        """Stop it, because the engine stops; it is ours until it has ended."""
        if self.task is not None and not self.is_lost:
            self.is_lost, self.is_plain = True, False
            self.task.cancel()

    def is_only_interrupted(self, task: asyncio.Task[object] | None) -> bool:
        """Return whether nothing else has cancelled it than that its state was moved on."""
        if task is None or not self.is_interrupted:
            return False
        return task.cancelling() == self.cancellations + 1

    def uncancel(self, task: asyncio.Task[object] | None) -> int:
        """Take back what has cancelled the task here; return how often others have."""
        if task is None:
            return 0
        for _ in range(self.is_lost + self.is_interrupted):
            task.uncancel()
        return task.cancelling() - self.cancellations

    def finish(self, error: BaseException | None) -> None:
        """Tell those who wait that it is over."""
        if self.finished is not None and not self.finished.done():
            self.finished.set_result(error)

    @property
    def stop_at(self) -> float:
        """When it has to stop, because others may take it over soon."""
        return math.inf if self.task is None or self.sent_at == NEVER else super().stop_at

    def is_late(self, now: float) -> bool:
        """Return whether others may have taken it over by now, or will soon."""
        tenure = self.tenure
        return tenure is not None and now >= tenure.valid_until

    def may_beat(self, now: float) -> bool:
        """Return whether a heartbeat does no harm: what has not begun may have stalled by now."""
        return self.task is not None or not self.is_late(now)

    def heartbeat(self, engine: str, now: float) -> Heartbeat:
        """Return a heartbeat that is about to be sent."""
        self.is_doubtful = True
        beat = super().heartbeat(engine, now)
        note = Note(engine, round(now - self.began, 3)).encode()
        return Heartbeat(beat.id, beat.rev, self.seconds, note)


def _wants_execution(state: State) -> bool:
    """Return whether a committed revision waits for nothing else than to be executed."""
    return state.status is ACTIVE and state.transition.to != "" and state.delayed_until is None
