"""What must be true of messages: none is lost, none is taken twice, and none waits in vain."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from flowstate.mailboxes.mailbox import SIGNAL, Mailbox, mailbox_id, waiting_of
from flowstate.state import State
from flowstate.timers import TIMER, WAIT_TIMER

if TYPE_CHECKING:
    from flowstate.testing.simulation.world import World

__all__ = ["RULES", "tally_of"]


def _is_delivery(state: State) -> bool:
    """Return whether a message made a revision: of those that keep the step, only the first."""
    return state.transition.cause == "signal" and not state.transition.origin


class _Post:
    """What lies in the mailboxes of a world, and who waits, at some point of its log.

    Attributes:
        kept: by the ids of receivers, what is in their mailboxes: names and texts.
        waiting: by the ids of those that wait, the names of the messages that they wait for.
    """

    def __init__(self, world: "World") -> None:
        self.kept: dict[str, list[tuple[str, str]]] = {}
        self.waiting: dict[str, tuple[str, ...]] = {}
        self.receivers = {mailbox_id(plan.id): plan.id for plan in world.plans}
        self.receivers |= {plan.id: plan.id for plan in world.plans}

    def of(self, states: Sequence[State]) -> set[str]:
        """Return the receivers that a commit is about."""
        return {self.receivers[state.id] for state in states if state.id in self.receivers}

    def take(self, states: Sequence[State]) -> None:
        """Go on behind a commit."""
        for state in states:
            id = self.receivers.get(state.id)
            if id is not None and state.id != id:
                self.kept[id] = _content_of(state)
            elif id is not None and (waiting := waiting_of(state)) is not None:
                self.waiting[id] = waiting.names
            else:
                self.waiting.pop(state.id, None)

    def texts(self, id: str) -> list[str]:
        """Return the texts in a mailbox, the oldest first."""
        return [text for _, text in self.kept.get(id, ())]

    def stranded(self, id: str) -> list[str]:
        """Return what lies there for a receiver although it waits."""
        names = self.waiting.get(id, ())
        return [text for name, text in self.kept.get(id, ()) if name in names]


def _content_of(mailbox: State) -> list[tuple[str, str]]:
    if mailbox.transition.cause == "forget":
        return []
    messages = Mailbox.of(mailbox).messages
    return [(each.name, msgspec.json.decode(each.value, type=str)) for each in messages]


def _text_of(state: State) -> str:
    """Return the text of the message that made a revision."""
    return state.get(str, state.transition.annotations[SIGNAL])


def _acknowledged(world: "World") -> dict[str, float]:
    letters = world.clients.letters
    return {each.text: each.acknowledged_at for each in letters if each.acknowledged_at is not None}


def _commits(world: "World") -> Iterator[tuple[float, tuple[State, ...]]]:
    """Iterate over the commits that wrote revisions, with their times."""
    for states in world.store.applied.values():
        if states:
            yield world.store.times[states[0].rev - 1], states


def _messages_are_taken_once(world: "World") -> Iterator[str]:
    """A message leaves its mailbox by the commit that delivers it, or with its receiver."""
    post, acknowledged = _Post(world), _acknowledged(world)
    taken: dict[str, set[str]] = {}  # By receiver, in its present life.
    for at, states in _commits(world):
        given = [_text_of(state) for state in states if _is_delivery(state)]
        before = {id: post.texts(id) for id in post.of(states)}
        post.take(states)
        for id, texts in before.items():
            now = post.texts(id)
            if len(now) > len({*now}) or not {*now}.isdisjoint(given):
                yield f"{id} is to take something twice: {now} is there, and {given} was taken"
            gone = {*texts} - {*now, *given}
            if not _is_forgotten(states) and any(acknowledged.get(each, at) < at for each in gone):
                yield f"{gone} is gone from the mailbox of {id}, and was not taken"
        for state in states:
            if _is_delivery(state):
                text = _text_of(state)
                if text in taken.setdefault(state.id, set()):
                    yield f"{state.id}@{state.rev} has taken {text} before"
                taken[state.id].add(text)
            elif state.transition.cause == "forget":
                taken.pop(state.id, None)


def _the_oldest_is_taken(world: "World") -> Iterator[str]:
    """What is taken out of a mailbox is the oldest message with its name."""
    post = _Post(world)
    for _, states in _commits(world):
        for state in filter(_is_delivery, states):
            name, text = state.transition.annotations[SIGNAL], _text_of(state)
            older = [each for named, each in post.kept.get(state.id, ()) if named == name]
            if text in older[1:]:
                yield f"{state.id}@{state.rev} took {text}, and {older} were there"
        post.take(states)


def _is_forgotten(states: Sequence[State]) -> bool:
    return any(state.transition.cause == "forget" for state in states)


def _no_message_is_lost(world: "World") -> Iterator[str]:
    """What was acknowledged was taken, or was there when its receiver ended."""
    there: set[str] = set()
    for state in world.store.log:
        if _is_delivery(state):
            there.add(_text_of(state))
    ids = {mailbox_id(plan.id) for plan in world.plans}
    for state in world.store.log:
        if state.id in ids:
            there.update(text for _, text in _content_of(state))
    for text in _acknowledged(world).keys() - there:
        yield f"message {text} was acknowledged, and is nowhere"


def _none_waits_for_what_is_there(world: "World") -> Iterator[str]:
    """Nothing waits while its message is there, once that was acknowledged."""
    post, acknowledged = _Post(world), _acknowledged(world)
    for at, states in _commits(world):
        for id in post.of(states):
            for text in post.stranded(id):
                if acknowledged.get(text, at) < at:
                    yield f"{id} has waited until {at:.3f}, and {text} was there"
        post.take(states)
    for id in post.waiting:
        if not acknowledged.keys().isdisjoint(post.stranded(id)):
            yield f"{id} waits without an end, and {post.texts(id)} is there"


def _timeouts_end_with_their_waits(world: "World") -> Iterator[str]:
    for state in world.store.log:
        if WAIT_TIMER in state.timers and waiting_of(state) is None:
            yield f"{state.id}@{state.rev} does not wait, and has the timeout of a wait"


def _keys_are_new_once(world: "World") -> Iterator[str]:
    """Of those who send a message with one key, one is told that it is new, in each life."""
    for letter in world.clients.letters:
        if letter.new > max(1, world.store.lives[mailbox_id(letter.to)]):
            yield f"message {letter.text} was new {letter.new} times"


RULES = (
    _messages_are_taken_once,
    _the_oldest_is_taken,
    _no_message_is_lost,
    _none_waits_for_what_is_there,
    _timeouts_end_with_their_waits,
    _keys_are_new_once,
)


def tally_of(world: "World") -> Counter[str]:
    """Return how often what was seen of messages."""
    counts: Counter[str] = Counter()
    post = _Post(world)
    for _, states in _commits(world):
        given = [_text_of(state) for state in states if _is_delivery(state)]
        for id in post.of(states):
            before, was_waiting = {*post.texts(id)}, id in post.waiting
            counts["messages taken from mailboxes"] += not before.isdisjoint(given)
            counts["messages to those who wait"] += was_waiting and bool({*given} - before)
        post.take(states)
    for state in world.store.log:
        is_timeout = state.transition.annotations.get(TIMER) == WAIT_TIMER
        counts["receives that timed out"] += is_timeout and not state.transition.origin
    letters = world.clients.letters
    counts["messages acknowledged"] = sum(bool(letter.calls) for letter in letters)
    counts["keys seen before"] = sum(letter.calls - letter.new for letter in letters)
    return counts
