"""Code that waits for CloudEvents, for tests of what it is given."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import EVENTS
from flowstate.engines.kernel.operations import Wait
from flowstate.engines.kernel.outside import Events, Published
from tests.engines.kernel.tables import Done, Next, Table

__all__ = ["Gathered", "gathering", "paid"]


class Gathered(msgspec.Struct):
    """The ids of events that it was given, how many it wants, and the fields by which it waits."""

    wants: int
    fields: list[tuple[str, Any]] = msgspec.field(default_factory=list)
    ids: list[str] = msgspec.field(default_factory=list)
    after: int | None = None


def gathering(name: str, seconds: float | None = None) -> Table:
    """Return code that waits until it was given as many events as it wants."""

    def ask(_: object, data: Gathered) -> Wait:
        timeout = None if seconds is None else timedelta(seconds=seconds)
        return Wait("a", [Events(EVENTS, *data.fields, after=data.after)], timeout)

    def took(_: object, data: Gathered, value: list[Published]) -> Next:
        data.ids += [each.event["id"] for each in value]
        data.after = value[-1].rev
        return "a" if len(data.ids) < data.wants else Done(data.ids)

    def timed_out(_: object, data: Gathered, __: object) -> Next:
        return Done(data.ids)

    return Table(name, {"a": (ask, took)}, catches={"a": timed_out}, data=Gathered)


def paid(id: str, data: Any = None, **more: Any) -> CloudEvent:
    attributes: Mapping[str, Any] = {"source": "/shop", "type": "paid", **more}
    return CloudEvent(id=id, data=data, **attributes)
