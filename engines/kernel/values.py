"""Values within an instance, as JSON: they lie deeper there than a value by itself may."""

from typing import Any

from msgspec import Raw

from flowstate import encoded

__all__ = ["ROOM", "kept"]

ROOM = 40  # Levels of lists and objects around a value, such as those of threads and frames.
SHALLOW = 980  # Bytes; what is shorter, with all around it, cannot be nested too deeply.


def kept(field: str, value: Any, known: Raw | None = None, room: int = ROOM) -> Raw:
    """Return a value as JSON that an instance can hold; see :func:`flowstate.encoded`.

    Raises:
        InvalidInputError: JSON cannot hold it, or it is nested too deeply for an instance.
    """
    raw = encoded(field, value, known)
    if memoryview(raw).nbytes > SHALLOW - 2 * room:
        encoded(field, Raw(b"[" * room + bytes(raw) + b"]" * room))
    return raw
