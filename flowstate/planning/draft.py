"""What becomes of one context by a commit, which is left alone until the commit has its verdict."""

import math
from collections.abc import Iterable, Mapping

import attrs
from msgspec.structs import replace

from flowstate.context import StateContext, settle, take_steps
from flowstate.data import Data, DataRef
from flowstate.effect_keys import kept, origin_of
from flowstate.errors import InvalidInputError
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import MAX_STEPS, to_utc
from flowstate.recovery_rules import counts_from
from flowstate.state import State, Status, Transition
from flowstate.timers import changed_timers, lasting_timers
from flowstate.validation import checked, frozen

__all__ = ["Draft"]


@attrs.define(eq=False)
class Draft:
    """What becomes of one context, which is left alone until :meth:`apply` or :meth:`settle`."""

    ctx: StateContext
    current: State
    committed: State
    is_known: bool  # ``committed`` is what the store gave, and needs no check.
    steps: list[Transition] = attrs.Factory(list)
    # How many steps an unstacked context had taken that are not in ``steps``, before those that
    # are. ``None``: the steps come after those of ``ctx``.
    trimmed: int | None = None
    begun: bool = False  # A step of this commit begins another one.
    stayed: Transition | None = None  # What ``keep`` made of the transition.
    is_timed: bool = False  # Its timers may have changed; known when it has its state to put.
    data: dict[str, Data] | None = None  # What becomes of ``ctx.data``, if anything.
    put: bool = False  # The state gets a new revision.
    keeps: bool = False  # That only changes it, and keeps its delays.

    @classmethod
    def of(cls, ctx: StateContext) -> "Draft":
        """Return the draft of a context, not changed yet."""
        current, committed, known = ctx.current, ctx.committed, ctx._known
        if known is None or current is not known:
            current = frozen(current)
        if known is None or committed is not known:
            committed = frozen(committed)
        return cls(ctx, current, committed, committed is known)

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The steps since the last commit."""
        before = self.ctx.transitions if self.trimmed is None else ()
        return (*before, *self.steps)[-MAX_STEPS:]

    @property
    def taken(self) -> int:
        """How many steps were taken since the last commit."""
        before = self.ctx._taken if self.trimmed is None else self.trimmed
        return before + len(self.steps)

    @property
    def origin(self) -> str:
        """What names the step that the state is in; empty if this commit begins it."""
        if self.begun:
            return ""
        return origin_of(self.current.transition, self.committed, self.taken)

    @property
    def is_changed(self) -> bool:
        """Whether the working copy is not what the store has, as far as they can be compared."""
        current, committed = self.current, self.committed
        if current is committed:
            return False
        try:
            if self.taken or current != committed:
                return True
        except Exception:  # noqa: BLE001 - user's values; the check of the state refuses them
            return True
        return any(changed_timers(current.timers, committed))

    @property
    def stays(self) -> bool:
        """Whether the state stays where it is, as far as that can be told."""
        current, known = self.current, self.committed
        if not known.rev or self.steps or self.taken or current.status is not known.status:
            return False
        return current.transition is known.transition or self._is_same_step()

    def _is_same_step(self) -> bool:
        new, last = self.current.transition, self.committed.transition
        try:
            is_same: bool = new.annotations == last.annotations
        except Exception:  # noqa: BLE001 - user's values; the check of the state refuses them
            return False
        return is_same and (new.to, new.cause) == (last.to, last.cause)

    def step(self, state: State) -> None:
        """Take the step that leads to ``state``."""
        self.current = state
        self.steps.append(state.transition)
        self.begun = not state.transition.origin
        self.put = True

    def keep(self) -> None:
        """Give timers their time, and let the transition name the step, as a new revision has it.

        A step that begins with this commit is named by its revision.
        """
        if self.current.timers:
            timers = lasting_timers(self.current, self.committed)
            if timers is not self.current.timers:
                self.current = replace(self.current, timers=timers)
        transition, known = self.current.transition, self.committed
        since = (known.transition.since or known.rev) if self.keeps else 0
        if self.begun or not transition.to or (transition.origin and transition.since == since):
            return
        self.stayed = kept(transition, self.origin, since)
        self.current = replace(self.current, transition=self.stayed)

    def hold(self, annotations: Mapping[str, str], data: Mapping[str, DataRef]) -> None:
        """Give the working copy other annotations and data."""
        annotations, data = FrozenDict(annotations), FrozenDict(data)
        self.current = replace(self.current, annotations=annotations, data=data)
        self.put = True

    def state(self) -> State:
        """Return the state to put: checked, and with the revision that it expects."""
        state, known = self.current, self.committed
        own = self._own(known) if self.is_known else None
        if own is None or state.transition is not own or not self._is_step(state, known):
            self.is_timed = bool(state.timers or known.timers)
            # Only what ``replace`` has brought in may not be frozen.
            is_known = self.is_known
            state = checked(state, known, own, is_frozen=is_known, is_known=is_known)
            if state.transition is not self.current.transition:
                self.current = replace(self.current, transition=state.transition)
            return state
        if state.rev != known.rev or state.delayed_until is not None:
            state = replace(state, rev=known.rev, delayed_until=None)
        return state

    def as_delayed(self, state: State) -> State:
        """Return a state to put that waits for as long as it did before."""
        until = self.committed.delayed_until
        if until is None:
            return state
        return replace(state, delayed_until=to_utc("committed.delayed_until", until))

    def _is_step(self, state: State, known: State) -> bool:
        """Return whether nothing differs but the transition and status, by a step of ours."""
        return (
            state.id is known.id
            and state.labels is known.labels
            and state.annotations is known.annotations
            and state.data is known.data
            and state.unknown is known.unknown
            and state.values is known.values
            and state.timers is known.timers
            and type(state.status) is Status
        )

    def _own(self, known: State) -> Transition | None:
        """Return the transition that the state has now, if it was made by the core."""
        if self.begun:
            return self.steps[-1]
        taken = self.ctx._steps
        before = taken[-1] if taken else known.transition
        if self.ctx.current.transition is not before:
            return None
        return self.stayed or (self.steps[-1] if self.steps else before)

    def set_data(self, alias: str, data: Data) -> None:
        """Put ``data`` under ``alias``."""
        before = self.ctx.data if self.data is None else self.data
        if not issubclass(type(before), dict):
            raise InvalidInputError("data", f"must be a dict, not {type(before).__name__}")
        self.data = {**before, alias: data}

    def replace(
        self, current: State, committed: State, steps: Iterable[Transition] = (), taken: int = 0
    ) -> None:
        """Make it the draft of another state, of which nothing is known to be right.

        Args:
            current: its working copy.
            committed: what the store has of it.
            steps: the last ones that were taken since.
            taken: how many those are in all, if more.
        """
        self.current, self.committed, self.is_known = current, committed, False
        self.steps, self.begun, self.stayed = list(steps), False, None
        self.trimmed = max(0, taken - len(self.steps))

    def settle(self, state: State, store_id: str, sent_at: float) -> None:
        """Make the context what the store has now."""
        # A driver may return an equal transition; a new object would look like a step.
        if state.transition is not self.current.transition:
            state = replace(state, transition=self.current.transition)
        if self.data is not None:
            self.ctx.data = self.data
        self.ctx._stayed = self.stayed
        if self.keeps:  # The store counts on from where it was.
            heard_at = self.ctx._sent_at
            since = -math.inf if heard_at is None else heard_at
            sent_at = counts_from(self.committed, state, since, sent_at)
        settle(self.ctx, store_id, sent_at, (state,))

    def apply(self) -> None:
        """Make the context what the draft is.

        One that was only looked at is left alone: others may have moved it on meanwhile, such as
        the context of a fence.
        """
        ctx = self.ctx
        if self.data is not None:
            ctx.data = self.data
        if self.trimmed is not None:
            ctx._steps, ctx._trimmed = [], self.trimmed
        if self.put or self.trimmed is not None:
            ctx.committed = self.committed
            take_steps(ctx, self.current, self.steps)
