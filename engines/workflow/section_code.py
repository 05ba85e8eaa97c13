"""Sections as code with named stops."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import msgspec

from flowstate import InvalidInputError
from flowstate.engines.kernel.code import (
    At,
    Code,
    CodeOptions,
    Frame,
    MisfitError,
    Raised,
    Reached,
    Returned,
)
from flowstate.engines.kernel.errors import Cancelled
from flowstate.engines.kernel.operations import Operation, Outcome
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.workflow.compiler.ways import BEGIN, END, Way
from flowstate.engines.workflow.marking import Defined
from flowstate.engines.workflow.section_nodes import KEPT, Kept, Leave, Node, Now, Place, as_json
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import check_id

__all__ = ["Body", "Links", "LoopError"]

Link = Callable[[Node, "Links"], Node]


class LoopError(Exception):
    """A pass of a loop came to no step and no wait, so it would never end."""


@attrs.frozen
class Links:
    """What is known while statements are linked to each other.

    Attributes:
        root: the name of the definition.
        kind: the type of its data.
        renamed: old names of stops, and what they are called now.
        taken: names of stops in the definition.
        places: the stops of one thread.
        threads: code of further threads that it begins.
        loop: where the next pass of the loop begins, and what comes after the loop.
    """

    root: str
    kind: Any
    renamed: Mapping[str, str]
    taken: set[str] = attrs.Factory(set)
    places: dict[str, Place] = attrs.Factory(dict)
    threads: dict[str, Code] = attrs.Factory(dict)
    loop: tuple[Node, Node] | None = None

    def stop(self, place: Place) -> Place:
        """Return a stop, unless its name is taken."""
        if check_id("name", place.name) in self.taken:
            raise InvalidInputError("name", f"{place.name!r} is taken in {self.root!r}")
        self.taken.add(place.name)
        self.places[place.name] = place
        return place

    def around(self, word: str) -> tuple[Node, Node]:
        """Return the loop around a statement."""
        if self.loop is None:
            raise InvalidInputError("statements", f"have a {word} outside of a loop")
        return self.loop

    def thread(self, name: str, link: Link) -> Code:
        """Return the code of a thread."""
        links = attrs.evolve(self, places={}, threads={}, loop=None)
        code = self.threads[name] = Body(f"{self.root}.{name}", links, link)
        return code


class Body(Defined):
    """The statements of a thread."""

    takes: Mapping[str, Any] = EMPTY
    version = 0

    def __init__(
        self,
        name: str,
        links: Links,
        link: Link,
        *,
        data: Any = None,
        gives: Any = Any,
        options: CodeOptions | None = None,
    ) -> None:
        self.name, self.data, self.gives, self.options = name, data, gives, options or CodeOptions()
        self._first = link(Leave(None), links)
        self._places, self._renamed, self.uses = links.places, links.renamed, links.threads
        places = reversed(links.places.values())  # They are linked from the end.
        self.stops = {each.name: each.stop() for each in places}

    @property
    def ways(self) -> list[Way]:
        """The ways from stop to stop."""
        places = {name: self._places[name].leads() for name in self.stops}
        begins = {BEGIN: (self._first,), **places}
        return [Way(name, to) for name, nodes in begins.items() for to in _reached(nodes)]

    def arguments(self) -> Mapping[str, Any]:
        """Return none: there are only the data."""
        return EMPTY

    def begin(self, _frame: Frame, data: Any) -> Reached:
        """Run to the first stop."""
        return self._run(self._first, Now(data, Kept()))

    def ask(self, frame: Frame, data: Any) -> Operation:
        """Return what is to be done at a stop."""
        return self._place(frame).ask(Now(data, _kept(frame)))

    def go_on(self, frame: Frame, data: Any, outcome: Outcome) -> Reached:
        """Give a stop its outcome, and run to the next one."""
        place, now = self._place(frame), Now(data, _kept(frame))
        try:
            node = place.take(now, outcome)
        except (Exception, Cancelled) as error:  # noqa: BLE001 - it is what the code raises
            return Raised(error)
        return At(frame) if node is None else self._run(node, now)

    def check(self, frame: Frame) -> None:
        """Raise ``MisfitError`` unless a frame can be entered."""
        if frame.stop:
            self._place(frame)
            _kept(frame)

    def _place(self, frame: Frame) -> Place:
        place = self._places.get(self._renamed.get(frame.stop, frame.stop))
        if place is None:
            fix = "if it has another name now, say so with renamed="
            raise MisfitError(f"{self.name!r} has no stop {frame.stop!r} any more; {fix}")
        return place

    def _run(self, node: Any, now: Now) -> Reached:
        """Go on to the next stop, or to the end."""
        seen = set[Node]()
        try:
            while not _stays(node):
                if node in seen:
                    raise LoopError("a pass of a loop came to no step and no wait")
                seen.add(node)
                node = node.next(now)
            if isinstance(node, Leave):
                return Returned(node.result(now.data))
        except MisfitError:
            raise
        except (Exception, Cancelled) as error:  # noqa: BLE001 - it is what the code raises
            return Raised(error)
        names = {} if now.kept == Kept() else {KEPT: as_json(now.kept)}
        return At(Frame(self.name, node.name, names))


def _reached(nodes: Iterable[Node]) -> list[str]:
    """Return the stops, or the end, to which a thread comes next from nodes."""
    seen, waiting = dict[Node, None](), [*nodes]
    while waiting:
        node = waiting.pop(0)
        if node not in seen:
            seen[node] = None
            waiting += () if isinstance(node, Place) else node.leads()
    names = [node.name if isinstance(node, Place) else END for node in seen if _stays(node)]
    return list(dict.fromkeys(names))


def _stays(node: Node) -> bool:
    return isinstance(node, Place | Leave)


def _kept(frame: Frame) -> Kept:
    if KEPT not in frame.names:
        return Kept()
    try:
        return decoded(Kept, frame.names[KEPT])  # type: ignore[no-any-return]
    except msgspec.MsgspecError as error:
        raise MisfitError(f"what is kept at stop {frame.stop!r} cannot be read: {error}") from error
