"""Tables of bad input: every value is tried, and must leave nothing behind."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from flowstate.context import StateContext
from flowstate.data import Data, checksum_of
from flowstate.errors import FlowstateError
from flowstate.testcases.harness import Harness, check
from flowstate.testcases.support import committed, contents, raised, snapshot

__all__ = ["BIG", "DAY", "IDS", "KEYS", "MAPPINGS", "Try", "changed", "refused"]

BIG = "x" * 1024 * 1024
DAY = timedelta(days=1)
IDS = ("", "\0", "a\0b", "\ud800", "a\udfff", "x" * 513, "é" * 257, BIG, None, 1, b"id", ["a"])
KEYS = IDS[:-1]
MAPPINGS = (None, "ab", 1, ["a"], [("a", "b")])

Try = tuple[str, Callable[[StateContext, Any], Any], Sequence[Any]]
"""The field that must be named, what to do with a context and a bad value, and the values."""


async def refused(h: Harness, kind: type[FlowstateError], *tries: Try) -> None:
    """Try every bad value with a new and a committed context; look at what it leaves."""
    base = await committed(h, "base", labels={"k": "v"})
    for field, do, values in tries:
        for value in values:
            for ctx in (h.ctx("new"), base.copy()):
                ctx.data["x"] = Data(b"blob")
                before, store = snapshot(ctx), await contents(h)
                what = f"{field} {value!r:.80}"
                error = await raised(kind, do, ctx, value)
                check(getattr(error, "field", ""), field, f"field of {error!r:.200} for {what}")
                check(snapshot(ctx), before, f"context after {what}")
                check(await contents(h), store, f"contents of the store after {what}")
    check(await h.driver.get_data(checksum_of(Data(b"blob"))), None, "data in the store")


def changed(ctx: StateContext, **changes: Any) -> StateContext:
    """Return a copy with another working copy."""
    other = ctx.copy()
    other.current = replace(ctx.current, **changes)
    return other
