"""Mailboxes: what was sent to a state and not taken yet, and the keys that were seen.

A mailbox is a state of its own, next to the *receiver*, the state that its messages are for. It is
made by the first message that cannot be delivered at once, or that has a key. A receiver that waits
says so in its last transition. Two rules let no message be missed:

- Who puts a message into the mailbox checks in the same commit that the receiver is as it was read,
  so that it does not wait for this message.
- Who begins to wait checks in the same commit that the mailbox is as it was read, so that it has no
  message that is waited for.

Of two that are done at the same time the store refuses one, which is planned again.
"""

from collections.abc import Collection

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from flowstate.errors import CodecError, MailboxFullError
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import MAX_ID_BYTES, MAX_VALUES_BYTES, text_bytes
from flowstate.state import State, Status, Transition

__all__ = [
    "MAILBOX_PREFIX",
    "Mailbox",
    "Message",
    "RECEIVE",
    "SIGNAL",
    "Waiting",
    "delivered",
    "mailbox_id",
    "waiting_of",
]

MAILBOX_PREFIX = "flowstate.mailbox."
RECEIVE = "flowstate.receive"  # Annotation of the transition of one that waits: for what.
SIGNAL = "flowstate.signal"  # Annotation of the transition that a message makes: its name.

DIGEST = "sha256:"
VALUE = "mailbox"
MAX_MESSAGES = 1_000
MAX_BYTES = MAX_VALUES_BYTES - 16 * 1024  # The rest is for keys, and for what is around it all.
AROUND = 8  # Bytes of JSON around a message.


class Message(Struct, frozen=True, array_like=True):
    """A message, with its value as JSON."""

    name: str
    value: Raw


class Waiting(Struct, frozen=True):
    """For which messages a receiver waits, and to which flow it goes with one of them."""

    names: tuple[str, ...]
    to: str

    def encode(self) -> str:
        """Return the text of the annotation."""
        return msgspec.json.encode(self).decode()


class Mailbox(Struct, frozen=True, omit_defaults=True, tag_field="v", tag=1):
    """What is in a mailbox, in its stored form.

    Attributes:
        messages: the oldest first.
        keys: what is kept of the newest keys; see :mod:`flowstate.mailboxes.seen_keys`.
    """

    messages: tuple[Message, ...] = ()
    keys: str = ""

    @classmethod
    def of(cls, state: State | None) -> "Mailbox":
        """Return what is in a stored mailbox; nothing, if there is none."""
        if state is None:
            return cls()
        try:
            return _mailbox_decoder.decode(state.values[VALUE])
        except (KeyError, ValueError) as error:
            raise CodecError(f"mailbox {state.id!r} cannot be read: {error}") from error

    def add(self, message: Message, id: str) -> "Mailbox":
        """Return it with one more message.

        Raises:
            MailboxFullError: the receiver ``id`` has too many of them.
        """
        messages = (*self.messages, message)
        if len(messages) > MAX_MESSAGES or sum(map(_size, messages)) > MAX_BYTES:
            raise MailboxFullError(id)
        return replace(self, messages=messages)

    def take(self, names: Collection[str]) -> tuple[Message | None, "Mailbox"]:
        """Return the oldest message with one of these names, and what is left."""
        for place, message in enumerate(self.messages):
            if message.name in names:
                left = (*self.messages[:place], *self.messages[place + 1 :])
                return message, replace(self, messages=left)
        return None, self

    def without(self, message: Message, keys: str) -> "Mailbox":
        """Return it as it was before this message and key, the last ones."""
        messages = self.messages
        if messages and messages[-1] == message:
            messages = messages[:-1]
        return replace(self, messages=messages, keys=self.keys.removesuffix(keys))

    def stored_in(self, state: State) -> State:
        """Return the state of the mailbox with this in it."""
        values = FrozenDict({VALUE: Raw(msgspec.json.encode(self))})
        return replace(state, values=values, status=Status.PAUSED)


_mailbox_decoder = msgspec.json.Decoder(Mailbox)
_waiting_decoder = msgspec.json.Decoder(Waiting)


def mailbox_id(id: str) -> str:
    """Return the id of the state that is the mailbox of a state; of a long id it has a digest.

    A watch of it tells that messages have come which nothing waited for.
    """
    # An id that looks like a digest gets one, too: it must not name the mailbox of another state.
    is_short = text_bytes(MAILBOX_PREFIX) + text_bytes(id) <= MAX_ID_BYTES
    if is_short and not id.startswith(DIGEST):
        return MAILBOX_PREFIX + id
    import hashlib  # Loads OpenSSL, which most programs never need.  # noqa: PLC0415

    return f"{MAILBOX_PREFIX}{DIGEST}{hashlib.sha256(id.encode()).hexdigest()}"


def waiting_of(state: State) -> Waiting | None:
    """Return what a committed state waits for; ``None`` if it does not wait for a message.

    Raises:
        CodecError: what it waits for cannot be read.
    """
    text = state.transition.annotations.get(RECEIVE)
    if text is None or state.status is not Status.PAUSED:
        return None
    try:
        return _waiting_decoder.decode(text)
    except ValueError as error:
        raise CodecError(f"what {state.id!r} waits for cannot be read: {error}") from error


def delivered(state: State, message: Message, to: str) -> State:
    """Return a receiver that goes to flow ``to`` with a message."""
    values = FrozenDict({**state.values, message.name: message.value.copy()})
    transition = Transition(to, FrozenDict({SIGNAL: message.name}), "signal")
    return replace(
        state, transition=transition, status=Status.ACTIVE, delayed_until=None, values=values
    )


def _size(message: Message) -> int:
    return text_bytes(message.name) + memoryview(message.value).nbytes + AROUND
