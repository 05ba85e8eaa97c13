"""What has come out of a run, and how two runs differ."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import Raw, Struct
from msgspec.structs import replace

from flowstate.data import Data
from flowstate.driver import Driver, StateQuery
from flowstate.mailboxes.mailbox import mailbox_id
from flowstate.planning.plan import STACK_PREFIX
from flowstate.planning.steps import FORGET
from flowstate.recovery.dead import DEAD, is_dead, read_dead
from flowstate.recovery_rules import PREFIX
from flowstate.state import State, Status

__all__ = ["Outcome", "differences", "read_outcome"]

W = TypeVar("W")

INTERNAL = "flowstate."  # Begins the ids of the library's own states, whose values have revisions.
LEASES = "flowstate.lease."
PAGE = 1_000
MOST_SHOWN = 200


class Outcome(Struct, Generic[W], frozen=True):
    """What a run has left behind.

    Attributes:
        world: the outside world of the run.
        states: the latest revision of each state that is not forgotten, by id; those of leases are
            left aside.
        data: the blobs that these states refer to, by id and alias.
        log: every revision, those of leases left aside.
    """

    world: W
    states: dict[str, State]
    data: dict[tuple[str, str], Data]
    log: list[State]


async def read_outcome(driver: Driver, world: W) -> Outcome[W]:
    """Read what is in a store."""
    log: list[State] = []
    query = StateQuery(limit=PAGE)
    while True:
        page = await driver.get_states(query)
        log += [state for state in page.states if not state.id.startswith(LEASES)]
        if not page.more:
            break
        query = replace(query, after=page.scanned_to)
    latest = {state.id: state for state in log}
    states = {id: state for id, state in latest.items() if state.transition.cause != FORGET}
    data = {}
    for state in states.values():
        for alias, ref in state.data.items():
            found = await driver.get_data(ref.checksum)
            if found is not None:
                data[state.id, alias] = found
    return Outcome(world, states, data, log)


def differences(
    expected: Outcome[W], found: Outcome[W], ignore: Collection[str] = ()
) -> Iterator[str]:
    """Return how an outcome differs from what was expected, a line for each difference.

    Revisions, times, and what recovery notes in a state are no differences, apart from that it
    ended a state by force. Nor is whether a state that has ended ever needed a mailbox.
    """
    left_over = _mailboxes_left_over(expected) & _mailboxes_left_over(found)
    for id in {**expected.states, **found.states}:
        one, other = expected.states.get(id), found.states.get(id)
        if one is None or other is None:
            if id in left_over:
                continue
            words = ("there is no such state", "there is one")
            yield _line(f"state {id!r}", words[one is not None], words[other is not None])
        else:
            yield from _state_differences(one, other, ignore)
    for key in {**expected.data, **found.data}:
        blobs = [_content(outcome.data.get(key)) for outcome in (expected, found)]
        if key[0] in expected.states and key[0] in found.states and blobs[0] != blobs[1]:
            yield _line(f"data {key[1]!r} of state {key[0]!r}", *map(_short, blobs))


def _mailboxes_left_over(outcome: Outcome[W]) -> set[str]:
    return {mailbox_id(id) for id, each in outcome.states.items() if each.status is Status.ENDED}


def _state_differences(one: State, other: State, ignore: Collection[str]) -> Iterator[str]:
    name = f"state {one.id!r}"
    if is_dead(one) != is_dead(other):
        yield _line(name, _end_of(one), _end_of(other))
    elif one.status != other.status:
        yield _line(f"{name}, status", one.status.value, other.status.value)
    if one.transition.to != other.transition.to:
        yield _line(f"{name}, flow", repr(one.transition.to), repr(other.transition.to))
    if not is_dead(one) and not is_dead(other):
        notes = [_without_marks(state.transition.annotations) for state in (one, other)]
        yield from _mapping_differences(f"{name}, transition annotation", notes, ignore)
    labels = [{k: v for k, v in state.labels.items() if k not in DEAD} for state in (one, other)]
    yield from _mapping_differences(f"{name}, label", labels, ignore)
    annotations = [_without_stacks(state.annotations) for state in (one, other)]
    yield from _mapping_differences(f"{name}, annotation", annotations, ignore)
    if not one.id.startswith(INTERNAL):
        values = [{key: _json(raw) for key, raw in s.values.items()} for s in (one, other)]
        yield from _mapping_differences(f"{name}, value", values, ignore)
    timers = [{key: timer.to for key, timer in state.timers.items()} for state in (one, other)]
    yield from _mapping_differences(f"{name}, timer", timers, ignore)


def _mapping_differences(
    name: str, both: Sequence[Mapping[str, str]], ignore: Collection[str]
) -> Iterator[str]:
    one, other = both
    for key in {**one, **other}:
        if key not in ignore and one.get(key) != other.get(key):
            yield _line(f"{name} {key!r}", _short(one.get(key)), _short(other.get(key)))


def _json(raw: Raw) -> str:
    return bytes(raw).decode()


def _without_marks(annotations: Mapping[str, str]) -> Mapping[str, str]:
    return {key: text for key, text in annotations.items() if not key.startswith(PREFIX)}


def _without_stacks(annotations: Mapping[str, str]) -> Mapping[str, str]:
    """Return annotations with stacked contexts named only: these hold revisions."""
    return {
        key: "stacked" if key.startswith(STACK_PREFIX) else text
        for key, text in annotations.items()
    }


def _end_of(state: State) -> str:
    if not is_dead(state):
        return state.status.value
    dead = read_dead(state)
    return f"ended by force: {dead.reason}" + (f" ({dead.error})" if dead.error else "")


def _content(data: Data | None) -> object:
    if data is None:
        return None
    return (data.blob, dict(data.annotations)) if data.annotations else data.blob


def _short(value: object) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _line(what: str, expected: str, found: str) -> str:
    return f"{what}: {expected} undisturbed, {found} after the crash"
