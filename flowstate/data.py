"""Blobs that belong to states but are stored apart from them, once per content."""

from collections.abc import Mapping

from msgspec import json
from msgspec.structs import force_setattr

from flowstate.errors import InvalidInputError
from flowstate.ground.frozen import EMPTY, FrozenDict, Value, freeze
from flowstate.ground.limits import MAX_BLOB_BYTES, check_annotations

__all__ = ["Data", "DataRef", "checked_data", "checksum_of", "newly_referred"]


class DataRef(Value, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a state keeps of its data.

    Attributes:
        rev: counts the contents that the alias has had in this state, from 1.
        checksum: names the content; see :func:`checksum_of`.
        unknown: fields written by a newer library, as JSON, kept as they came.
    """

    rev: int
    checksum: str
    unknown: Mapping[str, bytes] = EMPTY


class Data(Value, frozen=True):
    """A blob with annotations.

    Put it under an alias in ``ctx.data`` and do ``StoreData(ctx, alias)``. Content that the
    state already refers to under that alias is not stored again.

    Attributes:
        blob: at most 16 MiB.
        annotations: what the caller wished to note about the blob, at most 1 MiB in all.
        rev: the revision under its alias; 0 until it is stored.
        checksum: see :func:`checksum_of`; empty until it is stored.
    """

    blob: bytes
    annotations: Mapping[str, str] = EMPTY
    rev: int = 0
    checksum: str = ""

    def __post_init__(self) -> None:
        if type(self.annotations) is not FrozenDict:
            force_setattr(self, "annotations", freeze("data.annotations", self.annotations))


def checksum_of(data: Data) -> str:
    """SHA-256 in hexadecimal over the sorted annotations as JSON, a NUL, and the blob.

    JSON escapes control characters, so the NUL cannot be part of the annotations.
    """
    import hashlib  # Loads OpenSSL, which most programs never need.  # noqa: PLC0415

    digest = hashlib.sha256(json.encode(data.annotations, order="sorted"))
    digest.update(b"\0")
    digest.update(data.blob)
    return digest.hexdigest()


def checked_data(field: str, data: Data) -> Data:
    """Return data as it can be stored, with an exact blob and annotations."""
    if type(data) is not Data:
        raise InvalidInputError(field, f"must be Data, not {type(data).__name__}")
    if not issubclass(type(data.blob), bytes):
        kind = type(data.blob).__name__
        raise InvalidInputError(f"{field}.blob", f"must be bytes, not {kind}")
    blob = b"".join((data.blob,))  # An exact ``bytes``, also of a subclass.
    if len(blob) > MAX_BLOB_BYTES:
        limit = f"at most {MAX_BLOB_BYTES} bytes, not {len(blob)}"
        raise InvalidInputError(f"{field}.blob", f"must be {limit}")
    return Data(blob, check_annotations(f"{field}.annotations", data.annotations))


def newly_referred(data: Mapping[str, DataRef], known: Mapping[str, DataRef]) -> set[str]:
    """Return the checksums that ``data`` refers to and ``known`` does not."""
    if data is known or not data:
        return set()
    stored = {getattr(ref, "checksum", None) for ref in known.values()}
    return {ref.checksum for ref in data.values()} - stored
