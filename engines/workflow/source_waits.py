"""Waits with sources in code: set up, waited for and torn down at one stop, each by a commit.

What is known meanwhile is stored with the names of the frame, and is gone when the stop is left.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from flowstate import InvalidInputError, State
from flowstate.engines.kernel.code import Frame, MisfitError, Update
from flowstate.engines.kernel.errors import restored
from flowstate.engines.kernel.instance import THREADS
from flowstate.engines.kernel.operations import Failed, Gave, Operation, Outcome, Wait
from flowstate.engines.kernel.outcomes import decoded, message_name
from flowstate.engines.kernel.outside import Outside
from flowstate.engines.kernel.threads import Threads
from flowstate.engines.kernel.values import kept
from flowstate.engines.workflow.section_nodes import KEPT, Kept, Leave, Node, Now, Place, as_json
from flowstate.engines.workflow.section_waits import Enter, Receiver, Setup, Teardown, receiver
from flowstate.engines.workflow.sources import Source, message_of

__all__ = ["SourceWait", "is_set_up", "source_wait"]

NULL = Raw(b"null")


class Stage(Struct, omit_defaults=True):
    """How far a wait is.

    Attributes:
        at: the stop of it: ``<name>.setup``, ``<name>`` or ``<name>.teardown``.
        kept: what sections keep, too.
        gave: the message.
    """

    at: str
    kept: Kept
    gave: Raw = NULL


@attrs.define(eq=False)
class Message(Enter):
    """Waits for a message, and keeps it."""

    gave: Raw = NULL

    def take(self, now: Now, outcome: Outcome) -> Node:
        """Note what came."""
        if isinstance(outcome, Gave):
            self.gave = kept("message", outcome.value[1])
        return super().take(now, outcome)


@attrs.frozen
class SourceWait:
    """A wait that has sources.

    Attributes:
        receivers: of its messages.
        setup: its first place.
        wait: the second one.
        places: all three, by name.
    """

    receivers: Sequence[Receiver]
    setup: Place
    wait: Message
    places: dict[str, Place]

    def ask(self, frame: Frame, data: Any) -> Operation:
        """Return what is to be done next."""
        stage = self._stage(frame)
        return self.places[stage.at].ask(Now(data, stage.kept))

    def take(self, frame: Frame, data: Any, outcome: Outcome) -> Frame | Outcome:
        """Return the frame of the next stage, or the outcome of the whole."""
        stage = self._stage(frame)
        self.wait.gave = stage.gave
        node = self.places[stage.at].take(Now(data, stage.kept), outcome)
        if isinstance(node, Place):
            raw = as_json(Stage(node.name, stage.kept, self.wait.gave))
            return replace(frame, names={**frame.names, KEPT: raw})
        return self._outcome(stage.kept, self.wait.gave)

    def _stage(self, frame: Frame) -> Stage:
        raw = frame.names.get(KEPT)
        if raw is None:
            return Stage(self.setup.name, Kept())
        try:
            stage: Stage = decoded(Stage, raw)
        except msgspec.MsgspecError as error:
            raise MisfitError(f"stop {frame.stop!r}: its wait cannot be read: {error}") from error
        return stage

    def _outcome(self, kept: Kept, gave: Raw) -> Outcome:
        if kept.error is not None:
            return Failed(restored(kept.error))
        if not kept.handled:
            return Failed(TimeoutError())
        for each in self.receivers:
            if each.name == kept.handled:
                return Gave(decoded(each.update.takes, gave))
        raise MisfitError(f"stop {self.wait.name!r} does not wait for {kept.handled!r} any more")


def source_wait(operation: Operation, kind: Any) -> SourceWait | None:
    """Return a wait in stages; ``None`` if an operation is no wait, or has no sources.

    Args:
        operation: what a stop asks for.
        kind: the type of the data.
    """
    if not isinstance(operation, Wait):
        return None
    if not any(isinstance(each, Source) for each in operation.sources):
        return None
    receivers = [_receiver(each) for each in operation.sources]
    if len({each.name for each in receivers}) < len(receivers):
        raise InvalidInputError("sources", "must have messages of different names")
    name, sources = operation.name, [each for each in receivers if each.source is not None]
    teardown = Teardown(f"{name}.teardown", Leave(None), kind, sources)
    wait = Message(name, teardown, receivers, operation.timeout)
    setup = Setup(f"{name}.setup", wait, kind, sources, name, teardown)
    return SourceWait(receivers, setup, wait, {each.name: each for each in (setup, wait, teardown)})


def _receiver(source: Any) -> Receiver:
    if isinstance(source, Source):
        return receiver(message_name(message_of(source)), source)
    if isinstance(source, Outside):
        reason = f"cannot have {source} in one wait with what is set up: use any_of(wait(...), ...)"
        raise InvalidInputError("sources", reason)
    return Receiver(message_name(source), Update(source, lambda _data, _message: None))


def is_set_up(state: State, wait: str) -> bool:
    """Return whether an instance sets up no source for a wait of that name just now."""
    threads = state.get(Threads, THREADS, default={}).values()
    frames = [thread.frames[-1] for thread in threads if thread.frames]
    return not any(
        frame.stop == f"{wait}.setup" or (frame.stop == wait and KEPT not in frame.names)
        for frame in frames
    )
