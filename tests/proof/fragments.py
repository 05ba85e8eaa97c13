"""Breaks SQL and Lua: a fragment of the text is replaced, and must have been there."""

from hashlib import sha1

import pytest

from flowstate.drivers.postgres import schema
from flowstate.drivers.redis import scripts

__all__ = ["in_lua", "in_migration", "replaced"]

Change = tuple[str, str]


def replaced(text: str, old: str, new: str) -> str:
    """Return the text with a fragment replaced.

    Raises:
        LookupError: the fragment is not there, so the bug cannot be planted any more.
    """
    if old not in text:
        raise LookupError(f"there is nothing left to break: {old!r}")
    return text.replace(old, new)


def in_migration(monkeypatch: pytest.MonkeyPatch, *changes: Change) -> None:
    """Break what makes a new Postgres store; ``{schema}`` stands for its name."""
    original = schema.migration_sql

    def broken(name: str = "flowstate", *, since: int = 0) -> str:
        text, quoted = original(name, since=since), schema.quoted(name)
        for old, new in changes:
            text = replaced(text, old.replace("{schema}", quoted), new.replace("{schema}", quoted))
        return text

    broken()
    monkeypatch.setattr(schema, "migration_sql", broken)


def in_lua(monkeypatch: pytest.MonkeyPatch, name: str, *changes: Change) -> None:
    """Break one of the scripts of a Redis store."""
    original = scripts._script
    text = original(name)[0].decode()
    for old, new in changes:
        text = replaced(text, old, new)
    broken = text.encode()
    digest = sha1(broken).hexdigest()  # noqa: S324 - the digest that the server asks for

    def script(wanted: str) -> tuple[bytes, str]:
        return (broken, digest) if wanted == name else original(wanted)

    monkeypatch.setattr(scripts, "_script", script)
