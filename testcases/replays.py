"""Tokens and batches, as the driver sees them: applied once, judged one after the other."""

from collections.abc import Sequence
from datetime import timedelta

from msgspec.structs import replace

from flowstate.data import Data, DataRef, checksum_of
from flowstate.driver import DueQuery, NewDelay, StateQuery, Verdict, Writes
from flowstate.errors import DataNotFoundError, RevisionMismatchError
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.state import State, Transition
from flowstate.testcases.harness import Harness, case, check
from flowstate.testcases.support import encoded

__all__ = ["CASES"]


def _put(token: str, *states: tuple[str, int]) -> Writes:
    """Return writes that put states, each at the revision that it expects."""
    return Writes(token, tuple(State(id, rev, transition=Transition("next")) for id, rev in states))


def _delay(token: str, state: State, *, put: int | None = None) -> Writes:
    delay = NewDelay(state, "next", EMPTY, None, timedelta(hours=1), commit=True, body="", put=put)
    if put is None:
        return Writes(token, checks=((state.id, state.rev),), delays=(delay,))
    return Writes(token, (state,), delays=(delay,))


def _data(blob: bytes) -> Data:
    data = Data(blob)
    return replace(data, rev=1, checksum=checksum_of(data))


async def _commit(h: Harness, *batch: Writes) -> list[Verdict]:
    """Commit in batches as large as the driver takes them."""
    size = h.driver.max_batch_size
    verdicts: list[Verdict] = []
    for start in range(0, len(batch), size):
        verdicts += await h.driver.commit([encoded(w) for w in batch[start : start + size]])
    return verdicts


def _told(verdicts: Sequence[Verdict]) -> list[object]:
    """Return revisions, or the ids of a refusal."""
    told: list[object] = []
    for verdict in verdicts:
        if isinstance(verdict, RevisionMismatchError):
            told.append(verdict.ids)
        elif isinstance(verdict, tuple):
            told.append([state.rev for state in verdict])
        else:
            told.append(type(verdict))
    return told


async def _log(h: Harness) -> list[tuple[int, str]]:
    found = await h.driver.get_states(StateQuery(limit=1_000))
    return [(state.rev, state.id) for state in found.states]


async def _delay_ids(h: Harness) -> list[str]:
    found = await h.driver.get_due(DueQuery("delay", everything=True))
    return [delay.id for delay in found.due]


@case()
async def token_is_applied_once(h: Harness) -> None:
    """G8: the same writes, given once more, write nothing: they were committed or are refused."""
    writes = _put("first", ("a", 0), ("b", 0))
    (verdict,) = await _commit(h, writes)
    assert isinstance(verdict, tuple)
    check([(state.id, state.rev) for state in verdict], [("a", 1), ("b", 2)], "the verdict")
    log = await _log(h)
    for _ in range(2):
        (again,) = await _commit(h, writes)
        assert again == verdict or isinstance(again, RevisionMismatchError)
        check(await _log(h), log, "the log")
        await _commit(h, _put("second", ("a", 1)))
        log = await _log(h)
    check([rev for rev, _ in log], [1, 2, 3], "revisions")


@case()
async def token_is_recognised_by_its_content(h: Harness) -> None:
    """G8: other writes under a token that was used are judged, and not taken for a replay."""
    await _commit(h, _put("same", ("a", 0)))
    (verdict,) = await _commit(h, _put("same", ("b", 0)))
    check(_told([verdict]), [[2]], "the verdict of other writes")
    (verdict,) = await _commit(h, _put("same", ("a", 0)))
    assert isinstance(verdict, RevisionMismatchError) or _told([verdict]) == [[1]]
    changed = Writes("same", (State("a", labels=FrozenDict({"k": "v"})),))
    check(_told(await _commit(h, changed)), [("a",)], "the verdict of another content")
    check(await _log(h), [(1, "a"), (2, "b")], "the log")


