"""The one mutable thing: a working copy of a state, and what the store has of it."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

import attrs
from msgspec.structs import replace

from flowstate.data import Data, DataRef
from flowstate.errors import DriverError, InvalidInputError
from flowstate.frozen import EMPTY, FrozenDict, exact
from flowstate.limits import MAX_STEPS, check_id
from flowstate.state import State, Status, Transition, checked, frozen

__all__ = ["Draft", "StateContext", "refusal", "settle"]


class StateContext:
    """A state on its way from one revision to the next.

    Commands change it; a commit makes the changes durable. A command that fails leaves it
    exactly as it was. Do not share one context between tasks that run at the same time: take
    a :meth:`copy`.

    Attributes:
        current: the working copy. Frozen: assign a changed one, or use the ``set_`` methods.
        committed: the revision that the store had when this context last met it;
            ``committed.rev`` is what the next commit expects to find.
        data: blobs by alias, to be stored by ``StoreData`` or filled by ``GetData``.
    """

    # For the core alone:
    #   _known      the very object that the store gave for ``committed``: it needs no check.
    #   _on_commit  is called after each commit of this context with the monotonic time at which
    #               the commit was sent; set by what executes the context.
    #   _sent_at    that time, of the last commit; None if there was none.
    #   _steps      taken since the last commit; of more than twice MAX_STEPS the newest.
    #   _stop       is set when the engine that executes the context begins to stop.
    #   _store_id   of the store that it was committed to; None if it was not.
    __slots__ = (
        "_known",
        "_on_commit",
        "_sent_at",
        "_steps",
        "_stop",
        "_store_id",
        "committed",
        "current",
        "data",
    )

    def __init__(self, state: State) -> None:
        self.current = state = frozen(state)
        is_new = type(state.rev) is int and not state.rev
        self.committed = State(state.id) if is_new else state
        self.data: dict[str, Data] = {}
        self._steps: list[Transition] = []
        self._known: State | None = None
        self._store_id: str | None = None
        self._sent_at: float | None = None
        self._on_commit: Callable[[float], None] | None = None
        self._stop: asyncio.Event | None = None

    def __repr__(self) -> str:
        return f"StateContext(current={self.current!r}, committed_rev={self.committed.rev})"

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The steps taken since the last commit, oldest first; of many, the last 1,000."""
        return tuple(self._steps[-MAX_STEPS:])

    def copy(self) -> "StateContext":
        """Return an independent context with the same content."""
        twin = self._duplicate(self.current, self.committed)
        twin._known = self._known
        twin._store_id = self._store_id
        twin._sent_at = self._sent_at
        return twin

    def fork(self, new_id: str) -> "StateContext":
        """Return a context for a new state that starts as a copy of this one's working copy."""
        current = replace(
            self.current,
            id=new_id,
            rev=0,
            committed_at=None,
            delayed_until=None,
            timers=EMPTY,
        )
        return self._duplicate(current, State(exact(new_id)))

    def _duplicate(self, current: State, committed: State) -> "StateContext":
        twin = StateContext(current)
        twin.committed = committed
        twin.data = dict(self.data)
        twin._steps = self._steps.copy()
        twin._stop = self._stop
        return twin

    def set_label(self, key: str, value: str | None) -> None:
        """Set a label of the working copy, or remove it with ``None``.

        Raises:
            InvalidInputError: a bad key; the value is checked by the commit.
        """
        labels = _changed("label", self.current.labels, key, value)
        self.current = replace(self.current, labels=labels)

    def set_annotation(self, key: str, value: str | None) -> None:
        """Set an annotation of the working copy, or remove it with ``None``.

        Raises:
            InvalidInputError: a bad key; the value is checked by the commit.
        """
        annotations = _changed("annotation", self.current.annotations, key, value)
        self.current = replace(self.current, annotations=annotations)

    @property
    def resumed(self) -> bool:
        """Whether the last step was a ``Resume``."""
        return self.current.transition.cause == "resume"

    @property
    def delayed(self) -> bool:
        """Whether the last step was a ``Delay`` that fired."""
        return self.current.transition.cause == "delay"

    @property
    def stopping(self) -> bool:
        """Whether the engine that executes this context has begun to stop."""
        return self._stop is not None and self._stop.is_set()

    async def wait_stopping(self) -> None:
        """Return when the engine that executes this context begins to stop.

        Outside an execution it waits until it is cancelled.
        """
        await (self._stop or asyncio.Event()).wait()


