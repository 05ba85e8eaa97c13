"""Secrets: where they come from, and how they are kept out of what is stored."""

import asyncio
import base64
import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import attrs
import msgspec

from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call, Runtime

__all__ = [
    "EnvironmentSecrets",
    "FileSecrets",
    "MappedSecrets",
    "check_own",
    "concealed",
    "secret",
    "secrets_of",
]

MOST_BYTES = 65_536  # Of a file.
SHORTEST = 8  # Characters: shorter ones would be found in texts where they are no secrets.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")
PLAIN_FIELDS = {"client_id", "id", "user", "username"}
PAIR = {"password", "username"}
FETCHED = "/catalogs/"
STARS = "***"


@attrs.frozen
class MappedSecrets:
    """Secrets that the program has: texts, or objects of texts."""

    secrets: Mapping[str, Any] = attrs.field(repr=False)

    async def get(self, name: str) -> Any:
        """Return a secret."""
        if name not in self.secrets:
            raise _missing(name)
        return self.secrets[name]


@attrs.frozen
class EnvironmentSecrets:
    """Secrets from variables of the environment, which are read when they are asked for.

    The secret ``my-key`` is the variable ``<prefix>MY_KEY``. A value that is a JSON object is one.
    """

    prefix: str = "FLOWSTATE_SECRET_"
    environment: Mapping[str, str] = attrs.field(factory=lambda: os.environ, repr=False)

    async def get(self, name: str) -> Any:
        """Return a secret."""
        found = self.environment.get(self.prefix + re.sub(r"\W", "_", name).upper())
        if found is None:
            raise _missing(name)
        return _value(found)


@attrs.frozen
class FileSecrets:
    """Secrets from the files of a folder, as Docker and Kubernetes mount them.

    A file is a secret of its name: its text without the last line break, or the JSON object that
    it has. A folder is a secret that is an object with its files. They are read when they are
    asked for, so a secret can be replaced at any time.
    """

    folder: Path = attrs.field(converter=Path)

    async def get(self, name: str) -> Any:
        """Return a secret."""
        if not NAME.fullmatch(name):
            raise _missing(name)
        try:
            return await asyncio.to_thread(_read, self.folder / name)
        except (OSError, ValueError):
            raise _missing(name) from None


def _read(path: Path) -> Any:
    if path.is_dir():
        files = sorted(each for each in path.iterdir() if NAME.fullmatch(each.name))
        return {each.name: _text(each) for each in files if each.is_file()}
    return _value(_text(path))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError("is too large for a secret")
    return content.decode().removesuffix("\n").removesuffix("\r")


def _value(text: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return text


def _missing(name: str) -> TaskError:
    return TaskError.of("authorization", f"there is no secret {name!r} for this use")


async def secret(name: str, document: Document, runtime: Runtime) -> Any:
    """Return a secret that a document has listed.

    Raises:
        TaskError: ``authorization``: the document does not list it, or it does not exist.
    """
    if runtime.secrets is None or name not in document.used("secrets"):
        raise _missing(name)
    return await runtime.secrets.get(name)


def check_own(task: str) -> None:
    """Refuse secrets to a task that is not of the document: it could send them anywhere.

    Args:
        task: its JSON pointer, which tells where it is from.

    Raises:
        TaskError: ``authorization``: it is of a function that was fetched.
    """
    if task.startswith(FETCHED):
        text = "a function of a catalog gets no secrets of the document that calls it"
        raise TaskError.of("authorization", text)


async def secrets_of(document: Document, runtime: Runtime) -> Mapping[str, Any]:
    """Return the secrets that a document lists, for ``$secrets``.

    Raises:
        TaskError: ``authorization``: one of them does not exist.
    """
    return {name: await secret(name, document, runtime) for name in document.used("secrets")}


async def concealed(
    value: Any, call: Call, shortest: int = SHORTEST, also: Collection[str] = ()
) -> Any:
    """Return JSON with the secrets of the document replaced by ``***``.

    Only those of at least so many characters, and no names of users: those would be found where
    they are no secrets.

    Args:
        value: in whose texts and keys they are replaced.
        call: whose document lists the secrets.
        shortest: characters of a secret.
        also: further secrets.
    """
    texts = set(also)
    for name in call.document.used("secrets"):
        with contextlib.suppress(TaskError):  # Of a secret that is gone.
            found = _texts(await secret(name, call.document, call.runtime))
            texts |= {each for each in found if len(each) >= shortest}
    # The longest first: one may be part of another.
    hidden = sorted({form for each in texts for form in _forms(each)}, key=len, reverse=True)
    return _replaced(value, re.compile("|".join(map(re.escape, hidden)))) if hidden else value


def _forms(text: str) -> Iterator[str]:
    yield from (text, quote(text, safe=""), quote(text), quote_plus(text))
    yield msgspec.json.encode(text).decode()[1:-1]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if value.keys() >= PAIR:
            pair = f"{value['username']}:{value['password']}"
            yield base64.b64encode(pair.encode()).decode()
        for name, each in value.items():
            if name not in PLAIN_FIELDS:
                yield from _texts(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str) and value:
        yield value


def _replaced(value: Any, hidden: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return hidden.sub(STARS, value)
    if isinstance(value, Mapping):
        return {hidden.sub(STARS, key): _replaced(each, hidden) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(each, hidden) for each in value]
    return value