@case()
async def token_of_a_refusal_is_refused_again(h: Harness) -> None:
    """G8: writes that were refused write nothing when they are given once more."""
    await _commit(h, _put("first", ("a", 0)), _put("second", ("b", 0)))
    writes = _put("refused", ("a", 0), ("b", 2), ("c", 7))
    for _ in range(2):
        check(_told(await _commit(h, writes)), [("a", "c")], "the ids")
    check(await _log(h), [(1, "a"), (2, "b")], "the log")


@case()
async def token_of_a_delay_is_applied_once(h: Harness) -> None:
    """G8, G10: a delay that is given once more is stored once, with or without a state."""
    (verdict,) = await _commit(h, _delay("with state", State("a"), put=0))
    assert isinstance(verdict, tuple)
    alone = _delay("alone", verdict[0])
    check(await _commit(h, alone), [()], "the verdict of a delay by itself")
    await _commit(h, _put("other", ("b", 0)))
    await _commit(h, _delay("with state", State("a"), put=0), alone)
    check(sorted(await _delay_ids(h)), ["alone.0", "with state.0"], "the delays")
    await _commit(h, _put("moved on", ("a", 1)))
    check(_told(await _commit(h, alone)), [("a",)], "the verdict once the state has moved on")
    check(await _delay_ids(h), [], "the delays of a state that moved on")


@case()
async def token_of_data_is_applied_once(h: Harness) -> None:
    """G8: data that is given once more is stored once, also when it is stored by itself."""
    data = _data(b"blob")
    writes = Writes("data", data=(data,))
    for _ in range(2):
        check(await _commit(h, writes), [()], "the verdict")
    ref = FrozenDict({"blob": DataRef(1, data.checksum)})
    put = Writes("put", (State("a", data=ref),), needs=(data.checksum,))
    await _commit(h, put)
    await _commit(h, put)
    check(await h.driver.get_data(data.checksum), replace(data, rev=0), "the data")
    check(await _log(h), [(1, "a")], "the log")


@case()
async def batch_is_judged_in_order(h: Harness) -> None:
    """G1, G2, G4: each commit of a batch has its own verdict, in view of those before it."""
    verdicts = await _commit(
        h,
        _put("1", ("a", 0)),
        _put("2", ("a", 0), ("b", 0)),  # "a" exists by now, so "b" is not written either.
        _put("3", ("b", 0), ("c", 0)),
        _put("4", ("a", 1)),  # What the first commit of the batch has just made it.
        Writes("5", checks=(("b", 2), ("a", 1)), puts=(State("d"),)),
        Writes("6", checks=(("b", 2), ("a", 4)), puts=(State("d"),)),
        _put("7", ("a", 1), ("d", 0), ("c", 3), ("e", 9)),
    )
    expected = [[1], ("a",), [2, 3], [4], ("a",), [5], ("a", "d", "e")]
    check(_told(verdicts), expected, "the verdicts")
    check(await _log(h), [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "d")], "the log")


@case()
async def batch_keeps_what_was_refused_apart(h: Harness) -> None:
    """G1: neither data nor delays of a refused commit are stored with the rest of its batch."""
    good, bad = _data(b"good"), _data(b"bad")
    delay = NewDelay(
        State("b"), "next", EMPTY, None, timedelta(hours=1), commit=True, body="", put=1
    )
    verdicts = await _commit(
        h,
        Writes("1", (State("a"),), data=(good,)),
        Writes("2", (State("a"), State("b")), data=(bad,), delays=(delay,)),
        Writes("3", (State("c"),), needs=(bad.checksum,)),
        Writes("4", (State("c"),), needs=(good.checksum,)),
    )
    expected = [[1], ("a",), DataNotFoundError, [2]]
    check(_told(verdicts), expected, "the verdicts")
    check(await h.driver.get_data(bad.checksum), None, "the data of the refused commit")
    check(await _delay_ids(h), [], "the delays")
    check(await _log(h), [(1, "a"), (2, "c")], "the log")


CASES = (
    token_is_applied_once,
    token_is_recognised_by_its_content,
    token_of_a_refusal_is_refused_again,
    token_of_a_delay_is_applied_once,
    token_of_data_is_applied_once,
    batch_is_judged_in_order,
    batch_keeps_what_was_refused_apart,
)
