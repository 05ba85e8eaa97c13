"""YAML is read as YAML 1.2 has it, with the lines of all values, within bounds."""

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flowstate.engines.tasks.documents import reading
from flowstate.engines.tasks.documents.reading import read

PLAIN = {
    "yes": "yes",
    "on": "on",
    "Off": "Off",
    "true": True,
    "True": True,
    "FALSE": False,
    "null": None,
    "~": None,
    "": None,
    "12": 12,
    "-12": -12,
    "+12": 12,
    "012": 12,
    "0o14": 12,
    "0xfF": 255,
    "1_000": "1_000",
    "12:30:45": "12:30:45",
    "2026-12-01": "2026-12-01",
    "1.0": 1.0,
    ".5": 0.5,
    "-1e-3": -0.001,
    "5.": 5.0,
    "1.0.3": "1.0.3",
    "18446744073709551615": 18446744073709551615,
    "-9223372036854775808": -9223372036854775808,
    "=": "=",
    "'12'": "12",
    '"true"': "true",
}


@pytest.mark.parametrize("loader", ["fast", "plain"])
@pytest.mark.parametrize(("text", "value"), PLAIN.items())
def test_a_scalar_is_what_yaml_1_2_says(
    text: str, value: Any, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loader == "plain":
        monkeypatch.setattr(reading, "Loader", yaml.SafeLoader)
    source = read(f"a: {text}\n")
    assert source.problems == []
    assert source.value == {"a": value}
    assert type(source.value["a"]) is type(value)


@pytest.mark.parametrize(
    "text", [".inf", "-.INF", ".nan", "1e999", "99999999999999999999", "-9e999"]
)
def test_a_number_that_json_does_not_have_is_refused(text: str) -> None:
    (problem,) = read(f"a: 1\nb: {text}\n").problems
    assert (problem.line, problem.path) == (2, "/b")
    assert "is no number of JSON" in problem.text


def test_keys_are_texts_as_they_stand() -> None:
    assert read("on: 1\n404: 2\ntrue: 3\n1.0: 4\nnull: 5\n").value == {
        "on": 1,
        "404": 2,
        "true": 3,
        "1.0": 4,
        "null": 5,
    }


LINES = """\
# a comment
a: 1
b:
  - x: [1,
        2]
    y~/z: |
      several
      lines
  -
    - deep
c: &c {d: e}

f: *c
"""


def test_each_value_has_the_line_of_its_key_or_of_itself() -> None:
    assert dict(read(LINES).lines) == {
        "": 2,
        "/a": 2,
        "/b": 3,
        "/b/0": 4,
        "/b/0/x": 4,
        "/b/0/x/0": 4,
        "/b/0/x/1": 5,
        "/b/0/y~0~1z": 6,
        "/b/1": 10,
        "/b/1/0": 10,
        "/c": 11,
        "/c/d": 11,
        "/f": 13,
        "/f/d": 11,
    }


def test_all_that_is_wrong_is_said_at_once() -> None:
    source = read("a: 1\na: !!int 2\nb: {<<: x, c: .inf}\nd: [\n")
    assert [(each.line, each.path) for each in source.problems] == [
        (2, "/a"),
        (2, "/a"),
        (3, "/b/<<"),
        (3, "/b/c"),
        (5, "/d"),
    ]


def test_an_alias_is_a_value_of_its_own() -> None:
    value = read("a: &a {x: [1]}\nb: *a\nc: [*a, *a]\n").value
    assert value == {"a": {"x": [1]}, "b": {"x": [1]}, "c": [{"x": [1]}, {"x": [1]}]}
    assert value["a"] is not value["b"]


def test_an_anchor_can_stand_anew() -> None:
    assert read("a: &a 1\nb: *a\nc: &a 2\nd: *a\n").value == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_an_anchor_on_a_key_names_the_key() -> None:
    assert read("&a key: 1\nb: *a\n*a : 2\n").problems[0].text == "the key 'key' stands here twice"
    assert read("&a key: 1\nb: *a\n").value == {"key": 1, "b": "key"}


KEYS = st.text(max_size=80)  # YAML takes a key of a line up to 1,024 characters, escapes included.
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.floats(0.1, 9e15),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


@given(st.dictionaries(KEYS, JSON) | st.lists(JSON))
@settings(max_examples=12, deadline=None)
def test_json_is_read_as_such(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent="\t")):
        source = read(text)
        assert source.problems == []
        assert source.value == value


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,? \n\t\\<=~0.", max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    source = read(text)
    json.dumps(source.value, allow_nan=False)
    assert source.problems or source.lines


BOMBS = {
    "laughs": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(20)),
    "laughs of texts": f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 150_000)}]\n",
    "depth": "[" * 500_000,
    "depth of aliases": "a0: &a0 [x]\n"
    + "".join(f"a{n + 1}: &a{n + 1} [[[*a{n}]]]\n" for n in range(200)),
    "depth of blocks": "".join(f"{' ' * n}a:\n" for n in range(1_000)),
    "a long key": "? " + "a" * 1_000_000,
    "quotes": "'" * 1_000_000,
    "a long number": "a: " + "9" * 1_000_000,
    "many values": "[" + "1," * 400_000 + "]",
    "many keys": "\n".join(f"k{n}:" for n in range(130_000)),
    "too long": "# " + "x" * 1_100_000,
    "many documents": "---\n" * 200_000,
    "many anchors": "\n".join(f"- &a{n} x" for n in range(70_000)) + "\n- *a0",
    "tags": "!a " * 300_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_does_no_harm(bomb: str) -> None:
    start = time.process_time()
    source = read(BOMBS[bomb])
    assert time.process_time() - start < 5
    assert len(source.lines) <= 100_001
    assert source.problems or bomb in {"quotes", "many anchors", "a long key"}


@pytest.mark.parametrize(
    "text", ["\ud800", '"\\ud800"', "a\x00b", "\x85\x1b", "﻿a: 1", '{"a": "\\ud83d"}']
)
def test_a_text_that_is_no_unicode_is_refused(text: str) -> None:
    for loader in (reading.Loader, yaml.SafeLoader):
        source = _read_by(loader, text)
        assert source.problems or source.value == {"a": 1}


def _read_by(loader: Any, text: str) -> reading.Source:
    before, reading.Loader = reading.Loader, loader
    try:
        return read(text)
    finally:
        reading.Loader = before
