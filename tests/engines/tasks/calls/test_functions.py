"""What a ``call`` can name, and functions in Python."""

import sys
import threading
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowstate.engines.tasks.calls.built_in import BUILT_IN
from flowstate.engines.tasks.calls.functions import find, is_known, raw_uri, typed
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call
from tests.engines.tasks.calls.calling import caller

RAW = "https://raw.githubusercontent.com/o/r"


@pytest.mark.parametrize(
    ("uri", "raw"),
    [
        ("https://github.com/o/r/tree/main/f/x.yaml", f"{RAW}/refs/heads/main/f/x.yaml"),
        ("https://github.com/o/r/blob/dev/x.yaml", f"{RAW}/refs/heads/dev/x.yaml"),
        ("https://github.com/o/r/f/x.yaml", f"{RAW}/HEAD/f/x.yaml"),
        ("https://github.com/o/r.git/f/x.yaml", f"{RAW}/HEAD/f/x.yaml"),
        ("https://gitlab.com/g/s/p/-/tree/main/f", "https://gitlab.com/g/s/p/-/raw/main/f"),
        ("https://gitlab.my.org/g/p/-/blob/v1/f", "https://gitlab.my.org/g/p/-/raw/v1/f"),
        ("https://example.com/github.com/o/r/x", "https://example.com/github.com/o/r/x"),
        ("https://evil-github.com/o/r/x", "https://evil-github.com/o/r/x"),
    ],
)
def test_pages_of_repositories_become_the_files_that_they_show(uri: str, raw: str) -> None:
    assert raw_uri(uri) == raw


async def nothing(arguments: Any, call: Call) -> None:
    """Do nothing."""


async def other(arguments: Any, call: Call) -> None:
    """Do nothing either."""


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """As catalogs are laid out, in a folder."""
    for name, version in (("log", "1.0.0"), ("log", "2.0.0-rc.1+b")):
        folder = tmp_path / "functions" / name / version
        folder.mkdir(parents=True)
        (folder / "function.yaml").write_text(f"set:\n  version: {version}\n")
    folder = tmp_path / "functions" / "list" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "function.yaml").write_text("- 1")
    return tmp_path


@pytest.mark.parametrize("name", [*BUILT_IN, "mine", "own", "log:1.0.0@shared", "https://x/y"])
async def test_functions_are_known_before_they_are_found(name: str) -> None:
    use = {"functions": {"mine": {"set": {}}}, "catalogs": {"shared": {"endpoint": "https://x"}}}
    async with caller(functions={"own": nothing}, content={"use": use}) as task:
        assert is_known(name, task.call.document, task.call.runtime)


@pytest.mark.parametrize(
    "name", ["", "other", "log:1.0.0@other", "log:1.0.0@default", "log@shared"]
)
async def test_functions_that_are_nowhere_are_not_known_and_not_found(name: str) -> None:
    use = {"catalogs": {"shared": {"endpoint": "https://x"}}}
    async with caller(content={"use": use}) as task:
        assert not is_known(name, task.call.document, task.call.runtime)
        with pytest.raises(TaskError, match="configuration 400"):
            await find(name, task.call)


async def test_a_function_of_the_document_comes_before_one_of_the_runtime() -> None:
    content = {"use": {"functions": {"mine": {"set": {"a": 1}}, "http": {"set": {}}}}}
    functions = {"mine": nothing, "own": nothing, "openapi": other}
    async with caller(functions=functions, content=content) as task:
        assert await find("mine", task.call) == {"set": {"a": 1}}
        assert await find("own", task.call) is nothing
        assert await find("http", task.call) is BUILT_IN["http"]
        assert await find("openapi", task.call) is other


async def test_a_catalog_has_functions_by_name_and_version(catalog: Path) -> None:
    use = {"catalogs": {"shared": {"endpoint": {"uri": "file://."}}}}
    async with caller(outgoing={"files": catalog}, content={"use": use}) as task:
        assert await find("log:1.0.0@shared", task.call) == {"set": {"version": "1.0.0"}}
        found = await find("log:2.0.0-rc.1+b@shared", task.call)
        assert found == {"set": {"version": "2.0.0-rc.1+b"}}
        with pytest.raises(TaskError, match="is no definition of a task"):
            await find("list:1.0.0@shared", task.call)
        with pytest.raises(TaskError, match="there is no file '"):
            await find("log:3.0.0@shared", task.call)


