"""Values of any kind in any field: refused by a clear error, or read back equal."""

import asyncio
import enum
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Raw
from msgspec.structs import replace

from flowstate.commands import Commit, Delay, Pause, Retry, Stack, StoreData, Transit
from flowstate.context import StateContext
from flowstate.data import Data, DataRef
from flowstate.errors import FlowstateError, InvalidInputError
from flowstate.state import State, Timer, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, know

__all__ = ["CASES"]


SOME_TIME = datetime(2030, 1, 1, tzinfo=UTC)


class SafeText(str):
    """Text of another type, such as templates have it."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"<{super().__str__()}>"


class Kind(enum.StrEnum):
    """Text with a name."""

    ORDER = "order"


class Color(str, enum.Enum):  # noqa: UP042 - of the older kind, whose str() is its name
    """Text whose ``str()`` is something else."""

    RED = "red"


class Unequal:
    """Cannot be compared, hashed, or told."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


class Broken(Mapping[str, str]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> str:
        raise ZeroDivisionError

    def __iter__(self) -> Iterator[str]:
        raise ZeroDivisionError

    def __len__(self) -> int:
        return 1


TEXTS = (SafeText("text"), Kind.ORDER, Color.RED)
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    2**70,
    b"bytes",
    bytearray(b"x"),
    "text",
    "",
    "\0",
    "\ud800",
    *TEXTS,
    (),
    ("a", "b"),
    [],
    {"a": 1},
    {"a": {"b": "c"}},
    {1: "a"},
    {SafeText("k"): SafeText("v")},
    {Kind.ORDER: Color.RED},
    {"a": b"1"},
    {"id": b'"evil"'},
    {"v": b"2"},
    {"x": b"not json"},
    {"x": b"[1, 2]"},
    {"x": b"1, 2"},
    {"a": DataRef(1, "0" * 64)},
    {"a": DataRef(2**70, "")},
    {"a": DataRef(1, "x", {"rev": b"7"})},
    {"a": "text"},
    {"a": Raw(b"[1]")},
    {"a": Raw(b'"\\u0000"')},
    {"a": Raw(b"1, 2")},
    {"": Raw(b"1")},
    {"a": Timer("work")},
    {"a": Timer("work", SOME_TIME)},
    {"a": Timer("work", SOME_TIME, timedelta(1))},
    {"a": Timer("\0", SOME_TIME)},
    {"a": Timer(2, "never", -1)},  # type: ignore[arg-type]
    object(),
    object,
    Unequal(),
    Broken(),
    Transition("work", cause="bogus"),
    Transition("work", unknown={"to": b'"other"'}),
    Transition(2),  # type: ignore[arg-type]
    timedelta(1),
    lambda: None,
)
FIELDS = ("labels", "annotations", "transition", "status", "data", "unknown", "values", "timers")


def _states() -> Iterator[tuple[str, State]]:
    """Return states with one odd field each, and what is odd about them."""
    plain = State("odd", transition=Transition("work"))
    for number, value in enumerate(ODD):
        for field in FIELDS:
            yield f"{field} = value {number}", replace(plain, **{field: value})
        for field in Transition.__struct_fields__:
            odd = replace(plain.transition, **{field: value})
            yield f"transition.{field} = value {number}", replace(plain, transition=odd)
        for field in DataRef.__struct_fields__:
            ref = replace(DataRef(1, "0" * 64), **{field: value})
            yield f"data['d'].{field} = value {number}", replace(plain, data={"d": ref})


@case()
async def any_value_in_any_field(h: Harness) -> None:
    """G12, G14: an odd value is refused, or read back equal; commits next to it are stored."""
    know(h, "work")
    for number, (what, state) in enumerate(_states()):
        own = replace(state, id=f"odd-{number}")
        error, neighbour = await asyncio.gather(
            _told(h, own), _told(h, State(f"good-{number}", transition=Transition("work")))
        )
        check(neighbour, None, f"what the neighbour of {what} was told")
        found = await h.driver.get_state(own.id)
        check(found is None, error is not None, f"whether {what} was refused")
        if found is not None:
            _check_same(what, own, found)
    page = await h.engine.get_states(limit=1_000)
    while True:
        check(list(page.damaged), [], "revisions that cannot be read")
        if not page.more:
            break
        page = await h.engine.do(page.next)


async def _told(h: Harness, state: State) -> FlowstateError | None:
    """Commit a state as it is; return why it was refused."""
    try:
        await h.engine.do(Commit(Retry(StateContext(state))))
    except FlowstateError as error:
        check(bool(str(error)), True, "whether it says something")
        return error
    return None


