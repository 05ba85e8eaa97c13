"""The reference of documents is what the schemas say."""

import re

import pytest

from tests.engines.tasks.documents.reference import DEFS, MACHINE, PAGE, WORKFLOW, reference

pytestmark = pytest.mark.repository


def test_the_page_is_up_to_date() -> None:
    """If this fails, run ``python -m tests.engines.tasks.documents.reference``."""
    assert PAGE.read_text() == reference()


def test_all_that_is_defined_is_on_it_and_explained() -> None:
    page = reference()
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert len(headings) == len(set(headings)) == len(DEFS) + 2
    targets = {each.lower().replace(" ", "-") for each in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= targets
    rows = re.findall(r"^\| `.*$", page, re.MULTILINE)
    assert [each for each in rows if re.search(r"\|\s+\|$", each)] == []


def test_each_field_is_described_for_editors() -> None:
    bare = []
    todo = [("", each) for each in (*DEFS.values(), WORKFLOW, MACHINE)]
    for name, node in todo:
        if isinstance(node, dict):
            for key, each in node.get("properties", {}).items():
                if (
                    not {"description", "$ref", "const", "enum", "x-use", "x-expression"}
                    & each.keys()
                ):
                    bare.append(f"{name}.{key}")
            todo += [(f"{name}.{key}", each) for key, each in node.items()]
        elif isinstance(node, list):
            todo += [(name, each) for each in node]
    assert bare == []
