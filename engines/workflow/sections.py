"""Sections: a workflow as data, made of statements whose functions are given the instance's data.

What is stored of a thread is the name of the step or wait at which it stands: conditions are read
from the data whenever it comes by.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import attrs

from flowstate import InvalidInputError, RetryPolicy
from flowstate.engines.kernel.code import CodeOptions
from flowstate.engines.kernel.instance import RESERVED
from flowstate.engines.workflow.section_code import Body, Links
from flowstate.engines.workflow.section_nodes import (
    Begin,
    Branch,
    Condition,
    Leave,
    Node,
    Run,
    WaitUntil,
    check_all,
)
from flowstate.engines.workflow.section_waits import (
    Enter,
    Receiver,
    Settle,
    Setup,
    Teardown,
    receiver,
)
from flowstate.engines.workflow.sources import Source
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import check_duration, check_id

__all__ = [
    "After",
    "Break",
    "Case",
    "Continue",
    "Default",
    "For",
    "Go",
    "If",
    "On",
    "Return",
    "S",
    "Sections",
    "Statement",
    "Step",
    "Switch",
    "Wait",
    "WaitFor",
]


class Statement(ABC):
    """A part of a definition."""

    @abstractmethod
    def link(self, after: Node, links: Links) -> Node:
        """Return where a thread comes to that comes to this, and then goes on ``after`` it.

        Raises:
            InvalidInputError: it is not in its place, or its name is taken.
        """


@attrs.frozen(init=False)
class S(Statement):
    """Statements, one after the other."""

    statements: tuple[Statement, ...]

    def __init__(self, *statements: Statement) -> None:
        check_all("statements", statements, Statement)
        self.__attrs_init__(statements)

    def link(self, after: Node, links: Links) -> Node:
        """Link them, the last one first."""
        for each in reversed(self.statements):
            after = each.link(after, links)
        return after


@attrs.frozen
class Step(Statement):
    """Call a function that has effects: a ``def`` in a worker thread, or an ``async def``.

    It is given a copy of the data. The fields that it changes are changed by the commit that
    leaves the step. If another thread has changed one of them meanwhile, it is called again with
    newer data, under the same ``effect_key()``.

    Attributes:
        name: unique in the definition.
        call: is given the data.
        then: is given the data and what ``call`` has returned, which is decoded by its annotation;
            runs within the commit, once, so it may change what others change, too.
        retry: of failures; the policy of the definition otherwise.
        timeout: of one attempt.
    """

    name: str
    call: Callable[[Any], Any]
    then: Callable[[Any, Any], object] | None = attrs.field(default=None, kw_only=True)
    retry: RetryPolicy | None = attrs.field(default=None, kw_only=True)
    timeout: timedelta | None = attrs.field(default=None, kw_only=True)

    def link(self, after: Node, links: Links) -> Node:
        """Link it."""
        node = Run(self.name, after, links.kind, self.call, self.then, self.retry, self.timeout)
        return links.stop(node)


@attrs.frozen(init=False)
class Case:
    """Statements of a ``Switch``, and the condition of the data for them."""

    condition: Condition
    body: S

    def __init__(self, condition: Condition, *statements: Statement) -> None:
        self.__attrs_init__(condition, S(*statements))


@attrs.frozen(init=False)
class Default(Case):
    """The last statements of a ``Switch``, for when no condition is true."""

    def __init__(self, *statements: Statement) -> None:
        self.__attrs_init__(lambda _: True, S(*statements))


@attrs.frozen(init=False)
class Switch(Statement):
    """Do the statements of the first case whose condition is true; none if there is none."""

    cases: tuple[Case, ...]

    def __init__(self, *cases: Case) -> None:
        check_all("cases", cases, Case)
        if any(isinstance(each, Default) for each in cases[:-1]):
            raise InvalidInputError("cases", "must have the default at the end")
        self.__attrs_init__(cases)

    def link(self, after: Node, links: Links) -> Node:
        """Link all cases."""
        cases = [(each.condition, each.body.link(after, links)) for each in self.cases[::-1]]
        return Branch(cases[::-1], after)


@attrs.frozen(init=False)
class If(Switch):
    """Do statements if a condition of the data is true."""

    def __init__(self, condition: Condition, *statements: Statement) -> None:
        super().__init__(Case(condition, *statements))

    def ElseIf(self, condition: Condition, *statements: Statement) -> "If":  # noqa: N802 - a word
        """Return one that otherwise does these statements, if another condition is true."""
        longer = If(condition)
        longer.__attrs_init__((*self.cases, Case(condition, *statements)))
        return longer

    def Else(self, *statements: Statement) -> Switch:  # noqa: N802 - a word
        """Return one that otherwise does these statements."""
        return Switch(*self.cases, Default(*statements))


@attrs.frozen(init=False)
class For(Statement):
    """Do statements again and again, as long as a condition of the data is true.

    A pass that changes nothing, since it comes to no step and no wait, is an error.
    """

    condition: Condition
    body: S

    def __init__(self, condition: Condition, *statements: Statement) -> None:
        self.__attrs_init__(condition, S(*statements))

    def link(self, after: Node, links: Links) -> Node:
        """Link it to itself."""
        loop = Branch([], after)
        loop.cases = [
            (self.condition, self.body.link(loop, attrs.evolve(links, loop=(loop, after))))
        ]
        return loop


@attrs.frozen
class Break(Statement):
    """Leave the loop."""

    def link(self, _after: Node, links: Links) -> Node:
        """Go on after the loop."""
        return links.around("Break")[1]


@attrs.frozen
class Continue(Statement):
    """Begin the next pass of the loop."""

    def link(self, _after: Node, links: Links) -> Node:
        """Go on at the beginning of the loop."""
        return links.around("Continue")[0]


@attrs.frozen
class Return(Statement):
    """End the thread; in the main thread, the instance.

    Attributes:
        value: the result, or a function that is given the data and returns it.
    """

    value: Any = None

    def link(self, _after: Node, _links: Links) -> Node:
        """End."""
        return Leave(self.value)


@attrs.frozen(init=False)
class Go(Statement):
    """Begin a thread that does statements, and go on. It ends with the main thread at the latest.

    Attributes:
        name: unique in the definition.
        body: statements of the thread.
        thread: is given the data, and returns the name of the thread, which no other one has
            then; otherwise it gets one.
    """

    name: str
    body: S
    thread: Callable[[Any], str]

    def __init__(
        self, name: str, *statements: Statement, thread: Callable[[Any], str] = lambda _: ""
    ) -> None:
        self.__attrs_init__(name, S(*statements), thread)

    def link(self, after: Node, links: Links) -> Node:
        """Link it, and the thread as code of its own."""
        return links.stop(
            Begin(self.name, after, links.thread(self.name, self.body.link), self.thread)
        )


@attrs.frozen(init=False)
class On:
    """What is done when a message comes.

    Attributes:
        name: of the message.
        handler: is given the data and the message, changes the data in place, and returns the
            answer; all within the commit that takes the message. The annotation of its second
            parameter says what a message is; others do not count, nor does one for which it
            raises. Or a ``Source``.
        body: what is done then.
    """

    name: str
    handler: Callable[[Any, Any], Any] | Source
    body: S

    def __init__(
        self, name: str, handler: Callable[[Any, Any], Any] | Source, *statements: Statement
    ) -> None:
        if not name or name in RESERVED or set("/#$") & set(name):
            raise InvalidInputError("name", f"of a message cannot be {name!r}")
        self.__attrs_init__(name, handler, S(*statements))

    @property
    def receiver(self) -> Receiver:
        """How its messages are received."""
        return receiver(self.name, self.handler)


@attrs.frozen(init=False)
class After:
    """What is done when a wait has lasted for a time."""

    time: timedelta
    body: S

    def __init__(self, time: timedelta, *statements: Statement) -> None:
        self.__attrs_init__(check_duration("time", time), S(*statements))


@attrs.frozen(init=False)
class Wait(Statement):
    """Wait for the first of some messages, and do what belongs to it.

    Sources are set up before it, in a step ``<name>.setup``, and torn down after it, in one that is
    called ``<name>.teardown``, also if the wait was cancelled.

    Attributes:
        name: unique in the definition.
        on: for messages, of different names.
        after: a time.
    """

    name: str
    on: tuple[On, ...]
    after: After | None

    def __init__(self, name: str, *on: On | After) -> None:
        check_all("on", on, On | After)
        after = [each for each in on if isinstance(each, After)]
        messages = [each for each in on if isinstance(each, On)]
        if not on or len(after) > 1 or len({each.name for each in messages}) < len(messages):
            raise InvalidInputError("on", "must be messages of different names, or one time")
        self.__attrs_init__(name, tuple(messages), after[0] if after else None)

    def link(self, after: Node, links: Links) -> Node:
        """Link what is done before, and after."""
        bodies, time = {}, None
        if self.after is not None:
            bodies[""], time = self.after.body.link(after, links), self.after.time
        bodies |= {each.name: each.body.link(after, links) for each in self.on[::-1]}
        receivers = [each.receiver for each in self.on]
        end: Node = Settle(bodies)
        sources = [each for each in receivers if each.source]
        if not sources:
            return links.stop(Enter(self.name, end, receivers, time))
        end = links.stop(Teardown(f"{self.name}.teardown", end, links.kind, sources))
        wait = links.stop(Enter(self.name, end, receivers, time))
        return links.stop(Setup(f"{self.name}.setup", wait, links.kind, sources, self.name, end))


@attrs.frozen
class WaitFor(Statement):
    """Go on as soon as a condition of the data is true.

    Attributes:
        name: unique in the definition.
        condition: is given the data.
        then: is given the data, and changes it in place before the next thread is looked at; of
            several threads, the one that has waited longest comes first.
    """

    name: str
    condition: Condition
    then: Callable[[Any], object] | None = None

    def link(self, after: Node, links: Links) -> Node:
        """Link it."""
        return links.stop(WaitUntil(self.name, after, self.condition, self.then))


class Sections(Body):
    """A workflow that is made of sections.

    Args:
        name: what the store calls it.
        data: the type of the data of its instances: a class with fields, or ``dict``.
        statements: of its main thread.
        gives: the type of its result.
        retry: of its steps, unless they say otherwise; ``None``: a failing step fails at once.
        timeout: how long an instance may take.
        retry_after: as of ``workflow``.
        updates: by name, functions that are given the data and a request, change the data in
            place, and return the answer, at any time.
        renamed: old names of steps and waits, and what they are called now.
        version: higher than those before, if several are to run side by side.

    Raises:
        InvalidInputError: a name is taken, or a statement not in its place.
    """

    has_instances = True

    def __init__(
        self,
        name: str,
        data: Any,
        *statements: Statement,
        gives: Any = Any,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
        retry_after: timedelta | None = None,
        updates: Mapping[str, Callable[[Any, Any], Any]] = EMPTY,
        renamed: Mapping[str, str] = EMPTY,
        version: int = 0,
    ) -> None:
        self.version = version
        answered = {key: receiver(key, each).update for key, each in updates.items()}
        options = CodeOptions(retry, timeout, answered, retry_after)
        links, link = Links(check_id("name", name), data, renamed), S(*statements).link
        super().__init__(name, links, link, data=data, gives=gives, options=options)
