"""Typed values: kept with their state by the next commit, and read back as what they were."""

import dataclasses
import enum
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import attrs
import msgspec
from msgspec.structs import replace

from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    Forget,
    GetState,
    Put,
    Retry,
    Stack,
    Transit,
    Unstack,
)
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.errors import (
    InvalidInputError,
    RevisionMismatchError,
    ValueDecodeError,
    ValueNotFoundError,
)
from flowstate.ground.limits import MAX_VALUES_BYTES
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, know, raised, snapshot

__all__ = ["CASES"]

SOON = timedelta(milliseconds=50)


class Kind(enum.Enum):
    """A kind of order."""

    GIFT = "gift"


class Item(msgspec.Struct, frozen=True):
    """Part of an order, of msgspec."""

    name: str
    price: Decimal
    at: datetime


@dataclasses.dataclass
class Order:
    """A dataclass with parts of other kinds."""

    id: uuid.UUID
    items: list[Item]
    kind: Kind = Kind.GIFT
    notes: dict[str, str] = dataclasses.field(default_factory=dict)


@attrs.define
class Address:
    """A class of attrs, with a validator."""

    street: str
    number: int = attrs.field(validator=attrs.validators.gt(0))


class Text(str):
    """Text of another type, such as templates have it."""

    __slots__ = ()


ITEM = Item("ü \\u0000 \U0001f600", Decimal("19.90"), datetime(2030, 1, 2, 3, 4, 5, 6, UTC))
ORDER = Order(uuid.UUID(int=7), [ITEM, ITEM], notes={"why": "because"})
KEPT: dict[str, tuple[Any, Any]] = {
    "struct": (Item, ITEM),
    "dataclass": (Order, ORDER),
    "attrs": (Address, Address("Main Street", 1)),
    "list of structs": (list[Item], [ITEM]),
    "set": (set[int], {1, 2, 3}),
    "bytes": (bytes, b"\0\xff"),
    "int beyond 64 bits": (int, 2**200),
    "float": (float, 0.1 + 0.2),
    "None": (type(None), None),
    "bool": (bool, False),
    "empty text": (str, ""),
    "time": (timedelta, timedelta(days=1, microseconds=1)),
    "enum": (Kind, Kind.GIFT),
    "tuple": (tuple[int, str], (1, "a")),
    "optional": (int | None, None),
    "any": (Any, {"a": [1, None, "x"]}),
}


@case()
async def values_are_read_back(h: Harness) -> None:
    """G7: a value of any type that JSON can hold is read back equal, from any later revision."""
    know(h, "work")
    ctx = h.ctx("job")
    for name, (_, value) in KEPT.items():
        ctx.put(value, name)
    await h.engine.do(Commit(Transit(ctx, "work")))
    await h.engine.do(Commit(Transit(ctx, "work")))
    state = await h.engine.get_state("job")
    for source in (ctx, state, StateContext(state), await h.engine.do(GetState("job", 1))):
        for name, (kind, value) in KEPT.items():
            found = source.get(kind, name)
            check((type(found), found), (type(value), value), f"the {name}")
    check(state.values.keys(), KEPT.keys(), "names")


@case()
async def values_ride_with_commits(h: Harness) -> None:
    """G1, G3: a value belongs to the working copy until a commit; a refused one stores nothing."""
    know(h, "work")
    ctx = await committed(h, "job")
    rival = StateContext(await h.engine.get_state("job"))
    ctx.put(1)
    check((ctx.get(int), ctx.committed.get(int, default=0)), (1, 0), "before the commit")
    await h.engine.do(Commit(Put(ctx)))
    check((await h.engine.get_state("job")).get(int), 1, "after a commit without a step")
    check(ctx.current.transition.to, "work", "flow")
    rival.put(2)
    before = snapshot(rival)
    await raised(RevisionMismatchError, h.engine.do, Commit(Put(rival)))
    check(snapshot(rival), before, "a context whose commit was refused")
    for command in (Retry(ctx), Transit(ctx, "work"), End(ctx)):
        ctx.put(ctx.get(int) + 1)
        await h.engine.do(Commit(command))
    ctx.put("other", "second")
    await h.engine.do(Commit(Put(ctx)))
    ctx.remove()
    ctx.remove("was never there")
    check(ctx.committed.get(int), 4, "what is committed")
    await h.engine.do(Commit(Put(ctx)))
    state = await h.engine.get_state("job")
    check((state.get(int, default=None), [*state.values]), (None, ["second"]), "what is left")
    check(state.status, Status.ENDED, "status")


@case()
async def values_that_did_not_change(h: Harness) -> None:
    """G3: putting an equal value changes nothing, so there is nothing to be stored."""
    ctx = await committed(h, "job")
    ctx.put({"a": 1})
    await h.engine.do(Commit(Put(ctx)))
    head, before = await h.engine.head(), ctx.current
    ctx.put({"a": 1})
    check(ctx.current is before, True, "whether the working copy is the same")
    await h.engine.do(Commit(Put(ctx)))
    check(await h.engine.head(), head, "head")


@case()
async def values_that_are_not_there(h: Harness) -> None:
    """G14: a missing value is a clear error, unless there is a default."""
    ctx = await committed(h, "job")
    error = await raised(ValueNotFoundError, ctx.get, int, "count")
    check((error.id, error.rev, error.name), ("job", 1, "count"), "what it names")
    check(ctx.get(int, "count", default=None), None, "the default")
    check(ctx.get(int, "count", 5), 5, "the default")
    new = await raised(ValueNotFoundError, h.ctx("new").get, int)
    check((new.id, new.rev, new.name), ("new", 0, "value"), "what it names")


