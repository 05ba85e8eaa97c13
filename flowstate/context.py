"""The one mutable thing: a working copy of a state, and what the store has of it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack, overload

from msgspec import UNSET
from msgspec.structs import replace

from flowstate.data import Data
from flowstate.effect_keys import effect_key, kept, origin_of
from flowstate.errors import DriverError, InvalidInputError
from flowstate.executed import Notice
from flowstate.ground.frozen import EMPTY, FrozenDict, exact
from flowstate.ground.limits import MAX_STEPS, check_id
from flowstate.mailboxes.mailbox import SIGNAL
from flowstate.retrying import ERROR, POLICY, PolicyChanges, failures_of, overridden
from flowstate.state import State, Transition
from flowstate.timers import TIMER
from flowstate.validation import frozen
from flowstate.values import with_value, without_value

__all__ = [
    "StateContext",
    "check_context",
    "go_on_from",
    "next_alone",
    "refusal",
    "settle",
    "take_steps",
]

T = TypeVar("T")
D = TypeVar("D")


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
    #   _frozen     the very object that the context was made with: it is frozen.
    #   _known      the very object that the store gave for ``committed``: it needs no check.
    #   _on_commit  is called after each commit of this context with the monotonic time at which
    #               the commit was sent; set by what executes the context.
    #   _sent_at    from when the store counts, as far as is known: that time, of the last commit
    #               or heartbeat; None if there was none.
    #   _stayed     a transition that a commit without a step has only given its origin.
    #   _steps      taken since the last commit; of more than twice MAX_STEPS the newest.
    #   _notice     what those who execute the context tell its flow.
    #   _trimmed    how many steps are not in ``_steps`` any more.
    #   _store_id   of the store that it was committed to; None if it was not.
    #   _alone      the revision at which it has stored delays by themselves, and how many; not
    #               there before the first one.
    __slots__ = (
        "_alone",
        "_frozen",
        "_known",
        "_notice",
        "_on_commit",
        "_sent_at",
        "_stayed",
        "_steps",
        "_store_id",
        "_trimmed",
        "committed",
        "current",
        "data",
    )

    _alone: tuple[int, int]

    def __init__(self, state: State) -> None:
        self.current = self._frozen = state = frozen(state)
        is_new = type(state.rev) is int and not state.rev
        self.committed = State(state.id) if is_new else state
        self.data: dict[str, Data] = {}
        self._steps: list[Transition] = []
        self._trimmed = 0
        self._stayed: Transition | None = None
        self._known: State | None = None
        self._store_id: str | None = None
        self._sent_at: float | None = None
        self._on_commit: Callable[[float], None] | None = None
        self._notice: Notice | None = None

    def __repr__(self) -> str:
        return f"StateContext(current={self.current!r}, committed_rev={self.committed.rev})"

    @property
    def transitions(self) -> tuple[Transition, ...]:
        """The steps taken since the last commit, oldest first; of many, the last 1,000."""
        return tuple(self._steps[-MAX_STEPS:])

    @property
    def _taken(self) -> int:
        """How many steps were taken since the last commit."""
        return self._trimmed + len(self._steps)

    @property
    def effect_key(self) -> str:
        """What names the step, for calls of other services: the same each time it runs.

        A service that has seen a key does nothing for it again. The key stays the same over
        attempts of recovery and pauses of a policy, a ``Retry``, ``Pause`` or ``Resume``, a commit
        of data or values, a hand-over to another engine, a ``Delay`` to the flow that the state is
        in, and when an operator retries a dead state. The next ``Transit`` begins a new one, also
        to the same flow; so does a delay or timer to another flow.

        Steps that were never committed are counted instead, so a flow that takes other ones when
        it runs again finds other keys. Before its first commit nothing but these counts tells
        the steps of a state apart.
        """
        return effect_key(self.current, self.origin)

    @property
    def origin(self) -> str:
        """The part of :attr:`effect_key` that names the step within its state."""
        taken = self._trimmed + len(self._steps)
        return origin_of(self.current.transition, self.committed, taken)

    def copy(self) -> "StateContext":
        """Return an independent context with the same content."""
        twin = self._duplicate(self.current, self.committed)
        twin._notice = self._notice
        twin._known = self._known
        twin._store_id = self._store_id
        twin._sent_at = self._sent_at
        return twin

    def fork(self, new_id: str) -> "StateContext":
        """Return a context for a new state that starts as a copy of this one's working copy.

        It has none of the timers.

        Args:
            new_id: of the new state; checked by its first commit.
        """
        current = replace(
            self.current,
            id=new_id,
            rev=0,
            committed_at=None,
            delayed_until=None,
            timers=EMPTY,
            transition=kept(self.current.transition, self.origin),
        )
        return self._duplicate(current, State(exact(new_id)))

    def _duplicate(self, current: State, committed: State) -> "StateContext":
        twin = StateContext(current)
        twin.committed = committed
        twin.data = dict(self.data)
        twin._steps = self._steps.copy()
        twin._trimmed = self._trimmed
        twin._notice = self._notice and Notice(self._notice.stop)
        return twin

    def set_label(self, key: str, value: str | None) -> None:
        """Set a label of the working copy, or remove it.

        Args:
            key: at most 512 bytes of UTF-8.
            value: at most 512 bytes of UTF-8; ``None`` removes the label.

        Raises:
            InvalidInputError: a bad key; the value is checked by the commit.
        """
        labels = _changed("label", self.current.labels, key, value)
        self.current = replace(self.current, labels=labels)

    def set_annotation(self, key: str, value: str | None) -> None:
        """Set an annotation of the working copy, or remove it.

        Args:
            key: at most 512 bytes of UTF-8.
            value: a text; ``None`` removes the annotation.

        Raises:
            InvalidInputError: a bad key; the value is checked by the commit.
        """
        annotations = _changed("annotation", self.current.annotations, key, value)
        self.current = replace(self.current, annotations=annotations)

    def put(self, value: object, name: str = "value") -> None:
        """Keep a value with the state, as JSON; the next commit of the state stores it.

        Args:
            value: of a class of msgspec or attrs, a dataclass, or anything of Python that JSON
                has. ``None`` is a value, too.
            name: of the value. A state has at most 1 MiB of values in all.

        Raises:
            InvalidInputError: a bad name, or it cannot be stored as JSON, has NUL, NaN or an
                infinite number, or is too large; names ``values[name]``.
        """
        values = with_value(self.current.values, name, value)
        if values is not self.current.values:
            self.current = replace(self.current, values=values)

    def remove(self, name: str = "value") -> None:
        """Remove a value, if there is one; it is gone with the next commit of the state.

        Args:
            name: of the value.

        Raises:
            InvalidInputError: a bad name.
        """
        values = without_value(self.current.values, name)
        if values is not self.current.values:
            self.current = replace(self.current, values=values)

    @overload
    def get(self, kind: type[T], name: str = ...) -> T: ...
    @overload
    def get(self, kind: type[T], name: str = ..., default: D = ...) -> T | D: ...
    @overload
    def get(self, kind: Any, name: str = ..., default: Any = ...) -> Any: ...
    def get(self, kind: Any, name: str = "value", default: Any = UNSET) -> Any:
        """Return a value of the working copy, as :meth:`State.get` does."""
        return self.current.get(kind, name, default)

    @property
    def resumed(self) -> bool:
        """Whether the last step was a ``Resume``."""
        return self.current.transition.cause == "resume"

    @property
    def delayed(self) -> bool:
        """Whether the last step was a ``Delay`` that fired."""
        return self.current.transition.cause == "delay"

    @property
    def timer(self) -> str:
        """The name of the timer that made the last step; empty if it was none."""
        transition = self.current.transition
        return transition.annotations.get(TIMER, "") if transition.cause == "timer" else ""

    @property
    def signal(self) -> str:
        """The name of the message that made the last step; empty if it was none."""
        transition = self.current.transition
        return transition.annotations.get(SIGNAL, "") if transition.cause == "signal" else ""

    def set_policy(self, **changes: Unpack[PolicyChanges]) -> None:
        """Let this state override the policies of all flows that it comes to, or follow them again.

        It applies from the next commit of the state on, and is stored with it.

        Args:
            changes: see :class:`flowstate.retrying.PolicyChanges`.

        Raises:
            InvalidInputError: a bad value; names it.
        """
        self.set_annotation(POLICY, overridden(self.current.annotations, changes))

    @property
    def failures(self) -> int:
        """How many times the flow has failed and was tried again by its policy, in this step."""
        return failures_of(self.current.transition.annotations)

    @property
    def error(self) -> str:
        """What the flow raised before it was tried again, or before ``on_failure`` led here."""
        return self.current.transition.annotations.get(ERROR, "")

    @property
    def stopping(self) -> bool:
        """Whether this flow should end soon.

        The engine that executes it has begun to stop; or nothing waits any more for this call in
        a thread, because of its timeout or since its execution was stopped.
        """
        return self._notice is not None and self._notice.is_stopping

    async def wait_stopping(self) -> None:
        """Return when the engine that executes this context begins to stop.

        Outside an execution it waits until it is cancelled.
        """
        await ((self._notice and self._notice.stop) or asyncio.Event()).wait()

    @property
    def superseded(self) -> bool:
        """Whether others have moved the state on, so that this execution can commit nothing more.

        A commit of this process is known at once, one of another process with the next heartbeat.
        """
        return self._notice is not None and self._notice.is_superseded

    async def wait_superseded(self) -> None:
        """Return when others move the state on; see :attr:`superseded`.

        Outside an execution it waits until it is cancelled.
        """
        await (self._notice or Notice()).wait_superseded()


def check_context(ctx: object) -> None:
    """Refuse what is no context, whatever class it claims to have."""
    if not issubclass(type(ctx), StateContext):
        raise InvalidInputError("ctx", f"must be a StateContext, not {type(ctx).__name__}")


def settle(ctx: StateContext, store_id: str, sent_at: float, verdict: object) -> None:
    """Make a context what the verdict on its only state says, or raise what it is."""
    if type(verdict) is not tuple or len(verdict) != 1:
        raise refusal(verdict)
    ctx.current = ctx.committed = ctx._known = verdict[0]
    if ctx._steps:
        ctx._steps = []
        ctx._trimmed = 0
    ctx._store_id = store_id
    ctx._sent_at = sent_at
    if ctx._on_commit is not None:
        ctx._on_commit(sent_at)


def take_steps(ctx: StateContext, current: State, steps: Sequence[Transition]) -> None:
    """Give a context another working copy, and the steps that led to it."""
    ctx.current = current
    ctx._steps += steps
    if len(ctx._steps) > 2 * MAX_STEPS:
        ctx._trimmed += len(ctx._steps) - MAX_STEPS
        del ctx._steps[:-MAX_STEPS]


def go_on_from(ctx: StateContext, renewed: State, sent_at: float) -> None:
    """Let a context, changed or not, have a revision that only repeats what was committed."""
    changes = {"rev": renewed.rev, "committed_at": renewed.committed_at}
    is_changed = ctx.current is not ctx.committed
    ctx.current = replace(ctx.current, **changes) if is_changed else renewed
    ctx.committed = ctx._known = renewed
    ctx._sent_at = sent_at


def next_alone(ctx: StateContext) -> tuple[int, int]:
    """Return the revision of a context, and the number of the next delay by itself there."""
    rev, number = getattr(ctx, "_alone", (0, 0))
    return ctx.committed.rev, number + 1 if rev == ctx.committed.rev else 1


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
