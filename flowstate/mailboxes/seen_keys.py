"""Which keys of messages a mailbox has seen: the newest 10,000 at least.

Of each key a token of 72 bits is kept. The newest tokens are in the mailbox. As soon as there are
250 of them they become a part of their own, a blob of data that is never written again, so that a
message costs the same however many keys were seen.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from flowstate.data import Data
from flowstate.errors import DataNotFoundError
from flowstate.mailboxes.mailbox import Mailbox
from flowstate.state import State

__all__ = ["PARTS", "SeenKeys", "next_part", "parts_of", "token_of", "with_token"]

TOKEN_BYTES = 9
TOKEN = 12  # Characters of a token.
PART = 250 * TOKEN
PARTS = 40
PREFIX = "keys."  # Of the aliases of parts.
DIGITS = 8
REMEMBERED = 4_000  # Parts, of all mailboxes: 12 MB.


def token_of(key: str) -> str:
    """Return what is kept of a key."""
    import base64  # noqa: PLC0415
    import hashlib  # Loads OpenSSL, which most programs never need.  # noqa: PLC0415

    digest = hashlib.blake2b(key.encode(), digest_size=TOKEN_BYTES).digest()
    return base64.b64encode(digest).decode()


def with_token(mailbox: Mailbox, token: str) -> tuple[Mailbox, str | None]:
    """Return a mailbox that has seen one more key, and a part to be stored, if one is full."""
    if len(mailbox.keys) < PART:
        return replace(mailbox, keys=mailbox.keys + token), None
    return replace(mailbox, keys=token), mailbox.keys


def parts_of(state: State) -> list[str]:
    """Return the aliases of the parts of a mailbox, the oldest first."""
    return sorted(alias for alias in state.data if alias.startswith(PREFIX))


def next_part(parts: list[str]) -> str:
    """Return the alias of the part after these."""
    number = int(parts[-1].removeprefix(PREFIX)) + 1 if parts else 0
    return f"{PREFIX}{number:0{DIGITS}}"


class SeenKeys:
    """Looks keys up, and remembers parts, which never change."""

    def __init__(self, get_data: Callable[[str], Awaitable[Data | None]]) -> None:
        self._get_data = get_data
        self._parts: OrderedDict[str, str] = OrderedDict()

    async def have(self, token: str, mailbox: State | None) -> bool:
        """Return whether a stored mailbox has seen a key.

        Raises:
            DataNotFoundError: a part is missing.
        """
        if mailbox is None:
            return False
        if _contains(Mailbox.of(mailbox).keys, token):
            return True
        for alias in reversed(parts_of(mailbox)):
            if _contains(await self._part(mailbox.data[alias].checksum), token):
                return True
        return False

    async def _part(self, checksum: str) -> str:
        part = self._parts.pop(checksum, None)
        if part is None:
            data = await self._get_data(checksum)
            if data is None:
                raise DataNotFoundError(f"keys that a mailbox has seen are missing: {checksum}")
            part = data.blob.decode()
        self._parts[checksum] = part
        if len(self._parts) > REMEMBERED:
            self._parts.popitem(last=False)
        return part


def _contains(tokens: str, token: str) -> bool:
    place = tokens.find(token)
    while place > 0 and place % TOKEN:
        place = tokens.find(token, place + 1)
    return place >= 0
