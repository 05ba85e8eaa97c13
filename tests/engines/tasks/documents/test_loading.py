"""Documents are loaded from texts, files and folders; errors have all that is wrong, bounded."""

import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from flowstate.engines.expressions.expressions import Expressions
from flowstate.engines.expressions.in_process import InProcessExpressions
from flowstate.engines.tasks.documents.compiling import expression_faults
from flowstate.engines.tasks.documents.graphs import graph_faults
from flowstate.engines.tasks.documents.loading import check_files, load
from flowstate.engines.tasks.documents.validating import shape_of
from flowstate.engines.tasks.errors import DocumentError
from tests.engines.tasks.documents.loads import HEAD, HERE, loaded, runtime

RIGHT = HEAD + "do:\n  - a: {set: {x: ${ .x }}}\n".replace("${ .x }", '"${ .x }"')
WRONG = HEAD + "do:\n  - a: {wait: soon}\n"


async def test_what_is_loaded_says_what_it_is() -> None:
    made = await loaded(RIGHT)
    assert (made.kind, made.key, made.text) == ("workflow", "a/b:1.0.0", RIGHT)
    assert made.content is made.source
    assert made.lines["/do/0/a/set/x"] == 3


@pytest.mark.parametrize("dsl", ["1.0.0", "1.0.0-alpha3"])
async def test_a_document_of_the_first_dsl_can_leave_its_version_out(dsl: str) -> None:
    made = await loaded(RIGHT.replace("1.0.3", dsl).replace(", version: 1.0.0", ""))
    assert made.key == "a/b:0.0.0"


async def test_the_error_tells_file_line_and_path() -> None:
    with pytest.raises(DocumentError) as caught:
        await loaded(WRONG)
    expected = """x.yaml:3: /do/0/a/wait: 'soon' is no duration; write "PT15M", or minutes: 15"""
    assert str(caught.value) == expected


async def test_expressions_are_compiled_in_their_processes() -> None:
    async with Expressions(workers=1) as expressions:
        given = runtime()
        given.expressions = expressions
        await load(RIGHT, runtime=given)
        with pytest.raises(DocumentError) as caught:
            await load(RIGHT.replace(".x", ".x | nothing"), runtime=given)
    assert [each.path for each in caught.value.problems] == ["/do/0/a/set/x"]


async def test_each_wrong_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    files = {
        "a.yaml": RIGHT,
        "deep/b.yml": RIGHT.replace("name: b", "name: c"),
        "c.json": '{"document": {"dsl": "1.0.3", "namespace": "a", "name": "d", '
        '"version": "1.0.0"}, "do": []}',
        "d.yaml": WRONG,
        "e.yaml": RIGHT,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "f.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "g.yaml").write_bytes(b"#" * 2_000_000)
    (tmp_path / "h.yaml").mkdir()
    paths = [*map(tmp_path.joinpath, files), *(tmp_path / f"{each}.yaml" for each in "fghi")]
    errors = await check_files(paths, runtime())
    told = {Path(each.file).name: each.problems[0].text for each in errors}
    assert told == {
        "d.yaml": """'soon' is no duration; write "PT15M", or minutes: 15""",
        "e.yaml": "another file has a/b:1.0.0, too; give one of them another version",
        "f.yaml": "the file is not UTF-8",
        "g.yaml": "a document has at most 1 MiB",
        "h.yaml": "Is a directory",
        "i.yaml": "No such file or directory",
    }


async def test_of_very_many_problems_the_first_are_told() -> None:
    text = HEAD + "do:\n" + "".join(f"  - a{n}: {{wait: soon}}\n" for n in range(1_000))
    with pytest.raises(DocumentError) as caught:
        await loaded(text)
    assert len(caught.value.problems) == 101
    assert caught.value.problems[-1].text == "900 more"
    assert len(str(caught.value)) < 20_000


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["tasks", "expressions", "unknown fields", "nested", "thens"])
async def test_the_largest_documents_are_loaded_or_refused_in_bounded_time(kind: str) -> None:
    many = 14_000
    parts = {
        "tasks": "".join(f"  - a{n}: {{wait: PT1S}}\n" for n in range(many)),
        "expressions": "  - a:\n      set:\n"
        + "".join(f'        a{n}: "${{ .a{n} + {n} }}"\n' for n in range(many)),
        "unknown fields": "  - a:\n      wait: PT1S\n"
        + "".join(f"      wait{n}: PT1S\n" for n in range(many)),
        "nested": "".join(
            f"  - a{n}: {'{do: [{a: ' * 24}{{wait: PT1S}}{'}]}' * 24}\n" for n in range(400)
        ),
        "thens": "".join(f"  - a{n}: {{wait: PT1S, then: b{n}}}\n" for n in range(many)),
    }
    start = time.process_time()
    is_wrong = kind in {"unknown fields", "thens"}
    with pytest.raises(DocumentError) if is_wrong else nullcontext():
        await loaded(HEAD + "do:\n" + parts[kind])
    assert time.process_time() - start < 30


def test_many_states_take_no_time_for_each_pair_of_them() -> None:
    states = {f"s{n}": {"transitions": [{"to": f"s{n + 1}"}]} for n in range(20_000)}
    machine = {"start": "s0", "final": ["s20000"], "states": {**states, "s20000": {}}}
    start = time.process_time()
    assert not list(graph_faults(machine))
    assert time.process_time() - start < 5


async def test_many_functions_take_no_time_for_each_pair_of_them() -> None:
    functions = {f"f{n}": {"set": {"a": "${ .a }"}} for n in range(4_000)}
    content = {"use": {"functions": functions}}
    shape = shape_of(content, "workflow")
    start = time.process_time()
    async with InProcessExpressions() as expressions:
        assert not [each async for each in expression_faults(content, shape, expressions)]
    assert time.process_time() - start < 3


def test_there_are_documents_to_look_at() -> None:
    assert len(list((HERE / "right").iterdir())) > 8
