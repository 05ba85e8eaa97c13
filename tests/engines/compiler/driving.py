"""Drives definitions without a store: what is kept from stop to stop is JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import msgspec

from flowstate.engines.kernel.code import At, Frame, Raised, Returned
from flowstate.engines.kernel.operations import Failed, Gave, Operation, Outcome
from flowstate.engines.workflow import Helper, helper
from tests.engines.compiler.world import Data, loaded

__all__ = ["MARKS", "Driven", "compiled", "drive", "frame_of"]

MARKS = """
from flowstate.engines.workflow import (
    Timeout, all_of, any_of, each, first, go, helper, sleep, step, sub, until, wait, workflow,
)
"""


@attrs.define
class Driven:
    """What a definition has done.

    Attributes:
        asked: at each stop.
        frames: the same.
        result: what it returned.
        error: what it raised.
        data: at the end.
    """

    asked: list[Operation] = attrs.Factory(list)
    frames: list[Frame] = attrs.Factory(list)
    result: Any = None
    error: BaseException | None = None
    data: Any = None

    @property
    def stops(self) -> list[str]:
        return [frame.stop for frame in self.frames]


def compiled(body: str, name: str = "<test>", head: str = "", **names: Any) -> Helper[Any]:
    """Compile ``async def it(s: Data)`` with a body."""
    lines = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    text = f"{MARKS}{head}\nasync def it(s: Data) -> Any:\n{lines}\n"
    module = loaded(text, name, {"Any": Any, **names})
    made: Helper[Any] = helper(module["it"])
    return made


def frame_of(name: str, **arguments: Any) -> Frame:
    """Return a frame at the beginning."""
    raw = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in arguments.items()}
    return Frame(name, "", raw)


def drive(
    code: Any, outcomes: Iterable[Any] | Mapping[str, Any] = (), data: Any = None, **args: Any
) -> Driven:
    """Run a definition to its end, or until there is no outcome left for a stop.

    Args:
        code: the definition.
        outcomes: what stops give, in order or by name; errors are raised there.
        data: of the instance.
        **args: of the definition.
    """
    driven = Driven(data=Data([1, 2, 3], log=[]) if data is None else data)
    kind, given = type(driven.data), iter(outcomes)
    reached = code.begin(frame_of(code.name, **args), driven.data)
    while isinstance(reached, At):
        frame = msgspec.json.decode(msgspec.json.encode(reached.frame), type=Frame)
        driven.data = msgspec.json.decode(msgspec.json.encode(driven.data), type=kind)
        code.check(frame)
        driven.frames.append(frame)
        try:
            driven.asked.append(code.ask(frame, driven.data))
            has = not isinstance(outcomes, Mapping)
            outcome = _outcome(next(given) if has else outcomes[frame.stop])  # type: ignore[index]
        except (StopIteration, KeyError):
            return driven
        except Exception as error:  # noqa: BLE001 - the contract of ask
            outcome = Failed(error)
        reached = code.go_on(frame, driven.data, outcome)
    if isinstance(reached, Returned):
        driven.result = reached.value
    if isinstance(reached, Raised):
        driven.error = reached.error
    return driven


def _outcome(value: Any) -> Outcome:
    return Failed(value) if isinstance(value, BaseException) else Gave(value)
