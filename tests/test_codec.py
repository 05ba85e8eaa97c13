"""The stored form: golden bytes, what a newer library wrote, and what is damaged."""

import json
import pickle
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from flowstate import (
    CodecError,
    Commit,
    DataRef,
    Engine,
    FlowRegistry,
    State,
    StateContext,
    Status,
    Transit,
    Transition,
)
from flowstate.codec import (
    DelayBody,
    decode_annotations,
    decode_context,
    decode_delay,
    decode_state,
    encode_annotations,
    encode_body,
    encode_context,
    encode_delay,
    encode_state,
)
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.ground.frozen import FrozenDict

AT = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
FULL = State(
    "order-1",
    rev=7,
    labels=FrozenDict({"kind": "order"}),
    annotations=FrozenDict({"note": "né"}),
    transition=Transition("charge", FrozenDict({"by": "me"}), "delay"),
    status=Status.PAUSED,
    committed_at=AT,
    data=FrozenDict({"blob": DataRef(2, "abc")}),
)
GOLDEN = (
    '{"v":1,"id":"order-1","rev":7,"labels":{"kind":"order"},"annotations":{"note":"né"},'
    '"transition":{"to":"charge","annotations":{"by":"me"},"cause":"delay"},"status":"paused",'
    '"committed_at":"2030-01-02T03:04:05.678901Z","data":{"blob":{"rev":2,"checksum":"abc"}}}'
).encode()
NEWER = (
    b'{"v":1,"id":"a","mood":[1,{"x":null}],"transition":{"to":"next","speed":9},'
    b'"data":{"blob":{"rev":1,"checksum":"abc","size":4}}}'
)
DECODERS = (decode_state, decode_delay, decode_annotations, lambda body: decode_context(text(body)))


def text(body: bytes) -> str:
    return body.decode(errors="replace")


def test_golden_bytes() -> None:
    assert encode_state(FULL) == GOLDEN
    assert decode_state(GOLDEN) == FULL
    assert encode_state(State("a")) == b'{"v":1,"id":"a"}'
    delay = DelayBody("next", FrozenDict({"x": "1"}), commit=False)
    golden = '{"v":1,"to":"next","annotations":{"x":"1"},"commit":false}'
    assert encode_delay(delay) == golden
    assert decode_delay(golden) == delay
    assert encode_annotations({"x": "1"}) == b'{"x":"1"}'
    assert decode_annotations(b'{"x":"1"}') == {"x": "1"}


def test_body_leaves_out_what_the_store_stamps() -> None:
    body = json.loads(encode_body(FULL))

    assert {*json.loads(GOLDEN)} - {*body} == {"rev", "committed_at"}
    assert encode_body(State("a", 7, delayed_until=AT)) == '{"v":1,"id":"a"}'


def test_stamps_what_the_store_keeps_apart_from_the_body() -> None:
    stamped = decode_state(GOLDEN, 9, AT, AT)

    assert (stamped.rev, stamped.committed_at, stamped.delayed_until) == (9, AT, AT)
    assert decode_state(GOLDEN, 9).committed_at is None


def test_context_round_trip() -> None:
    committed = State("a", 3)
    steps = (Transition("one"), Transition("two", FrozenDict({"x": "1"})))

    for known in (FULL, committed):
        body = encode_context(FULL, known, steps, with_commit=False)
        assert decode_context(body) == (FULL, known, steps, 0, False)


def test_context_that_is_about_to_be_committed_is_stored_as_it_will_be() -> None:
    body = encode_context(FULL, State("a"), (Transition("one"),), with_commit=True)

    assert decode_context(body) == (FULL, FULL, (), 0, True)


def nested(depth: int, name: str = "caller") -> State:
    """A state with a context in it, which has one in it, and so on."""
    state = State("frame-0", labels=FrozenDict({"quotes": '"\\'}))
    for number in range(1, depth):
        # The working copy differs from what is committed, and both have the context.
        moved = replace(state, transition=Transition("next"))
        text = encode_context(moved, state, (Transition("next"),), with_commit=False)
        annotations = FrozenDict({f"flowstate.stack.{name}": text, "own": "kept"})
        state = State(f"frame-{number}", annotations=annotations)
    return state


def size_of(state: State) -> int:
    return len(state.annotations["flowstate.stack.caller"])


def test_contexts_within_each_other_grow_linearly_and_come_out_whole() -> None:
    assert size_of(nested(100)) < 15 * size_of(nested(10))
    for depth in (2, 3, 20, 150, 200):
        state, steps = nested(depth), 0
        while "flowstate.stack.caller" in state.annotations:
            moved, state, taken, *_ = decode_context(state.annotations["flowstate.stack.caller"])
            assert moved == replace(state, transition=Transition("next"))
            steps += len(taken)
        assert (state, steps) == (nested(1), depth - 1)


