"""Frozen mappings refuse every change, and are dicts in every other way; values keep secrets."""

import copy
import pickle
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from flowstate import (
    Commit,
    Data,
    Delay,
    DelayedState,
    GetStates,
    InvalidInputError,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.driver import Heartbeat, Writes
from flowstate.ground.frozen import EMPTY, FrozenDict, exact, freeze

PRIVATE = "private text"
CTX = StateContext(State("a", labels={"key": PRIVATE}, annotations={"key": PRIVATE}))
CHANGES: dict[str, Callable[[Any], object]] = {
    "set": lambda m: m.__setitem__("b", 2),
    "delete": lambda m: m.__delitem__("a"),
    "or": lambda m: m.__ior__({"b": 2}),
    "clear": lambda m: m.clear(),
    "pop": lambda m: m.pop("a"),
    "pop with a default": lambda m: m.pop("z", None),
    "popitem": lambda m: m.popitem(),
    "setdefault": lambda m: m.setdefault("b", 2),
    "update": lambda m: m.update(b=2),
    "attribute": lambda m: setattr(m, "b", 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_refuses_every_change(change: str) -> None:
    mapping = FrozenDict({"a": 1})

    with pytest.raises((TypeError, AttributeError)):
        CHANGES[change](mapping)
    assert mapping == {"a": 1}


def test_is_compared_and_hashed_by_content() -> None:
    one, other = FrozenDict({"a": 1, "b": 2}), FrozenDict({"b": 2, "a": 1})

    assert one == other == {"a": 1, "b": 2}
    assert {one: "found"}[other] == "found"
    assert hash(one) != hash(FrozenDict({"a": 1}))


def test_merging_makes_a_plain_dict() -> None:
    merged = FrozenDict({"a": 1}) | {"b": 2}

    assert merged == {"a": 1, "b": 2}
    assert type(merged) is dict


def by_pickle(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - it was made here


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, by_pickle])
def test_copies_are_equal_and_frozen(twin: Callable[[Any], Any]) -> None:
    mapping = FrozenDict({"a": 1})

    assert type(twin(mapping)) is FrozenDict
    assert twin(mapping) == mapping


def test_freeze_copies_once_and_shares_the_empty_one() -> None:
    given = {"a": 1}
    made = freeze("field", given)
    given["b"] = 2

    assert made == {"a": 1}
    assert freeze("field", {}) is EMPTY


@pytest.mark.parametrize("value", [None, 1, "text", ["a"], {"a"}])
def test_freeze_names_the_field_of_what_is_no_mapping(value: Mapping[Any, Any]) -> None:
    with pytest.raises(InvalidInputError, match=r"^labels: must be a mapping"):
        freeze("labels", value)


class Odd(str):
    """Text none of whose methods can be trusted."""

    __slots__ = ()

    def __str__(self) -> str:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def test_text_of_subclasses_becomes_exact() -> None:
    made = freeze("labels", {Odd("a"): Odd("b"), "c": 1})

    assert made == {"a": "b", "c": 1}
    assert {type(each) for each in (*made, made["a"], exact(Odd("x")))} == {str}


def test_two_keys_that_become_one_are_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"^labels: has two keys"):
        freeze("labels", {Odd("a"): "b", "a": "c"})


class Unreadable(dict[str, str]):
    def keys(self) -> Any:
        raise ZeroDivisionError

    __iter__ = keys


def test_a_mapping_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"^labels: cannot be read"):
        freeze("labels", Unreadable(a="b"))


@pytest.mark.parametrize(
    "value",
    [
        CTX,
        CTX.current,
        Commit(Transit(CTX, "flow", {"key": PRIVATE})),
        Delay(CTX, "flow", annotations={"key": PRIVATE}),
        GetStates(labels=[{"key": PRIVATE}]),
        Data(PRIVATE.encode(), {"key": PRIVATE}),
        DelayedState("d", CTX.current, "flow", FrozenDict(key=PRIVATE), datetime.now(UTC), True),
        Writes("token", (CTX.current,), (PRIVATE,)),
        Heartbeat("a", 1, 5.0, PRIVATE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_shown_of_values_has_no_secrets(value: object) -> None:
    shown = repr(value)

    assert PRIVATE not in shown
    assert any(part in shown for part in ("'a'", "'key'", "'token'"))


def test_what_is_shown_of_a_state_is_what_it_does_not_share_with_all() -> None:
    state = State("a", 7, status=Status.PAUSED)

    assert repr(state) == "State(id='a', rev=7, status=<Status.PAUSED: 'paused'>)"
    assert repr(Data(b"abc")) == "Data(blob=<3 bytes>)"
