"""JSON pointers (RFC 6901): where something is within JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["look_up", "parts_of", "pointer_of", "resolved"]

MOST_REFERENCES = 20


def pointer_of(path: Iterable[str | int]) -> str:
    """Return the JSON pointer of a path of keys and indexes."""
    return "".join("/" + str(each).replace("~", "~0").replace("/", "~1") for each in path)


def parts_of(pointer: str) -> list[str]:
    """Return the path of a JSON pointer; indexes are texts."""
    return [each.replace("~1", "/").replace("~0", "~") for each in pointer.split("/")[1:]]


def look_up(content: Any, pointer: str) -> Any:
    """Return what a JSON pointer refers to.

    Raises:
        LookupError, TypeError, ValueError: there is nothing.
    """
    for part in parts_of(pointer):
        content = content[int(part) if isinstance(content, list | tuple) else part]
    return content


def resolved(document: Any, value: Any) -> Any:
    """Return what a reference ``{"$ref": "#/..."}`` leads to; everything else as it is.

    Raises:
        LookupError, TypeError, ValueError: it leads to nothing, out of the document, or around.
    """
    for _ in range(MOST_REFERENCES):
        if not (isinstance(value, Mapping) and isinstance(value.get("$ref"), str)):
            return value
        if not value["$ref"].startswith("#/"):
            raise LookupError(f"a reference out of the document: {value['$ref']:.100}")
        value = look_up(document, value["$ref"])
    raise LookupError("references go around in a circle")
