"""Validators for options: each names the field and raises ``InvalidInputError``.

They are made for the fields of attrs classes: ``attrs.field(validator=seconds(minimum=0.0))``.
"""

import math
from collections.abc import Callable
from typing import Any

import attrs

from flowstate.errors import InvalidInputError

__all__ = [
    "check_count",
    "check_flag",
    "check_seconds",
    "choice",
    "count",
    "flag",
    "has",
    "optional",
    "seconds",
]

Validator = Callable[[Any, Any, Any], None]
MAX_SECONDS = 365_000 * 86_400.0


def check_seconds(
    field: str, value: object, minimum: float = 0.0, maximum: float = MAX_SECONDS
) -> None:
    """Refuse what is not a finite number of seconds from ``minimum`` to ``maximum``."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # Not a number compares as false.
    if not is_number or not minimum <= value <= maximum or math.isinf(value):  # type: ignore[operator,arg-type]
        limits = f"from {minimum:g} to {maximum:g} seconds"
        raise InvalidInputError(field, f"must be a number {limits}, not {_shown(value)}")


def check_count(field: str, value: object, minimum: int = 0, maximum: int = 2**31) -> None:
    """Refuse what is not an integer from ``minimum`` to ``maximum``."""
    if type(value) is not int or not minimum <= value <= maximum:
        limits = f"from {minimum} to {maximum}"
        raise InvalidInputError(field, f"must be an integer {limits}, not {_shown(value)}")


def seconds(minimum: float = 0.0, maximum: float = MAX_SECONDS) -> Validator:
    """Validate a number of seconds."""
    return lambda _, field, value: check_seconds(_name(field), value, minimum, maximum)


def count(minimum: int = 0, maximum: int = 2**31) -> Validator:
    """Validate an integer."""
    return lambda _, field, value: check_count(_name(field), value, minimum, maximum)


def check_flag(field: str, value: object) -> None:
    """Refuse what is neither ``True`` nor ``False``."""
    if type(value) is not bool:
        raise InvalidInputError(field, f"must be True or False, not {_shown(value)}")


def flag(_: object, field: Any, value: object) -> None:
    """Validate ``True`` or ``False``."""
    check_flag(_name(field), value)


def choice(*values: object) -> Validator:
    """Validate one of some values."""

    def check(_: object, field: Any, value: object) -> None:
        if value not in values:
            allowed = " or ".join(map(repr, values))
            raise InvalidInputError(_name(field), f"must be {allowed}, not {_shown(value)}")

    return check


def has(what: str, *names: str) -> Validator:
    """Validate an object by the attributes that it must have; with none, a callable.

    Args:
        what: is expected, for the message, such as ``"a Clock"``.
        names: of the attributes.
    """

    def check(_: object, field: Any, value: object) -> None:
        is_right = all(hasattr(value, name) for name in names) if names else callable(value)
        if isinstance(value, type) or not is_right:
            raise InvalidInputError(_name(field), f"must be {what}, not {_shown(value)}")

    return check


def optional(validator: Validator) -> Validator:
    """Accept ``None`` as well."""
    return attrs.validators.optional(validator)


def _name(field: Any) -> str:
    name: str = field.name
    return name.lstrip("_")


def _shown(value: object) -> str:
    """Return a number or ``None`` as it is, and of all else the type: a value may be a secret."""
    is_short = type(value) is int and value.bit_length() <= 64  # noqa: PLR2004 - any bound
    if value is None or type(value) in (float, bool) or is_short:
        return repr(value)
    return f"a {type(value).__name__}"
