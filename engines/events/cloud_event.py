"""CloudEvents 1.0, and their form in JSON."""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

import msgspec
from msgspec import Struct

from flowstate import InvalidInputError
from flowstate.ground.frozen import EMPTY

__all__ = ["CloudEvent", "text_of"]

NAME = re.compile(r"[a-z0-9]{1,60}")
TEXTS = ("id", "source", "type", "subject", "datacontenttype", "dataschema")
OWN = {*TEXTS, "specversion", "time", "data", "data_base64"}


class CloudEvent(Struct, frozen=True):
    """An event as CloudEvents 1.0 describes it.

    Attributes:
        id: unique among the events of its source.
        source: where it comes from, a URI.
        type: what kind of event it is.
        subject: what it is about, within its source.
        time: when it happened, with a time zone.
        datacontenttype: of the data; empty: JSON.
        dataschema: the URI of a schema of the data.
        data: JSON, or bytes.
        extensions: further attributes: texts, integers and bools, by names of small letters and
            digits.

    Raises:
        InvalidInputError: an attribute is missing, or not as the specification says.
    """

    id: str
    source: str
    type: str
    subject: str = ""
    time: datetime | None = None
    datacontenttype: str = ""
    dataschema: str = ""
    data: Any = None
    extensions: Mapping[str, str | int | bool] = EMPTY

    def __post_init__(self) -> None:
        for name in TEXTS:
            value = getattr(self, name)
            if not isinstance(value, str) or (not value and name in TEXTS[:3]):
                raise InvalidInputError(name, f"must be a text, not {value!r}")
        if self.time is not None and (
            not isinstance(self.time, datetime) or self.time.tzinfo is None
        ):
            raise InvalidInputError("time", "must have a time zone")
        for name, value in self.extensions.items():
            if not NAME.fullmatch(name) or name in OWN or not isinstance(value, str | int):
                raise InvalidInputError("extensions", f"cannot have {name!r} with {value!r}")

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return the event that has a form in JSON, with attributes that are null left out.

        Raises:
            InvalidInputError: it is none.
        """
        if not isinstance(value, Mapping):
            raise InvalidInputError("event", "must be an object")
        found = {name: each for name, each in value.items() if each is not None}
        if found.pop("specversion", None) != "1.0":
            raise InvalidInputError("specversion", "must be '1.0'")
        if missing := [name for name in TEXTS[:3] if name not in found]:
            raise InvalidInputError(missing[0], "is missing")
        try:
            if "data_base64" in found:
                found["data"] = b64decode(found.pop("data_base64"), validate=True)
            if "time" in found:
                found["time"] = msgspec.convert(found["time"], datetime)
        except (ValueError, TypeError) as error:  # Those of msgspec are ValueErrors.
            raise InvalidInputError("event", str(error)) from error
        extensions = {name: found.pop(name) for name in [*found] if name not in OWN}
        return cls(**found, extensions=extensions)

    def to_json(self) -> dict[str, Any]:
        """Return its form in JSON: the attributes, the extensions and the data in one object."""
        texts = {name: getattr(self, name) for name in TEXTS}
        found: dict[str, Any] = {"specversion": "1.0"}
        found |= {name: text for name, text in texts.items() if text}
        if self.time is not None:
            found["time"] = msgspec.to_builtins(self.time)
        if isinstance(self.data, bytes):
            found["data_base64"] = b64encode(self.data).decode()
        elif self.data is not None:
            found["data"] = self.data
        return {**found, **self.extensions}


def text_of(value: Any) -> str:
    """Return JSON as a text; a text is itself, as in a header."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
