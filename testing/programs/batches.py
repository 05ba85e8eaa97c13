"""What random programs are made of: writes that no engine makes, given to a driver as they are."""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from random import Random

from msgspec import Raw
from msgspec.structs import replace

from flowstate.codec import DelayBody, encode_body, encode_delay, encode_state
from flowstate.data import Data, DataRef, checksum_of
from flowstate.driver import Claim, Drop, NewDelay, NewTimer, Writes
from flowstate.errors import FlowstateError
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.state import State, Status, Transition
from flowstate.testing.programs.world import FLOWS, World
from flowstate.testing.programs.writes import (
    BLOBS,
    FAR,
    IDS,
    LABELS,
    LONG_PAST,
    TIMERS,
    Operation,
    likely,
)
from flowstate.timers import timer_id

__all__ = ["BATCHES"]

HOLDERS = ("one", "é two")
NO_HOLDER = ""


def _writes(w: World, rng: Random, token: str) -> Writes:
    """Return writes as no engine makes them: what they expect is often wrong."""
    latest = w.model.latest

    def expected(id: str) -> int:
        near = latest.get(id, 0) if likely(rng, 0.8) else w.model.head
        return max(0, near + rng.choice((0, 0, 0, 0, 1, 2, -1)))

    puts = []
    for id in rng.sample(IDS[:6], rng.choice((0, 1, 1, 1, 2, 3))):
        labels = FrozenDict(
            {key or "empty": value for key, value in rng.sample(LABELS, rng.randrange(3))}
        )
        status = rng.choice(list(Status))
        puts.append(State(id, expected(id), labels, EMPTY, Transition("work"), status))
    checks = tuple((id, expected(id)) for id in rng.sample(IDS[:6], rng.choice((0, 0, 0, 1))))
    blob = Data(rng.choice(BLOBS), rev=1)
    checksum = checksum_of(blob)
    blob = replace(blob, checksum=checksum)
    if not puts:
        return _writes_without_puts(w, rng, token, blob)
    brings, refers = likely(rng, 0.2), likely(rng, 0.2)
    if refers or brings:
        puts[0] = replace(puts[0], data=FrozenDict({"blob": DataRef(1, checksum)}))
    forgets = tuple(place for place in range(len(puts)) if likely(rng, 0.15))
    for place in forgets:
        puts[place] = replace(puts[place], status=Status.ENDED, data=EMPTY)
    delays: tuple[NewDelay, ...] = ()
    if likely(rng, 0.2) and len(puts) - 1 not in forgets:
        delays = (_new_delay(puts[-1], len(puts) - 1, rng),)
    keeps = _keeps(w, rng, puts, {*forgets, *(delay.put for delay in delays)})
    needed = puts[0].data and refers and not brings
    drops = (Drop(_delay_id(w, rng), rng.choice((*HOLDERS, NO_HOLDER))),)
    return Writes(
        token,
        tuple(puts),
        () if w.driver.stores_objects else tuple(map(encode_body, puts)),
        checks,
        (blob,) if brings else (),
        delays,
        (checksum,) if needed else (),
        drops=drops if likely(rng, 0.1) else (),
        size=1_000 * (1 + len(puts)),
        timers=tuple(_new_timers(puts, rng)),
        forgets=forgets,
        keeps=keeps,
    )


def _keeps(w: World, rng: Random, puts: list[State], others: set[int | None]) -> tuple[int, ...]:
    """Return which puts keep their delays, and let these be delayed for as long as before."""
    keeps = [
        place
        for place, put in enumerate(puts)
        if put.rev and place not in others and likely(rng, 0.3)
    ]
    for place in keeps:
        before = w.model.log.get(puts[place].rev)
        until = before.delayed_until if before and before.id == puts[place].id else None
        puts[place] = replace(puts[place], delayed_until=until)
    return tuple(keeps)