def settle(ctx: StateContext, store_id: str, sent_at: float, verdict: object) -> None:
    """Make a context what the verdict on its only state says, or raise what it is."""
    if type(verdict) is not tuple or len(verdict) != 1:
        raise refusal(verdict)
    ctx.current = ctx.committed = ctx._known = verdict[0]
    if ctx._steps:
        ctx._steps = []
    ctx._store_id = store_id
    ctx._sent_at = sent_at
    if ctx._on_commit is not None:
        ctx._on_commit(sent_at)


def refusal(verdict: object) -> Exception:
    """Return why nothing was written, or that the driver gave something else than a verdict."""
    if isinstance(verdict, Exception):
        return verdict
    return DriverError(f"the driver gave a verdict of a wrong form: {type(verdict).__name__}")


def _changed(
    what: str, mapping: Mapping[str, str], key: str, value: str | None
) -> Mapping[str, str]:
    key = check_id(f"{what} key", key)
    changed = {k: v for k, v in mapping.items() if k != key}
    if value is not None:
        changed[key] = exact(value)
    return FrozenDict(changed)


@attrs.define(eq=False)
class Draft:
    """What becomes of one context, which is left alone until :meth:`apply` or :meth:`settle`."""

    ctx: StateContext
    current: State
    committed: State
    is_known: bool  # ``committed`` is what the store gave, and needs no check.
    steps: list[Transition] = attrs.Factory(list)
    replaces_steps: bool = False  # Else the steps come after those of the context.
    data: dict[str, Data] | None = None  # What becomes of ``ctx.data``, if anything.
    put: bool = False  # The state gets a new revision.

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
        before = () if self.replaces_steps else self.ctx.transitions
        return (*before, *self.steps)[-MAX_STEPS:]

    def step(self, state: State) -> None:
        """Take the step that leads to ``state``."""
        self.current = state
        self.steps.append(state.transition)
        self.put = True

    def hold(self, annotations: Mapping[str, str], data: Mapping[str, DataRef]) -> None:
        """Give the working copy other annotations and data."""
        annotations, data = FrozenDict(annotations), FrozenDict(data)
        self.current = replace(self.current, annotations=annotations, data=data)
        self.put = True

    def state(self) -> State:
        """Return the state to put: checked, and with the revision that it expects."""
        state, known = self.current, self.committed
        if not self.is_known or not self._is_step(state, known):
            state = checked(state, known)
            if state.transition is not self.current.transition:
                self.current = replace(self.current, transition=state.transition)
            return state
        if state.rev != known.rev or state.delayed_until is not None:
            state = replace(state, rev=known.rev, delayed_until=None)
        return state

    def _is_step(self, state: State, known: State) -> bool:
        """Return whether nothing differs but the transition and status, by a step of ours."""
        steps = self.steps or self.ctx._steps
        return (
            state.id is known.id
            and state.labels is known.labels
            and state.annotations is known.annotations
            and state.data is known.data
            and state.unknown is known.unknown
            and state.values is known.values
            and state.timers is known.timers
            and type(state.status) is Status
            and state.transition is (steps[-1] if steps else known.transition)
        )

    def set_data(self, alias: str, data: Data) -> None:
        """Put ``data`` under ``alias``."""
        before = self.ctx.data if self.data is None else self.data
        if not issubclass(type(before), dict):
            raise InvalidInputError("data", f"must be a dict, not {type(before).__name__}")
        self.data = {**before, alias: data}

    def replace(self, current: State, committed: State, steps: Iterable[Transition]) -> None:
        """Make it the draft of another state, of which nothing is known to be right."""
        self.current, self.committed, self.is_known = current, committed, False
        self.steps, self.replaces_steps = list(steps), True

    def settle(self, state: State, store_id: str, sent_at: float) -> None:
        """Make the context what the store has now."""
        # A driver may return an equal transition; a new object would look like a step.
        if state.transition is not self.current.transition:
            state = replace(state, transition=self.current.transition)
        if self.data is not None:
            self.ctx.data = self.data
        settle(self.ctx, store_id, sent_at, (state,))

    def apply(self) -> None:
        """Make the context what the draft is.

        One that was only looked at is left alone: others may have moved it on meanwhile, such as
        the context of a fence.
        """
        ctx = self.ctx
        if self.data is not None:
            ctx.data = self.data
        if self.put or self.replaces_steps:
            ctx.current, ctx.committed = self.current, self.committed
        if self.replaces_steps:
            ctx._steps = self.steps
        else:
            ctx._steps += self.steps
            if len(ctx._steps) > 2 * MAX_STEPS:
                del ctx._steps[:-MAX_STEPS]
