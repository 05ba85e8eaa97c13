"""How two states differ, field by field."""

from collections.abc import Iterator, Mapping

from flowstate.state import State

__all__ = ["state_diff"]


def state_diff(left: State, right: State) -> list[str]:
    """Return a heading and a line for each difference."""
    heading = f"{_name(left)} == {_name(right)}"
    return [heading, "", *_differences("", left, right)]


def _name(state: State) -> str:
    return f"State({state.id!r} at revision {state.rev})"


def _differences(prefix: str, left: object, right: object) -> Iterator[str]:
    """Go into what has fields or keys, down to what differs."""
    if left == right:
        return
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in {**left, **right}:
            name = f"{prefix}[{key!r}]"
            if key not in left or key not in right:
                there = "left" if key in left else "right"
                value = left.get(key, right.get(key))
                yield f"{name}: {value!r} on the {there} only"
            else:
                yield from _differences(name, left[key], right[key])
    elif hasattr(left, "__struct_fields__") and type(left) is type(right):
        for field in left.__struct_fields__:
            name = f"{prefix}.{field}" if prefix else field
            yield from _differences(name, getattr(left, field), getattr(right, field))
    else:
        yield f"{prefix}: {_text(left)} != {_text(right)}"


def _text(value: object) -> str:
    # Statuses and times read better without their types.
    return repr(value) if isinstance(value, str) and type(value) is str else str(value)
