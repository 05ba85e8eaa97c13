"""Claims and drops of delays are parts of a commit: granted to one holder, whole or not at all."""

import asyncio
from datetime import timedelta

from flowstate.commands import Commit, Delay, Transit
from flowstate.driver import Claim, DelayedState, Drop, NewDelay, Verdict, Writes
from flowstate.errors import ClaimLostError, RevisionMismatchError
from flowstate.ground.frozen import EMPTY
from flowstate.state import State, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, delays_of, encoded

__all__ = ["CASES"]

NOW = timedelta(0)
HOUR = timedelta(hours=1)


async def _delayed(h: Harness, id: str = "delayed", after: timedelta = NOW) -> DelayedState:
    """Store a delay by itself."""
    ctx = await committed(h, id)
    await h.engine.do(Delay(ctx, "work", after=after, commit=False))
    (delay,) = [delay for delay in await delays_of(h) if delay.state.id == id]
    return delay


async def _commit(h: Harness, writes: Writes) -> Verdict:
    (verdict,) = await h.driver.commit([encoded(writes)])
    return verdict


async def _granted(h: Harness, batch: list[Writes]) -> list[bool]:
    """Commit a batch, as far as the driver takes it at once; return what was not refused."""
    size, verdicts = h.driver.max_batch_size, list[Verdict]()
    for start in range(0, len(batch), size):
        verdicts += await h.driver.commit([encoded(w) for w in batch[start : start + size]])
    return [not isinstance(verdict, ClaimLostError) for verdict in verdicts]


async def _claim(h: Harness, token: str, id: str, holder: str, seconds: float = 60.0) -> bool:
    """Return whether a claim is granted; it must say exactly that."""
    verdict = await _commit(h, Writes(token, claims=(Claim(id, holder, seconds),)))
    if isinstance(verdict, ClaimLostError):
        check(verdict.ids, (id,), "ids of the refusal")
        return False
    check(verdict, (), "verdict of a claim alone")
    return True


async def _due(h: Harness, id: str = "delayed") -> DelayedState:
    (delay,) = [delay for delay in await delays_of(h) if delay.state.id == id]
    return delay


@case()
async def claim_has_one_holder(h: Harness) -> None:
    """G10: a claim goes to one holder, who renews it, and to another only when it has ended."""
    delay = await _delayed(h)
    check(await _claim(h, "1", delay.id, "one"), True, "the first claim")
    held = await _due(h)
    check(timedelta(seconds=50) < held.due - delay.due, True, "due when the claim ends")
    check((held.id, held.state, held.to), (delay.id, delay.state, delay.to), "the rest of it")
    check(await _claim(h, "2", delay.id, "two"), False, "a claim by another holder")
    check((await _due(h)).due, held.due, "due after the refusal")
    check(await _claim(h, "3", delay.id, "one", 90.0), True, "the renewal")
    check((await _due(h)).due > held.due, True, "due later after the renewal")
    check(await _claim(h, "4", delay.id, "one", 0.0), True, "the end of the claim")
    await h.clock.sleep(0.01)
    check(await _claim(h, "5", delay.id, "two"), True, "a claim once the first has ended")
    check(await _claim(h, "6", delay.id, "one"), False, "a claim of the first holder after that")


@case()
async def claim_of_what_is_not_due(h: Harness) -> None:
    """G10: a delay that is not due, or not there, cannot be claimed."""
    delay = await _delayed(h, after=HOUR)
    check(await _claim(h, "1", delay.id, "one"), False, "before its time")
    check(await _due(h), delay, "the delay")
    check(await _claim(h, "2", "nothing.0", "one"), False, "of what was never there")
    ctx = await committed(h, "moving")
    await h.engine.do(Delay(ctx, "work", after=NOW))
    gone = await _due(h, "moving")
    await h.engine.do(Commit(Transit(ctx, "work")))
    check(await _claim(h, "3", gone.id, "one"), False, "of a state that has moved on")


@case()
async def claims_at_the_same_time(h: Harness) -> None:
    """G10: of many who claim a delay at once exactly one gets it."""
    delay = await _delayed(h)
    claims = [_claim(h, f"token {n}", delay.id, f"holder {n}") for n in range(20)]
    check(sorted(await asyncio.gather(*claims)), [False] * 19 + [True], "the answers")


@case()
async def refused_claim_refuses_its_commit(h: Harness) -> None:
    """G1, G10: a commit is refused with its claims, and its claims are refused with it."""
    delay, free = await _delayed(h), await _delayed(h, "free")
    await _claim(h, "1", delay.id, "one")
    put = State("new", transition=Transition("work"))
    claims = (Claim(free.id, "two", 60.0), Claim(delay.id, "two", 60.0))
    verdict = await _commit(h, Writes("2", (put,), claims=claims))
    assert isinstance(verdict, ClaimLostError)
    check(verdict.ids, (delay.id,), "ids of the refusal")
    check(await h.driver.get_state("new"), None, "the state of the refused commit")
    check(await _due(h, "free"), free, "the other delay")
    stale = State("delayed", 7)
    verdict = await _commit(h, Writes("3", (stale,), claims=claims[:1], drops=(Drop("x", "one"),)))
    assert isinstance(verdict, RevisionMismatchError)
    check(await _due(h, "free"), free, "the other delay")
    verdict = await _commit(h, Writes("4", (put,), claims=claims[:1]))
    assert isinstance(verdict, tuple)
    check([state.id for state in verdict], ["new"], "the verdict of a commit with a claim")
    check((await _due(h, "free")).due > free.due, True, "claimed with it")


