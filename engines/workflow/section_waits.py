"""The stops of a wait: its sources are set up, it waits for messages, and they are torn down."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from inspect import iscoroutinefunction, signature
from typing import Any

import attrs
from msgspec import Raw

from flowstate import InvalidInputError, encoded
from flowstate.engines.kernel.code import MisfitError, Stop, Update
from flowstate.engines.kernel.errors import StepFailed, restored, stored
from flowstate.engines.kernel.instance import DATA
from flowstate.engines.kernel.operations import (
    Failed,
    Handler,
    Join,
    Operation,
    Outcome,
    Run,
    StepOptions,
    Wait,
)
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.values import kept
from flowstate.engines.workflow.compiler.lookup import hints_of
from flowstate.engines.workflow.section_nodes import Node, Now, Place, SetUp, as_json, on_copy
from flowstate.engines.workflow.sources import Source, Subscription

__all__ = ["Enter", "Receiver", "Settle", "Setup", "Teardown", "receiver"]


@attrs.frozen
class Receiver:
    """Handles messages of a name, which may come from a source."""

    name: str
    update: Update
    source: Source | None = None


def receiver(name: str, handler: Callable[[Any, Any], Any] | Source) -> Receiver:
    """Return how messages of a name are handled.

    Raises:
        InvalidInputError: the handler cannot run within a commit, or takes other arguments.
    """
    source = handler if isinstance(handler, Source) else None
    call: Any = handler.handle if isinstance(handler, Source) else handler
    parameters = [*signature(call).parameters]
    if iscoroutinefunction(call) or len(parameters) != 2:  # noqa: PLR2004 - it says so itself
        raise InvalidInputError("handler", f"of {name!r} must be a plain function of two arguments")
    takes = hints_of(getattr(call, "__func__", call)).get(parameters[1], Any)
    return Receiver(name, Update(takes, call), source)


@attrs.define(eq=False)
class Settle(Node):
    """Goes on with what belongs to the message that came, or raises what is pending."""

    bodies: Mapping[str, Node]

    def next(self, now: Now) -> Node:
        """Return where a thread comes to from here."""
        if now.kept.error is not None:
            raise restored(now.kept.error)
        if now.kept.handled not in self.bodies:
            raise MisfitError(f"nothing is done for {now.kept.handled!r} any more")
        handled, now.kept.handled, now.kept.set_up = now.kept.handled, "", {}
        return self.bodies[handled]

    def leads(self) -> Iterable[Node]:
        """Return where a thread can come to from here."""
        return self.bodies.values()


@attrs.define(eq=False)
class Enter(Place):
    """Waits for messages."""

    kind = "wait"
    receivers: Sequence[Receiver]
    time: timedelta | None

    def stop(self) -> Stop:
        """Return what is known about it."""
        messages = {each.name: each.update.takes for each in self.receivers}
        return Stop(self.name, self.kind, messages=messages, is_open=False)

    def ask(self, now: Now) -> Operation:
        """Ask for a message."""
        names = {each.name: each.update for each in self.receivers}
        for each in self.receivers:
            if each.name in now.kept.set_up:
                names[f"{each.name}#{now.kept.set_up[each.name].token}"] = each.update
        return Wait(self.name, [Handler(*each) for each in names.items()], self.time)

    def take(self, now: Now, outcome: Outcome) -> Node:
        """Note what came."""
        if not isinstance(outcome, Failed):
            name, _ = outcome.value or ("", None)
            now.kept.handled = name.partition("#")[0]
        elif self.time is None or not _is_of_wait(outcome.error):
            now.kept.error = stored(outcome.error)
        return self.after


def _is_of_wait(error: BaseException) -> bool:
    """Return whether the time of a wait has passed; that of an instance says so."""
    return isinstance(error, TimeoutError) and not error.args


@attrs.define(eq=False)
class OfSources(Place):
    """Calls the sources of a wait, all at once."""

    kind = "join"
    data: Any
    receivers: Sequence[Receiver]

    def run(
        self, now: Now, each: Receiver, call: Any, then: Callable[[Any, Any], Any], gives: Any
    ) -> Operation:
        """Return a step that calls a source."""
        assert each.source is not None  # noqa: S101 - only such are here
        step = on_copy(call, self.data, encoded(DATA, now.data), then)
        options = StepOptions(each.source.retry, gives=gives)
        return Run(f"{self.name}.{each.name}", step, options=options)


@attrs.define(eq=False)
class Setup(OfSources):
    """Sets sources up.

    Attributes:
        failed: where a thread comes to if that fails.
    """

    wait: str
    failed: Node

    def ask(self, now: Now) -> Operation:
        """Ask for all of them."""
        return Join(self.name, [self._branch(now, each) for each in self.receivers], None)

    def _branch(self, now: Now, each: Receiver) -> Operation:
        subscription = Subscription(self.wait, each.name)

        def then(_: Any, gave: Any) -> Raw:
            return as_json(SetUp(subscription.token, kept("what was set up", gave)))

        source: Any = each.source
        call = partial(source.setup, subscription=subscription)
        return self.run(now, each, call, then, SetUp)

    def take(self, now: Now, outcome: Outcome) -> Node:
        """Note what came of it."""
        names = [each.name for each in self.receivers]
        if not isinstance(outcome, Failed):
            now.kept.set_up = dict(zip(names, outcome.value, strict=True))
            return self.after
        now.kept.set_up = {name: SetUp() for name in names}
        now.kept.error = stored(outcome.error)
        return self.failed

    def leads(self) -> Iterable[Node]:
        """Return where a thread can come to from here."""
        return self.after, self.failed


@attrs.define(eq=False)
class Teardown(OfSources):
    """Tears sources down."""

    def ask(self, now: Now) -> Operation:
        """Ask for all of them; one that fails does not end the others."""
        branches = [self._branch(now, each) for each in self.receivers]
        return Join(self.name, branches, None, strict=False)

    def _branch(self, now: Now, each: Receiver) -> Operation:
        source: Any = each.source
        set_up: Raw = now.kept.set_up.get(each.name, SetUp()).gave
        is_handled = now.kept.error is None and now.kept.handled == each.name
        call = partial(source.teardown, set_up=decoded(Any, set_up), handled=is_handled)
        return self.run(now, each, call, lambda *_: None, Any)

    def take(self, now: Now, outcome: Outcome) -> Node:
        """Go on when all is done; what interrupts it is raised then."""
        if not isinstance(outcome, Failed):
            return self.after
        if isinstance(outcome.error, StepFailed):
            raise outcome.error
        now.kept.error = stored(outcome.error)
        return self
