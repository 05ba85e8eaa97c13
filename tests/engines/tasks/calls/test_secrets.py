"""Secrets: where they come from, who gets them, and what is made of them in texts."""

from pathlib import Path
from typing import Any

import pytest

from flowstate.engines.tasks.calls.secrets import (
    EnvironmentSecrets,
    FileSecrets,
    MappedSecrets,
    concealed,
    secret,
    secrets_of,
)
from flowstate.engines.tasks.errors import TaskError
from tests.engines.tasks.calls.calling import caller

LISTED = {"use": {"secrets": ["key", "pair"]}}
VALUES = {"key": "s3cret/value", "pair": {"username": "administrator", "password": "pass word 1"}}


async def missing(secrets: Any, name: str) -> None:
    with pytest.raises(TaskError) as caught:
        await secrets.get(name)
    assert (caught.value.type.rpartition("/")[2], caught.value.status) == ("authorization", 403)
    assert caught.value.__cause__ is None


async def test_a_program_can_have_secrets() -> None:
    secrets = MappedSecrets(VALUES)
    assert await secrets.get("pair") == VALUES["pair"]
    await missing(secrets, "other")
    assert "s3cret" not in f"{secrets!r} {secrets}"


async def test_the_environment_can_have_secrets() -> None:
    environment = {"S_MY_KEY": "value", "S_PAIR": '{"a": "b"}', "S_BROKEN": "{a", "PATH": "/bin"}
    secrets = EnvironmentSecrets("S_", environment)
    assert await secrets.get("my-key") == await secrets.get("MY.KEY") == "value"
    assert await secrets.get("pair") == {"a": "b"}
    assert await secrets.get("broken") == "{a"
    await missing(secrets, "path")
    await missing(secrets, "")
    assert "value" not in repr(secrets)


async def test_the_environment_is_read_when_a_secret_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secrets = EnvironmentSecrets()
    await missing(secrets, "late")
    monkeypatch.setenv("FLOWSTATE_SECRET_LATE", "now")
    assert await secrets.get("late") == "now"


async def test_a_folder_can_have_secrets(tmp_path: Path) -> None:
    """As Kubernetes mounts them: files that are links into a hidden folder."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "..data").mkdir()
    (tmp_path / "folder" / "..data" / "username").write_text("ann\n")
    (tmp_path / "folder" / "username").symlink_to("..data/username")
    (tmp_path / "folder" / "password").write_text("  word \r\n")
    (tmp_path / "token").write_text("t\n\n")
    (tmp_path / "object").write_text('{"a": {"b": "c"}}\n')
    secrets = FileSecrets(tmp_path)
    assert await secrets.get("folder") == {"username": "ann", "password": "  word "}
    assert await secrets.get("token") == "t\n"
    assert await secrets.get("object") == {"a": {"b": "c"}}


@pytest.mark.parametrize(
    "name",
    ["other", "", ".", "..", "../outside", "/etc/passwd", "a/b", ".hidden", "x" * 300, "a\0"],
)
async def test_nothing_but_the_files_of_the_folder_is_a_secret(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_text("x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ".hidden").write_text("x")
    await missing(FileSecrets(tmp_path / "in"), name)


async def test_files_that_are_no_texts_are_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    for name in ("binary", "large"):
        await missing(FileSecrets(tmp_path), name)


async def test_a_document_gets_only_the_secrets_that_it_lists() -> None:
    async with caller(secrets=MappedSecrets({**VALUES, "other": "x"}), content=LISTED) as task:
        document, runtime = task.call.document, task.call.runtime
        assert await secrets_of(document, runtime) == VALUES
        assert await secret("key", document, runtime) == "s3cret/value"
        for name in ("other", "unknown"):
            with pytest.raises(TaskError, match="authorization 403"):
                await secret(name, document, runtime)


async def test_a_secret_that_is_listed_must_exist() -> None:
    for secrets in (None, MappedSecrets({"key": "x"})):
        async with caller(content=LISTED, secrets=secrets) as task:
            with pytest.raises(TaskError, match="authorization 403"):
                await secrets_of(task.call.document, task.call.runtime)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("the s3cret/value is here", "the *** is here"),
        ({"a": ["s3cret/value", 1, None, True]}, {"a": ["***", 1, None, True]}),
        ({"s3cret/value": 1}, {"***": 1}),
        ("?key=s3cret%2Fvalue&p=pass%20word%201", "?key=***&p=***"),
        ("administrator", "administrator"),
        (1.5, 1.5),
    ],
)
async def test_secrets_are_concealed_wherever_they_are(value: Any, expected: Any) -> None:
    async with caller(secrets=MappedSecrets(VALUES), content=LISTED) as task:
        assert await concealed(value, task.call) == expected


async def test_the_longest_secret_is_concealed_first_and_short_ones_only_if_asked() -> None:
    secrets = MappedSecrets({"key": "12345678", "pair": ["x12345678y", "tiny", 7, ""]})
    async with caller(secrets=secrets, content=LISTED) as task:
        assert await concealed("x12345678y 12345678 tiny", task.call) == "*** *** tiny"
        assert await concealed("x12345678y 12345678 tiny", task.call, 1) == "*** *** ***"


async def test_a_document_without_secrets_gets_the_value_itself() -> None:
    value = {"a": 1}
    async with caller(secrets=MappedSecrets(VALUES)) as task:
        assert await concealed(value, task.call) is value


async def test_a_secret_that_is_gone_keeps_no_others_from_being_concealed() -> None:
    async with caller(secrets=MappedSecrets({"key": "s3cret/value"}), content=LISTED) as task:
        assert await concealed("s3cret/value", task.call) == "***"