@case()
async def drop_is_for_the_holder(h: Harness) -> None:
    """G10: the holder drops a delay with a commit; anyone else drops nothing."""
    delay = await _delayed(h)
    check(await _commit(h, Writes("1", drops=(Drop(delay.id, "one"),))), (), "before any claim")
    await _claim(h, "2", delay.id, "one")
    for token, holder in (("3", "two"), ("4", "")):
        check(await _commit(h, Writes(token, drops=(Drop(delay.id, holder),))), (), "verdict")
    check(len(await delays_of(h)), 1, "delays after drops by others")
    put = State("other", transition=Transition("work"))
    refused = Writes("5", (put, State("delayed", 9)), drops=(Drop(delay.id, "one"),))
    assert isinstance(await _commit(h, refused), RevisionMismatchError)
    check(len(await delays_of(h)), 1, "delays after a refused commit")
    verdict = await _commit(h, Writes("6", (put,), drops=(Drop(delay.id, "one"),)))
    assert isinstance(verdict, tuple)
    check([state.id for state in verdict], ["other"], "the verdict of a commit with a drop")
    check(await delays_of(h), [], "delays")
    check(await _commit(h, Writes("7", drops=(Drop(delay.id, "one"),))), (), "of nothing")


@case()
async def claims_in_one_batch(h: Harness) -> None:
    """G1, G10: claims, drops and puts of a batch are judged one after the other."""
    delay = await _delayed(h)
    batch = [
        Writes("1", claims=(Claim(delay.id, "one", 60.0),)),
        Writes("2", claims=(Claim(delay.id, "two", 60.0),)),
        Writes("3", drops=(Drop(delay.id, "two"),)),
        Writes("4", claims=(Claim(delay.id, "one", 30.0),)),
        Writes("5", drops=(Drop(delay.id, "one"),)),
        Writes("6", claims=(Claim(delay.id, "one", 30.0),)),
    ]
    check(await _granted(h, batch), [True, False, True, True, True, False], "the verdicts")
    check(await delays_of(h), [], "delays")


def _new(state: State) -> NewDelay:
    return NewDelay(state, "work", EMPTY, None, NOW, commit=False, body="")


@case()
async def claims_of_delays_of_the_same_batch(h: Harness) -> None:
    """G1, G10: what an earlier commit of a batch has stored can be claimed, or is gone."""
    (state,) = await _commit(h, Writes("0", (State("delayed", transition=Transition("work")),)))  # type: ignore[misc]
    batch = [
        Writes("1", delays=(_new(state),)),
        Writes("2", claims=(Claim("1.0", "one", 60.0),)),
        Writes("3", (state,)),
        Writes("4", claims=(Claim("1.0", "one", 60.0),)),
        Writes("5", delays=(_new(state), _new(state))),
        Writes("6", claims=(Claim("5.0", "one", 60.0),)),
        Writes("7", drops=(Drop("5.0", "one"),)),
        Writes("8", delays=(_new(state),)),
    ]
    expected = [True, True, True, False, True, True, True, True]
    check(await _granted(h, batch), expected, "the verdicts")
    check(sorted(delay.id for delay in await delays_of(h)), ["5.1", "8.0"], "delays")


@case()
async def delays_from_before_the_first_revision(h: Harness) -> None:
    """G10: also the first revision of a state drops the delays that were stored for it."""
    await _commit(h, Writes("1", delays=(_new(State("new")), _new(State("other")))))
    await _commit(h, Writes("2", (State("new", transition=Transition("work")),)))
    check([delay.id for delay in await delays_of(h)], ["1.1"], "delays")


@case("durable")
async def claim_survives(h: Harness) -> None:
    """G7, G10: a claim, and who holds it, is there after the store was closed and opened."""
    delay = await _delayed(h)
    await _claim(h, "1", delay.id, "one", 600.0)
    await h.reopen()
    check(await _claim(h, "2", delay.id, "two"), False, "a claim by another holder")
    check(await _claim(h, "3", delay.id, "one"), True, "the renewal")


CASES: tuple[Case, ...] = (
    claim_has_one_holder,
    claims_of_delays_of_the_same_batch,
    delays_from_before_the_first_revision,
    claim_of_what_is_not_due,
    claims_at_the_same_time,
    refused_claim_refuses_its_commit,
    drop_is_for_the_holder,
    claims_in_one_batch,
    claim_survives,
)