async def test_the_default_catalog_is_the_functions_of_the_runtime_and_a_place(
    catalog: Path,
) -> None:
    functions = {"own:1.0.0": nothing, "any": other}
    options: dict[str, Any] = {"outgoing": {"files": catalog}, "functions": functions}
    async with caller(catalog="file://.", **options) as task:
        assert await find("own:1.0.0@default", task.call) is nothing
        assert await find("any:7.0.0@default", task.call) is other
        assert await find("log:1.0.0@default", task.call) == {"set": {"version": "1.0.0"}}
        assert is_known("log:1.0.0@default", task.call.document, task.call.runtime)
    use = {"catalogs": {"default": {"endpoint": "file://."}}}
    async with caller(content={"use": use}, **options) as task:
        with pytest.raises(TaskError, match="there is no file '"):
            await find("any:7.0.0@default", task.call)


async def test_a_function_can_be_named_by_its_uri(catalog: Path) -> None:
    async with caller(outgoing={"files": catalog}) as task:
        for name in (
            "file://functions/log@1.0.0",
            "file://functions/log/1.0.0",
            "file://functions/log/1.0.0/function.yaml",
        ):
            assert await find(name, task.call) == {"set": {"version": "1.0.0"}}


async def test_a_function_of_a_tag_of_github_is_got_from_that_tag() -> None:
    async with caller(outgoing={"hosts": ["nothing.example"]}) as task:
        for name in ("https://github.com/o/r/f@v1.0.0", "https://github.com/o/r/f"):
            with pytest.raises(TaskError, match=r"'raw\.githubusercontent\.com' is not among"):
                await find(name, task.call)


class Order(msgspec.Struct):
    tea: str
    day: date


async def ship(order: Order, count: int = 1, *, call: Call) -> dict[str, Any]:
    return {"key": call.key, "order": order, "count": count, "on": order.day}


def blocking(text: str) -> str:
    return f"{text} in {threading.current_thread() is threading.main_thread()}"


def anything(**all_: Any) -> int:
    return len(all_)


async def test_a_typed_function_gets_its_arguments_decoded_and_gives_json() -> None:
    order = {"tea": "green", "day": "2026-12-01"}
    async with caller() as task:
        assert await task(typed(ship), {"order": order}) == {
            "key": "i/main/call/1",
            "order": order,
            "count": 1,
            "on": "2026-12-01",
        }
        assert await task(typed(blocking), {"text": "x"}) == "x in False"
        assert await task(typed(anything), {"a": 1, "b": {}}) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"order": {"tea": "green"}},
        {"order": {"tea": "green", "day": "never"}},
        {"order": {"tea": "green", "day": "2026-12-01"}, "count": "one"},
        {"order": {"tea": "green", "day": "2026-12-01"}, "extra": 1},
        {"order": {"tea": "green", "day": "2026-12-01"}, "call": 1},
    ],
)
async def test_arguments_that_do_not_fit_are_errors_of_validation(arguments: Any) -> None:
    async with caller() as task:
        assert (await task.refused(typed(ship), arguments))[0] == "validation"


async def test_errors_of_a_typed_function_are_its_own() -> None:
    def fail() -> None:
        raise TypeError("from within")

    async with caller() as task:
        with pytest.raises(TypeError, match="from within"):
            await task(typed(fail), {})


def test_a_function_whose_parameters_have_no_names_is_refused() -> None:
    def unnamed(a: int, /) -> None:
        """Cannot be called by name."""

    with pytest.raises(TypeError, match="has parameters without a name"):
        typed(unnamed)


async def test_a_function_whose_package_is_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "flowstate.engines.tasks.calls.openapi", raising=False)
    monkeypatch.setitem(sys.modules, "flowstate.engines.tasks.calls.resources", None)
    async with caller() as task:
        kind, _, detail = await task.refused(BUILT_IN["openapi"], {})
    assert kind == "configuration"
    assert "is missing: pip install flowstate-engine[tasks]" in detail