def test_context_of_an_older_library_is_read() -> None:
    inner = '{"v":1,"current":{"v":1,"id":"inner"}}'
    state = {"v": 1, "id": "outer", "annotations": {"flowstate.stack.x": inner}}
    outer = json.dumps({"v": 1, "current": state, "transitions": [{"to": "a"}]})
    current, committed, steps, *_ = decode_context(outer)

    assert current == committed
    assert steps == (Transition("a"),)
    assert decode_context(current.annotations["flowstate.stack.x"])[0] == State("inner")


def test_what_only_looks_like_a_context_stays_text() -> None:
    odd = FrozenDict({"flowstate.stack.x": "{}", "flowstate.stack.y": "text"})
    state = State("a", annotations=odd)

    assert decode_context(encode_context(state, state, (), with_commit=False))[0] == state


def test_a_cause_of_a_newer_library_is_read() -> None:
    state = decode_state('{"v":1,"id":"a","transition":{"to":"b","cause":"later"}}')

    assert state.transition.cause == "later"


@pytest.mark.parametrize("version", [0, 2, 99, "1", None, "State", "os.system"])
def test_other_versions_are_refused(version: object) -> None:
    body = json.dumps({"v": version, "id": "a", "to": "next", "current": {}}).encode()

    for decode in (decode_state, decode_delay, lambda body: decode_context(text(body))):
        with pytest.raises(CodecError):
            decode(body)


def test_unknown_fields_are_kept() -> None:
    state = decode_state(NEWER)
    stored: dict[str, Any] = json.loads(encode_state(replace(state, rev=5)))

    assert set(state.unknown) == {"mood"}
    assert stored == {**json.loads(NEWER), "rev": 5}


async def test_unknown_fields_survive_a_new_commit(tmp_path: Any) -> None:
    flows = FlowRegistry()
    flows.declare("on")
    async with Engine(SQLiteDriver(tmp_path / "store.db"), flows) as engine:
        # Without data, which would have to be stored.
        body = NEWER.replace(b'"data":', b'"datum":')
        await engine.do(Commit(Transit(StateContext(decode_state(body)), "on")))
        ctx = StateContext(await engine.get_state("a"))
        await engine.do(Commit(Transit(ctx, "on")))
        stored = json.loads(encode_state(await engine.get_state("a")))

    assert stored["rev"] == 2
    assert stored["mood"] == [1, {"x": None}]
    assert stored["datum"] == json.loads(NEWER)["data"]


SECONDS = 0.2  # Of this process: a busy machine halts it for as long as it likes.
UNTIMED = settings(deadline=None)


@UNTIMED
@given(st.binary(max_size=200))
def test_random_bytes_raise_only_codec_errors(body: bytes) -> None:
    decode_or_refuse(body)


@UNTIMED
@given(st.data())
def test_damaged_bytes_raise_only_codec_errors(data: st.DataObject) -> None:
    context = encode_context(FULL, State("a"), (Transition("b"),), with_commit=False).encode()
    within = nested(3).annotations["flowstate.stack.caller"].encode()
    delay = encode_delay(DelayBody("next", FrozenDict({"x": "1"}))).encode()
    body = bytearray(data.draw(st.sampled_from([GOLDEN, NEWER, context, within, delay])))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        length = data.draw(st.integers(0, min(5, len(body) - place)))
        body[place : place + length] = data.draw(st.binary(max_size=5))
        body = body or bytearray(b"{")
    decode_or_refuse(bytes(body))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@UNTIMED
@given(st.sampled_from(sorted(json.loads(GOLDEN))), JSON)
def test_wrong_types_raise_only_codec_errors(field: str, value: object) -> None:
    decode_or_refuse(json.dumps({**json.loads(GOLDEN), field: value}).encode())


def decode_or_refuse(body: bytes) -> None:
    used = time.process_time()
    decode_all(body)
    assert time.process_time() - used < SECONDS


def decode_all(body: bytes) -> None:
    for decode in DECODERS:
        try:
            decoded = decode(body)
        except CodecError:
            continue
        if isinstance(decoded, State):
            assert decode_state(encode_state(decoded)) == decoded


@pytest.mark.parametrize(
    "body",
    [
        pickle.dumps({"v": 1, "id": "a"}),
        b"[" * 100_000,
        b'{"v":1,"id":"a","mood":' + b"[" * 100_000,
        b'{"v":1,"id":"a","committed_at":"10000-01-01T00:00:00Z"}',
        b'{"v":1,"id":"a","rev":1' + b"0" * 5_000 + b"}",
        '{"v":1,"id":"a"}'.encode("utf-16"),
        b"",
    ],
    ids=["pickle", "deep", "deep unknown", "date", "number", "UTF-16", "empty"],
)
def test_hostile_bytes_raise_codec_errors(body: bytes) -> None:
    for decode in DECODERS:
        with pytest.raises(CodecError):
            decode(body)


def test_no_class_of_this_library_is_named_in_what_is_stored() -> None:
    body = encode_context(FULL, State("a"), (Transition("b"),), with_commit=False)

    assert [name for name in ("flowstate", "State", "Transition", "DataRef") if name in body] == []
