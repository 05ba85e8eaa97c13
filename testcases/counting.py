"""How many states there are, by labels and status, without reading them."""

from itertools import product

from msgspec.structs import replace

from flowstate.driver import StateQuery, Writes
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.state import State, Status, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import encoded, stored

__all__ = ["CASES"]

X, Y, ONE = (
    FrozenDict({key: value}) for key, value in (("kind", "x"), ("kind", "y"), ("tier", "1"))
)
BOTH = FrozenDict({"kind": "x", "tier": "1"})
LABELS: tuple[tuple[FrozenDict[str, str], ...], ...] = (
    (),
    (X,),
    (BOTH,),
    (X, Y),
    (X, BOTH, ONE),
    (FrozenDict({"kind": "z"}),),
    (FrozenDict({"kind": "z"}), Y),
    (FrozenDict({"KIND": "x"}),),
)
STATUSES = (None, *Status)


async def _compare(h: Harness, expected: list[State], when: str) -> None:
    """Look whether every count is that of the latest revisions, which are ``expected``."""
    for labels, status in product(LABELS, STATUSES):
        wanted = [
            state
            for state in expected
            if (not labels or any(each.items() <= state.labels.items() for each in labels))
            and (status is None or state.status is status)
        ]
        found = await h.driver.count(StateQuery(labels=labels, status=status))
        check(found, len(wanted), f"{when}: how many with {labels} and {status}")


def _states() -> list[State]:
    kinds = (X, Y, ONE, BOTH, EMPTY)
    return [
        State(f"s{n}", 0, kinds[n % 5], transition=Transition("a"), status=[*Status][n % 3])
        for n in range(45)
    ]


@case()
async def counts_of_states(h: Harness) -> None:
    """G13: a count is how many latest revisions there are, each once, by labels and status."""
    await _compare(h, [], "in an empty store")
    states = list(await stored(h, Writes("fill", tuple(_states()))))
    await _compare(h, states, "at first")
    moved = [replace(state, status=Status.ENDED, labels=BOTH) for state in states[::2]]
    states = [*states[1::2], *await stored(h, Writes("move", tuple(moved)))]
    await _compare(h, states, "once some have moved on")
    (verdict,) = await h.driver.commit([encoded(Writes("stale", (*states[:3], State("s0"))))])
    check(isinstance(verdict, tuple), False, "whether the store takes a state twice")
    await _compare(h, states, "after a refusal")
    await h.driver.compact(10_000)
    await _compare(h, states, "once the log is compacted")
    await stored(h, Writes("forget", tuple(states[:10]), forgets=tuple(range(1, 10))))
    states = [*states[10:], states[0]]
    await _compare(h, states, "once some are forgotten")
    states += await stored(h, Writes("again", (State("s3", labels=X), State("new", labels=Y))))
    await _compare(h, states, "once some have begun again")
    await h.driver.compact(10_000)
    await _compare(h, states, "in the end")


@case()
async def counts_of_many_states(h: Harness) -> None:
    """G13: a count is of all states, however many answer it."""
    size = h.driver.max_batch_size
    batch = [
        encoded(Writes(f"{n}", tuple(State(f"{n}.{k}", labels=X) for k in range(100))))
        for n in range(21)
    ]
    for start in range(0, len(batch), size):
        await h.driver.commit(batch[start : start + size])
    for query in (StateQuery(), StateQuery(labels=(X,)), StateQuery(status=Status.ACTIVE)):
        check(await h.driver.count(query), 2_100, f"how many with {query}")


@case("durable")
async def counts_survive(h: Harness) -> None:
    """G7: a count is the same after the store was closed and opened."""
    states = list(await stored(h, Writes("fill", tuple(_states()))))
    await h.reopen()
    await _compare(h, states, "after that")


@case("shared")
async def counts_elsewhere(h: Harness) -> None:
    """G5: what was committed is counted at once, also by another driver of the store."""
    async with h.other_driver() as other:
        check(await other.count(StateQuery()), 0, "how many at first")
        (state,) = await stored(h, Writes("one", (State("a", labels=X),)))
        check(await other.count(StateQuery(labels=(X,))), 1, "how many after a commit")
        await stored(h, Writes("forget", (state,), forgets=(0,)))
        check(await other.count(StateQuery(labels=(X,))), 0, "how many once it is forgotten")


@case("damage")
async def counts_of_damaged_states(h: Harness) -> None:
    """G15: a state that cannot be read counts like any other."""
    states = tuple(State(id, labels=X, status=Status.PAUSED) for id in ("bad", "good", "newer"))
    await stored(h, Writes("fill", states))
    await h.damage("revision", "bad")
    await h.damage("newer revision", "newer")
    for query in (StateQuery(), StateQuery(labels=(X,)), StateQuery(status=Status.PAUSED)):
        check(await h.driver.count(query), 3, f"how many with {query}")


CASES: tuple[Case, ...] = (
    counts_of_states,
    counts_of_many_states,
    counts_survive,
    counts_elsewhere,
    counts_of_damaged_states,
)
