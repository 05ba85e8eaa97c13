"""A place of one version of a document is found in another, or it is said why not."""

import pytest

from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.documents.migrating import Misfit, fits
from tests.engines.tasks.documents.loads import HEAD, loaded

OLD = """\
use:
  functions:
    f: {do: [{x: {wait: PT1S}}]}
do:
  - first: {wait: PT1S}
  - "a/b~c": {do: [{inner: {wait: PT1S}}, {other: {set: {a: 1}}}]}
  - loop: {for: {in: .x}, do: [{one: {wait: PT1S}}, {two: {wait: PT1S}}]}
  - fork: {fork: {branches: [{left: {wait: PT1S}}, {right: {do: [{deep: {wait: PT1S}}]}}]}}
  - try: {try: [{risky: {wait: PT1S}}], catch: {do: [{rescue: {wait: PT1S}}]}}
  - listen: {listen: {to: {any: []}}, foreach: {do: [{each: {wait: PT1S}}]}}
"""
NEW = """\
use:
  functions:
    f: {do: [{w: {wait: PT1S}}, {x: {wait: PT1S}}]}
do:
  - listen: {listen: {to: {any: []}}, foreach: {do: [{each: {wait: PT2S}}]}}
  - zeroth: {wait: PT1S}
  - first: {wait: PT9S}
  - "a/b~c": {do: [{other: {wait: PT1S}}, {inner: {wait: PT1S}}]}
  - loop: {for: {in: .x}, do: [{two: {wait: PT1S}}]}
  - fork: {fork: {branches: [{right: {do: [{deep: {wait: PT1S}}]}}]}}
  - try: {try: [{risky: {wait: PT1S}}], catch: {retry: {delay: PT1S}}}
"""

PLACES = {
    "": "",
    "/do": "/do",
    "/do/0/first": "/do/2/first",
    "/do/1/a~1b~0c": "/do/3/a~1b~0c",
    "/do/1/a~1b~0c/do/0/inner": "/do/3/a~1b~0c/do/1/inner",
    "/do/1/a~1b~0c/do/1/other": Misfit("/do/3/a~1b~0c/do/0/other is wait, and was set"),
    "/do/2/loop/do": "/do/4/loop/do",
    "/do/2/loop/do/0/one": Misfit("there is no 'one' in /do/4/loop/do"),
    "/do/2/loop/do/1/two": "/do/4/loop/do/0/two",
    "/do/3/fork/fork/branches/0/left": Misfit("there is no 'left' in /do/5/fork/fork/branches"),
    "/do/3/fork/fork/branches/1/right/do/0/deep": "/do/5/fork/fork/branches/0/right/do/0/deep",
    "/do/4/try/try/0/risky": "/do/6/try/try/0/risky",
    "/do/4/try/catch/do/0/rescue": Misfit("there is no /do/6/try/catch/do"),
    "/do/5/listen/foreach/do/0/each": "/do/0/listen/foreach/do/0/each",
    "/use/functions/f/do/0/x": "/use/functions/f/do/1/x",
    "/do/9/none": Misfit("/do/9/none is no place of a/b:1.0.0"),
    "/do/0": Misfit("/do/0 is no place of a/b:1.0.0"),
    "/do/x/first": Misfit("/do/x/first is no place of a/b:1.0.0"),
    "/do/0/first/wait/a": Misfit("/do/0/first/wait/a is no place of a/b:1.0.0"),
}


@pytest.mark.parametrize(("place", "expected"), PLACES.items())
async def test_a_place_is_found_by_names(place: str, expected: str | Misfit) -> None:
    assert fits(await made(OLD), await made(NEW), place) == expected


@pytest.mark.parametrize("place", [each for each, to in PLACES.items() if isinstance(to, str)])
async def test_a_place_is_where_it_was_in_the_same_document(place: str) -> None:
    assert fits(await made(OLD), await made(OLD), place) == place


async def test_a_place_of_a_machine_is_found_by_its_state() -> None:
    text = """\
kind: machine
document: {namespace: a, name: b, version: 1.0.0}
start: one
final: [end]
states:
  one: {transitions: [{to: two, when: {wait: PT1S}}]}
  two: {do: [{a: {set: {x: 1}}}], transitions: [{to: end, when: {wait: PT1S}}]}
  end: {}
"""
    old = await loaded(text)
    more = "  new: {transitions: [{to: two}]}\n  two: {do: [{b: {set: {x: 1}}}, "
    new = await loaded(
        text.replace("  two: {do: [", more)
        .replace("to: two, when", "to: new, when")
        .replace("1.0.0", "2.0.0")
    )
    place = "/do/2/two/do/1/next.race/fork/branches/0/end/do/0/until"
    assert fits(old, new, place) == place.replace("/do/2/", "/do/4/").replace("do/1", "do/2")
    gone = fits(old, new, "/do/0/one/do/0/next.race/fork/branches/0/two")
    assert gone == Misfit("there is no 'two' in /do/0/one/do/0/next.race/fork/branches")


async def made(text: str) -> Document:
    return await loaded(HEAD + text)