class Old(msgspec.Struct):
    """Of the first version of a program."""

    items: list[dict[str, Any]]


class New(msgspec.Struct, forbid_unknown_fields=True):
    """Of its second version, which reads that of the first."""

    lines: list[Item]

    @classmethod
    def __flowstate_upgrade__(cls, old: Any) -> Any:
        """Return what the first version has stored as this one stores it."""
        return {"lines": old["items"]}


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    """Of a third one, which does not."""

    lines: list[Item]


@case()
async def values_of_older_programs(h: Harness) -> None:
    """G15: a value that no longer decodes is upgraded by its type, or named with its place."""
    ctx = h.ctx("job")
    know(h, "work")
    stored = {"name": "a", "price": "1.5", "at": "2030-01-01T00:00:00Z"}
    ctx.put(Old([stored]))
    ctx.put(Old([stored, {**stored, "price": True}]), "bad")
    await h.engine.do(Commit(Transit(ctx, "work")))
    state = await h.engine.get_state("job")
    found = state.get(New)
    check(found.lines[0].price, Decimal("1.5"), "what was upgraded")
    check(state.get(New), found, "read once more")
    error = await raised(ValueDecodeError, state.get, New, "bad")
    expected = ("job", 1, "bad", "$.lines[1].price")
    check((error.id, error.rev, error.name, error.path), expected, "what it names")
    error = await raised(ValueDecodeError, state.get, Strict)
    check(error.path, "$", "where a field is unknown")
    error = await raised(ValueDecodeError, state.get, int)
    check((error.path, "'value' of 'job' at revision 1" in str(error)), ("$", True), "place, text")
    ctx.put({"street": "Main Street", "number": 0}, "address")
    error = await raised(ValueDecodeError, ctx.get, Address, "address")
    check(error.name, "address", "what a validator refuses")
    refused = await raised(InvalidInputError, ctx.get, dict[int | bytes, str | bytes], "value")
    check(refused.field, "kind", "what nothing decodes as")


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@dataclasses.dataclass
class Raising:
    """Raises where its fields are read."""

    field: int = 1

    def __getattribute__(self, name: str) -> Any:
        raise ZeroDivisionError


class Measured(msgspec.Struct):
    """Has a number that may be missing."""

    number: float | None = None


REFUSED: dict[str, Any] = {
    "NaN": float("nan"),
    "infinite": [1.0, {"a": float("-inf")}],
    "NaN next to null": [None, float("nan")],
    "NaN in a struct": {"some": [Measured(float("nan"))]},
    "NUL": "a\0b",
    "NUL in a key": {"\0": 1},
    "lone surrogate": "\ud800",
    "complex": 1j,
    "object": object(),
    "function": len,
    "key": {(1, 2): 3},
    "circle": _circle(),
    "deep": _deep(50_000),
    "raising": Raising(),
    "raw that is no JSON": msgspec.Raw(b"1, 2"),
    "large": "x" * MAX_VALUES_BYTES,
}


@case()
async def values_that_are_refused(h: Harness) -> None:
    """G14: what cannot be kept as JSON is refused when it is put, and names the value."""
    ctx = await committed(h, "job")
    ctx.put("kept")
    for what, value in REFUSED.items():
        before = snapshot(ctx)
        error = await raised(InvalidInputError, ctx.put, value, "odd")
        check(error.field, "values['odd']", f"the field, of {what}")
        check(snapshot(ctx), before, f"the context after {what}")
    for name in ("", "\0", "x" * 513, None):
        error = await raised(InvalidInputError, ctx.put, 1, name)
        check(error.field, "name", f"the field, of {name!r:.20}")
    half = "x" * (MAX_VALUES_BYTES // 2)
    ctx.put(half, "first")
    error = await raised(InvalidInputError, ctx.put, half, "second")
    check(error.field, "values['second']", "the field, of both together")
    ctx.put({Text("k"): [Text("v")]}, "text")
    await h.engine.do(Commit(Put(ctx)))
    state = await h.engine.get_state("job")
    check(state.get(dict[str, list[str]], "text"), {"k": ["v"]}, "subclasses of str")
    ctx.current = replace(ctx.current, values={"a": b"1"})
    error = await raised(InvalidInputError, h.engine.do, Commit(Put(ctx)))
    check(error.field, "state.values['a']", "the field, of what is no Raw")


@case()
async def values_go_where_the_state_goes(h: Harness) -> None:
    """G1: forks, stacked contexts and delays by themselves have the values; Forget drops them."""
    seen: list[int] = []

    @h.flows.flow("late")
    def late(ctx: StateContext, engine: Engine) -> Command[None]:
        seen.append(ctx.get(int))
        return Commit(End(ctx))

    ctx, carrier = await committed(h, "job"), await committed(h, "carrier")
    ctx.put(7)
    check(ctx.fork("child").get(int), 7, "the value of a fork")
    check(ctx.copy().get(int), 7, "the value of a copy")
    await h.engine.do(Commit(Stack(carrier, ctx, "it")))
    back = StateContext(State("job"))
    await h.engine.do(Unstack(carrier, back, "it"))
    check(back.get(int), 7, "the value of what was stacked")
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        await h.engine.do(Delay(back, "late", after=SOON))
        state = await anext(ended)
    check((seen, state.get(int)), ([7], 7), "the value of what was delayed")
    last = StateContext(state)
    await h.engine.do(Commit(Forget(last)))
    check(last.committed.values, {}, "values of what is forgotten")


CASES: tuple[Case, ...] = (
    values_are_read_back,
    values_ride_with_commits,
    values_that_did_not_change,
    values_that_are_not_there,
    values_of_older_programs,
    values_that_are_refused,
    values_go_where_the_state_goes,
)
