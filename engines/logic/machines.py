"""The client of machines."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import msgspec

from flowstate import Engine, InvalidInputError
from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.events.starting import Starters
from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.instance import DATA
from flowstate.engines.logic.events import message_name
from flowstate.engines.logic.machine import Machine
from flowstate.engines.logic.starts import starter_of
from flowstate.engines.logic.stored import Entry, Held
from flowstate.engines.logic.transforming import use_expressions
from flowstate.engines.workflow.workflows import Workflows
from flowstate.ground.frozen import EMPTY

if TYPE_CHECKING:
    from flowstate.engines.workflow.schedules import Overlap

__all__ = ["Machines"]


class Machines(Workflows):
    """The instances of some machines, for the code that uses them and for operators.

    Args:
        engine: open until this is left.
        machines: and workflows.
        expressions: open; needed by ``transform=``.
        **options: of ``Workflows``.

    Raises:
        InvalidInputError: a machine has no state, or a catcher names none; or two have one name.
    """

    def __init__(
        self,
        engine: Engine,
        machines: Iterable[Code],
        *,
        expressions: Expressions | None = None,
        **options: Any,
    ) -> None:
        codes = [*machines]
        own = [each for each in codes if isinstance(each, Machine)]
        self._starters = {
            each: starter_of(machine, each, engine)
            for machine in own
            for each in machine.started_by
        }
        super().__init__(engine, [*codes, *self._starters.values()], **options)
        self.expressions = expressions
        for code in self.codes:
            if isinstance(code, Machine):
                code.check_states()

    async def __aenter__(self) -> Self:
        if self.expressions is not None:
            use_expressions(self.engine.flows, self.expressions)
        await super().__aenter__()
        for start, code in self._starters.items():
            await Starters(self, code).set(start.name, code.runs.name, start.plan)
        return self

    async def start(
        self,
        code: Code,
        id: str,
        data: Any = None,
        args: Mapping[str, Any] = EMPTY,
        *,
        labels: Mapping[str, str] = EMPTY,
    ) -> bool:
        """Start an instance; ``data`` are its values, see ``Machine.held`` and ``Kernel.start``."""
        if any(each.plan.on for each in getattr(code, "started_by", ())):
            raise InvalidInputError("code", f"{code.name!r} is started by events only")
        return await super().start(code, id, _held(code, data), args, labels=labels)

    async def schedule(
        self,
        name: str,
        code: Code,
        cron: str,
        data: Any = None,
        args: Mapping[str, Any] = EMPTY,
        *,
        zone: str = "UTC",
        overlap: "Overlap" = "skip",
    ) -> bool:
        """Start an instance at each time of a cron expression; see ``Workflows.schedule``."""
        held = _held(code, data)
        return await super().schedule(name, code, cron, held, args, zone=zone, overlap=overlap)

    async def query(self, id: str, ask: Callable[[Any], Any] | None = None) -> Any:
        """Read the values of an instance; see ``Workflows.query``."""
        data = await super().query(id)
        values = data.values if isinstance(data, Held) else data
        return values if ask is None else ask(values)

    async def publish(
        self, event: Any, *, key: str = "", keep: timedelta = timedelta(days=1)
    ) -> bool:
        """Publish an event; a ``CloudEvent`` once for its source and id. See ``Kernel.publish``."""
        if isinstance(event, CloudEvent):
            return await publish(self.engine, event, keep=keep)
        return await super().publish(event, key=key, keep=keep)

    async def send_event(self, id: str, event: CloudEvent, *, early: bool = False) -> bool:
        """Send an event to one instance only, once for its source and id; see ``Kernel.send``.

        It is taken by the next wait for events of its type, and has to match a filter of that.
        """
        key = msgspec.json.encode([event.source, event.id]).decode()
        name = message_name(event.type)
        return await self.send(id, event.to_json(), key=key, early=early, name=name)

    async def log(self, id: str) -> AsyncIterator[Entry]:
        """Iterate over the log of an instance, as far as its revisions are stored.

        Raises:
            StateNotFoundError: there is no such instance.
        """
        await self.engine.get_state(id)
        seen = 0
        async for state in self.engine.history(id):
            if DATA in state.values:
                held = state.get(Held[Any], DATA)
                for entry in held.log[max(0, seen - held.logged) :]:
                    yield entry
                seen = max(seen, held.logged + len(held.log))


def _held(code: Code, data: Any) -> Any:
    return code.held(data) if isinstance(code, Machine) and not isinstance(data, Held) else data
