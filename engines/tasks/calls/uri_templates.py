"""URI templates: a name in braces stands for a value of the input."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from flowstate.engines.tasks.errors import TaskError

__all__ = ["VARIABLE", "as_text", "encoded", "expanded"]

VARIABLE = re.compile(r"\{([^{}]*)\}")


def expanded(template: str, values: Any) -> str:
    """Return a URI with values in place of their names; nothing in place of unknown ones.

    Raises:
        TaskError: ``expression``: a value is a list, an object, or leads out of its place.
    """
    known = values if isinstance(values, Mapping) else {}
    return VARIABLE.sub(lambda found: encoded(found[1], known.get(found[1])), template)


def encoded(name: str, value: Any) -> str:
    """Return a scalar of JSON as a part of a path: it cannot become more parts, or go up."""
    if isinstance(value, Mapping | list) or value in {".", ".."}:
        raise TaskError.of("expression", f"{{{name}}} in a URI is a list, an object, or dots")
    return quote(as_text(value), safe="")


def as_text(value: Any) -> str:
    """Return a scalar of JSON as it stands in URLs and headers."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