def _writes_without_puts(w: World, rng: Random, token: str, blob: Data) -> Writes:
    """Return writes that store data, at times with a delay that alone refers to it."""
    if not w.model.latest or likely(rng, 0.5):
        return Writes(token, data=(blob,), size=1_000)
    state = w.model.get(rng.choice(sorted(w.model.latest)))
    blob = replace(blob, annotations=FrozenDict({"of": "a delay"}))
    blob = replace(blob, checksum=checksum_of(blob))
    to, due, body = rng.choice(FLOWS), FAR, Raw(encode_state(state))
    new = NewDelay(
        state,
        to,
        EMPTY,
        due,
        None,
        commit=True,
        body=encode_delay(DelayBody(to, state=body)),
        references=(blob.checksum,),
    )
    checks = ((state.id, state.rev),)
    return Writes(token, checks=checks, data=(blob,), delays=(new,), size=2_000)


def _new_timers(puts: Sequence[State], rng: Random) -> Iterator[NewTimer]:
    """Return rows of timers, whether the states know of them or not."""
    for place, state in enumerate(puts):
        for name in TIMERS:
            if likely(rng, 0.15):
                to, due = rng.choice(FLOWS), rng.choice((LONG_PAST, FAR))
                body = encode_delay(DelayBody(to, timer=name))
                yield NewTimer(timer_id(state.id, name), name, place, to, due, None, body)


def _new_delay(state: State, put: int, rng: Random) -> NewDelay:
    to, due = rng.choice(FLOWS), FAR + timedelta(days=rng.randrange(3))
    references = tuple(ref.checksum for ref in state.data.values())
    return NewDelay(
        state,
        to,
        EMPTY,
        due,
        None,
        commit=True,
        body=encode_delay(DelayBody(to)),
        put=put,
        references=references,
    )


async def batch(w: World, rng: Random) -> None:
    """Give several commits to the driver at once."""
    numbers = range(rng.randint(1, 5))
    await w.commit([_writes(w, rng, _new_token(w, number)) for number in numbers])


def _new_token(w: World, number: int) -> str:
    return f"batch {len(w.sent)} {w.model.head} {number}"


async def replay(w: World, rng: Random) -> None:
    """Give the driver what it has had already: the same writes must not be applied twice."""
    # What a forgotten state began with, it may begin with again.
    sent = [writes for writes in w.sent if writes.puts and _is_refused(w, writes)]
    if sent:
        await w.commit([sent[-1] if likely(rng, 0.5) else rng.choice(sent)])


def _is_refused(w: World, writes: Writes) -> bool:
    try:
        w.model.check(writes, w.earliest())
    except FlowstateError:
        return True
    return False


async def same_token(w: World, rng: Random) -> None:
    """Give the driver other writes under a token that it knows: they are new."""
    sent = [writes for writes in w.sent if writes.puts]
    if sent:
        writes = _writes(w, rng, rng.choice(sent).token)
        await w.commit([replace(writes, delays=())])


def _delay_id(w: World, rng: Random) -> str:
    """Return the id of a delay: one that can be claimed or is, any one, or one that is gone."""
    now = w.earliest()
    due = [each.id for each in w.model.delays.values() if each.due <= now]
    return rng.choice([*w.model.delays, *due, *due, *w.model.holders, "nothing.0"])


async def claim(w: World, rng: Random) -> None:
    """Claim one or two delays, which may be gone, not due, or claimed; at times with more."""
    ids = {_delay_id(w, rng) for _ in range(rng.choice((1, 1, 1, 2)))}
    seconds = rng.choice((0.0, 60.25))
    claims = tuple(Claim(id, rng.choice(HOLDERS), seconds) for id in sorted(ids))
    token = _new_token(w, 0)
    writes = _writes(w, rng, token) if likely(rng, 0.3) else Writes(token)
    await w.commit([replace(writes, claims=claims)])


async def drop(w: World, rng: Random) -> None:
    """Drop a delay, which only its holder can, or without a holder what nothing has claimed."""
    drops = (Drop(_delay_id(w, rng), rng.choice((*HOLDERS, NO_HOLDER))),)
    await w.commit([Writes(_new_token(w, 0), drops=drops)])


BATCHES: dict[str, tuple[int, Operation]] = {
    "batch": (6, batch),
    "replay": (4, replay),
    "same_token": (2, same_token),
    "claim": (4, claim),
    "drop": (2, drop),
}
"""With how often each comes, compared to the others."""
