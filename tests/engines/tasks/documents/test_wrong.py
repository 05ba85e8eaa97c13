"""Each wrong document of a table is refused with exactly these lines, pointers and texts.

In ``wrong.txt``, a case has a name, a document (its first line is left out if it is ``HEAD``), and
its problems; ``...`` is what jq says, whose words change from version to version.
"""

import re

import pytest

from tests.engines.tasks.documents.loads import HEAD, HERE, problems

TABLE = HERE / "wrong.txt"


def cases() -> list[tuple[str, str, list[str]]]:
    found = []
    for part in TABLE.read_text().split("=== ")[1:]:
        name, _, rest = part.partition("\n")
        text, _, expected = rest.partition("--- problems\n")
        found.append((name, text, expected.splitlines()))
    return found


def whole(text: str) -> str:
    return text.removeprefix("whole\n") if text.startswith("whole\n") else HEAD + text


@pytest.mark.parametrize(("name", "text", "expected"), cases(), ids=[each[0] for each in cases()])
async def test_a_wrong_document_is_refused(name: str, text: str, expected: list[str]) -> None:
    assert expected, name
    found = await problems(whole(text))
    assert len(found) == len(expected), found
    for each, one in zip(found, expected, strict=True):
        pattern = ".+".join(map(re.escape, one.split("...")))
        assert re.fullmatch(pattern, each), f"{each}\n{one}"


def test_there_are_many_of_them() -> None:
    assert len({name for name, _, _ in cases()}) == len(cases()) > 150
