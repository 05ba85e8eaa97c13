"""The documents of the pages about documents are right, and their problems are told like that."""

import re

import pytest

from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.errors import DocumentError
from tests.engines.tasks.documents.loads import HEAD, loaded, runtime
from tests.engines.tasks.documents.reference import PAGE

pytestmark = pytest.mark.repository

BLOCK = re.compile(r"^```(yaml|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WRONG = (
    HEAD
    + """\
do:
  - greet:
      wiat: PT1S
      wait: PT1S
  - again: {wait: PT1S, then: gret}
"""
)


async def test_the_page_about_documents_tells_the_truth() -> None:
    (_, document), (_, told) = BLOCK.findall((PAGE.parent / "documents.md").read_text())
    assert (await loaded(document)).key == "shop/greet:1.0.0"
    with pytest.raises(DocumentError) as caught:
        await load(WRONG, file="greet.yaml", runtime=runtime())
    assert f"{caught.value}\n" == told