def _check_same(what: str, given: State, stored: State) -> None:
    pairs = [(given.labels, stored.labels), (given.annotations, stored.annotations)]
    pairs += [(given.unknown, stored.unknown), (given.data, stored.data)]  # type: ignore[list-item]
    pairs += [(given.values, stored.values), (given.timers, stored.timers)]  # type: ignore[list-item]
    step, kept = given.transition, stored.transition
    pairs += [(step.annotations, kept.annotations), (step.unknown, kept.unknown)]  # type: ignore[list-item]
    for before, after in pairs:
        check(dict(after), dict(before), f"mapping after {what}")
    check((kept.to, kept.cause), (step.to, step.cause), f"transition after {what}")
    texts = [stored.id, kept.to, kept.cause]
    for mapping in (stored.labels, stored.annotations, kept.annotations):
        texts += [text for pair in mapping.items() for text in pair]
    check({type(text) for text in texts}, {str}, f"types of texts after {what}")


@case()
async def text_of_other_types(h: Harness) -> None:
    """G14: text of a subclass of ``str`` is stored as exact ``str``, everywhere, or refused."""
    know(h, "work", "text", "order", "red")
    watched = h.engine.watch(labels={"kind": "order"})
    async with watched as states:
        for number, text in enumerate(TEXTS):
            plain = str.__str__(text)
            ctx = h.ctx(SafeText(f"s-{number}"), labels={SafeText("kind"): text})
            ctx.set_annotation(SafeText("note"), text)
            ctx.data[SafeText("alias")] = Data(b"blob", {"of": text})
            stacked = h.ctx(SafeText("stacked"), labels={"kind": text})
            await h.engine.do(
                Commit(
                    Transit(ctx, text, {SafeText("step"): text}),
                    StoreData(ctx, SafeText("alias")),
                    Stack(ctx, stacked, SafeText("slot")),
                    Pause(h.ctx(f"plain-{number}")),
                )
            )
            found = await h.engine.get_state(f"s-{number}")
            check(found.transition.to, plain, "flow")
            check(
                (found.labels, found.transition.annotations),
                ({"kind": plain}, {"step": plain}),
                "labels and annotations",
            )
            check(ctx.current == found == ctx.committed, True, "what the context knows")
            for mapping in (found.labels, ctx.current.labels, ctx.committed.annotations):
                types = {type(text) for pair in mapping.items() for text in pair}
                check(types, {str}, "types")
            check(
                (await h.engine.get_data(StateContext(found), "alias")).annotations,
                {"of": plain},
                "data",
            )
            page = await h.engine.get_states(labels={"kind": text}, latest_only=True)
            check([s.id for s in page.states], [f"s-{number}"], f"found by {plain}")
        check((await anext(states)).id, "s-1", "what a watch delivers")
    delayed = h.ctx(SafeText("delayed"))
    await h.engine.do(
        Commit(Delay(delayed, Kind.ORDER, after=timedelta(days=1), annotations={"k": Color.RED}))
    )
    (delay,) = (await h.engine.get_delayed_states()).delayed
    check((delay.to, delay.annotations, type(delay.to)), ("order", {"k": "red"}, str), "a delay")


@case()
async def slips_name_their_field(h: Harness) -> None:
    """G14: a cause, unknown field or reference that no reader takes is refused, and named."""
    know(h, "work")
    ctx = await committed(h, "good")
    ctx.data["d"] = Data(b"x")
    await h.engine.do(Commit(StoreData(ctx, "d")))
    ref = ctx.current.data["d"]
    slips: list[tuple[str, dict[str, Any]]] = [
        ("cause", {"transition": Transition("work", cause="start")}),
        ("unknown", {"unknown": {"extra": b"text"}}),
        ("unknown", {"unknown": {"id": b'"evil"'}}),
        ("unknown", {"transition": Transition("work", unknown={"x": b"{"})}),
        ("data", {"data": {"d": replace(ref, rev="1")}}),
        ("data", {"data": {"d": replace(ref, rev=1.5)}}),
        ("data", {"data": {"d": replace(ref, rev=2**70)}}),
        ("data", {"data": {"d": replace(ref, checksum=7)}}),
    ]
    for field, fields in slips:
        state = State("slip", **{"transition": Transition("work"), **fields})
        error = await _told(h, state)
        assert isinstance(error, InvalidInputError), f"{fields}: {error!r}"
        check(field in error.field, True, f"field {error.field!r} for {fields}")
    check(await h.engine.head(), 2, "head")
    kept = State("kept", unknown={"extra": b'{"a": [1, 2]}'}, transition=Transition("work"))
    check(await _told(h, kept), None, "an unknown field that can be read")
    check((await h.engine.get_state("kept")).unknown, {"extra": b'{"a": [1, 2]}'}, "what it is")


CASES: tuple[Case, ...] = (any_value_in_any_field, text_of_other_types, slips_name_their_field)
