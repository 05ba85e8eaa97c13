"""Timers, as the driver sees them: rows among the delays that belong to a state for good."""

from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from flowstate.driver import (
    Claim,
    DelayedState,
    Drop,
    DuePage,
    DueQuery,
    NewDelay,
    NewTimer,
    Seen,
    Verdict,
    Writes,
)
from flowstate.errors import ClaimLostError, RevisionMismatchError
from flowstate.ground.frozen import EMPTY
from flowstate.state import State, Status, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import encoded, stored, timer

__all__ = ["CASES"]

PAST = timedelta(seconds=-10)
NOW = timedelta(0)
HOUR = timedelta(hours=1)
END_OF_TIME = datetime.max.replace(tzinfo=UTC)
WORKING = Transition("work")


async def _page(h: Harness, **query: object) -> DuePage:
    return await h.driver.get_due(DueQuery("delay", **query))  # type: ignore[arg-type]


async def _all(h: Harness) -> list[DelayedState]:
    return list((await _page(h, everything=True)).due)


async def _named(h: Harness) -> list[tuple[str, str, int]]:
    """Return all timers and delays: id, name and the revision of the state."""
    return [(each.id, each.timer, each.state.rev) for each in await _all(h)]


async def _now(h: Harness) -> datetime:
    return (await _page(h)).now


async def _begin(h: Harness, id: str, *timers: NewTimer, **state: object) -> State:
    """Commit a new state with timers."""
    new = State(id, transition=WORKING, **state)  # type: ignore[arg-type]
    (state_of,) = await stored(h, Writes(f"begin {id}", (new,), timers=timers))
    return state_of


def _delay(state: State, due: datetime, put: int | None = None) -> NewDelay:
    return NewDelay(state, "work", EMPTY, due, None, commit=True, body="", put=put)


async def _verdicts(h: Harness, *batch: Writes) -> list[Verdict]:
    """Commit in batches as large as the driver takes them."""
    size, verdicts = h.driver.max_batch_size, list[Verdict]()
    for start in range(0, len(batch), size):
        verdicts += await h.driver.commit([encoded(w) for w in batch[start : start + size]])
    return verdicts


async def _claim(h: Harness, token: str, id: str, holder: str) -> bool:
    (verdict,) = await h.driver.commit([Writes(token, claims=(Claim(id, holder, 60.0),))])
    return not isinstance(verdict, ClaimLostError)


@case()
async def timer_is_on_the_pages_of_what_is_due(h: Harness) -> None:
    """G10: a timer is due as a delay is, by flow, in order, with its name and its state."""
    now = await _now(h)
    state = await _begin(
        h,
        "a",
        timer("t2", now + PAST, name="first", to="one"),
        timer("t1", now + HOUR, name="second", to="two"),
        timer("t0", now + 2 * HOUR, name="third", to="one"),
    )
    (other,) = await stored(h, Writes("b", (State("b"),), delays=(_delay(State("b"), now, 0),)))
    page = await _page(h, flows=("one",), others=True)
    first = DelayedState("t2", state, "one", EMPTY, now + PAST, commit=True, timer="first")
    check((list(page.due), page.more, page.next_at), ([first], False, now + 2 * HOUR), "to one")
    check(list(page.others), ["work"], "other flows with something due")
    page = await _page(h, flows=("two",))
    check((list(page.due), page.next_at, list(page.damaged)), ([], now + HOUR, []), "to two")
    page = await _page(h, until=now + HOUR)
    check([each.id for each in page.due], ["t2", "b.0", "t1"], "until then, in order of time")
    found = [(each.id, each.timer, each.state) for each in await _all(h)]
    names = [("t2", "first", state), ("b.0", "", other), ("t1", "second", state)]
    check(found, [*names, ("t0", "third", state)], "everything")
    page = await _page(h, everything=True, after=(now + PAST, "t2"), limit=2)
    check(([e.id for e in page.due], page.more), (["b.0", "t1"], True), "a page after the first")


@case()
async def puts_keep_timers(h: Harness) -> None:
    """G10: a put drops the delays of its state and leaves its timers, which show the latest."""
    now = await _now(h)
    state = await _begin(h, "a", timer("t", now + PAST))
    check(await _named(h), [("t", "alarm", state.rev)], "timers")
    await stored(h, Writes("delay", delays=(_delay(state, now + HOUR),)))
    check(await _named(h), [("t", "alarm", state.rev), ("delay.0", "", state.rev)], "with a delay")
    for status in (Status.PAUSED, Status.ENDED, Status.ACTIVE):
        (state,) = await stored(h, Writes(f"{status}", (replace(state, status=status),)))
        found = [(each.id, each.state) for each in await _all(h)]
        check(found, [("t", state)], f"once the state is {status}")
    await _begin(h, "other")
    await h.driver.compact(state.rev + 1)
    check(await _named(h), [("t", "alarm", state.rev)], "once the log is compacted")


@case()
async def timer_takes_the_place_of_another(h: Harness) -> None:
    """G10: a timer with the id of another one replaces all of it, its claim too."""
    now = await _now(h)
    state = await _begin(h, "a", timer("t", now + HOUR, to="old"), timer("u", now + HOUR))
    again = timer("t", now + PAST, to="new", name="alarm")
    (state,) = await stored(h, Writes("again", (state,), timers=(again,)))
    found = [(each.id, each.to, each.due) for each in await _all(h)]
    check(found, [("t", "new", now + PAST), ("u", "work", now + HOUR)], "timers")
    check((await _page(h, flows=("old",), everything=True)).due, [], "what goes to the old flow")
    check(await _claim(h, "1", "t", "one"), True, "a claim")
    check(await _claim(h, "2", "t", "two"), False, "a claim by another holder")
    later = timer("t", now + HOUR)
    (state,) = await stored(h, Writes("third", (state,), timers=(later,)))
    check(await _claim(h, "3", "t", "one"), False, "a claim by the holder of before")
    await stored(h, Writes("drop 1", drops=(Drop("t", "one"),)))
    check(len(await _all(h)), 2, "timers after a drop by the holder of before")
    (state,) = await stored(h, Writes("fourth", (state,), timers=(again,)))
    check(await _claim(h, "4", "t", "two"), True, "a claim once the timer is due")
    (state,) = await stored(h, Writes("fifth", (state,), timers=(again,)))
    await stored(h, Writes("drop 2", drops=(Drop("t", ""),)))
    check([each.id for each in await _all(h)], ["u"], "timers after a drop without a holder")


@case()
async def timer_without_a_claim_is_dropped(h: Harness) -> None:
    """G10: a drop without a holder removes what was never claimed, and nothing else."""
    now = await _now(h)
    state = await _begin(h, "a", *(timer(f"t{n}", now + PAST) for n in range(3)))
    await stored(h, Writes("delay", delays=(_delay(state, now + HOUR),)))
    await _claim(h, "claim", "t1", "one")
    drops = tuple(Drop(id, "") for id in ("t0", "t1", "delay.0", "nothing"))
    check(await stored(h, Writes("drop", drops=drops)), (), "the verdict")
    left = [each.id for each in await _all(h)]
    check(left, ["t2", "t1"], "what is left, in the order of time")
    writes = Writes("set", (state,), drops=(Drop("t2", ""),), timers=(timer("t2", now + HOUR),))
    await stored(h, writes)
    due = {each.id: each.due for each in await _all(h)}
    check(due["t2"], now + HOUR, "what the same commit dropped and set")
    refused = Writes("refused", (State("a", 99),), drops=(Drop("t2", ""),))
    (verdict,) = await _verdicts(h, refused)
    assert isinstance(verdict, RevisionMismatchError)
    check("t2" in {each.id for each in await _all(h)}, True, "there after a refused drop")


@case()
async def timers_postpone_nothing(h: Harness) -> None:
    """G11: no timer changes when a state counts as stalled, nor what its delays say."""
    now = await _now(h)
    plain = await _begin(h, "plain")
    held, _ = await stored(
        h,
        Writes(
            "held",
            (State("held", transition=WORKING), State("both", transition=WORKING)),
            timers=(timer("t", now + 9 * HOUR), timer("u", now + PAST, put=1)),
            delays=(_delay(State("both"), now + HOUR, 1),),
        ),
    )
    check(held.delayed_until, None, "until when the state with a timer is delayed")
    stalls = dict[str, timedelta]()
    for id, delay_due in (("plain", None), ("held", None), ("both", now + HOUR)):
        (found,) = await h.driver.get_liveness([id])
        assert found is not None
        check(found.delay_due, delay_due, f"when a delay of {id} is due")
        stalls[id] = (found.stalls_at or END_OF_TIME) - now
    check(stalls["held"] - stalls["plain"] < HOUR, True, "stalls when it would without a timer")
    check(HOUR <= stalls["both"] < 2 * HOUR, True, "stalls by the delay alone")
    both = await h.driver.get_state("both")
    check(both and both.delayed_until, now + HOUR, "delayed until")
    (later,) = await stored(h, Writes("p", (plain,), timers=(timer("v", now + 9 * HOUR),)))
    check(await h.driver.get_state("plain"), later, "the state as it is read")
    check(later.delayed_until, None, "until when it is delayed")


@case()
async def timers_are_news(h: Harness) -> None:
    """G10: who waits for what is due is told of a new timer, and of one that is set again."""
    state = await _begin(h, "a")
    for token in ("set", "again"):
        before = await h.driver.changed(Seen())
        (state,) = await stored(h, Writes(token, (state,), timers=(timer("t", HOUR),)))
        seen = await h.driver.changed(before)
        while seen.head < state.rev or seen.due == before.due:
            seen = await h.driver.changed(seen)


@case("shared")
async def timers_are_news_elsewhere(h: Harness) -> None:
    """G10: a timer is news for other drivers of the store, which read it as it was set."""
    async with h.other_driver() as other:
        before = await other.changed(Seen())
        state = await _begin(h, "a", timer("t", HOUR))
        seen = await other.changed(before)
        while seen.head < state.rev or seen.due == before.due:
            seen = await other.changed(seen)
        page = await other.get_due(DueQuery("delay", everything=True))
        check([(each.id, each.state) for each in page.due], [("t", state)], "timers")


@case()
async def timers_of_a_batch(h: Harness) -> None:
    """G1: commits of a batch set, claim and drop timers in view of each other."""
    now = await _now(h)
    a = await _begin(h, "a", timer("t", now + HOUR))
    past, drop = timer("t", now + PAST), (Drop("u", ""),)
    batch = [
        Writes("1", claims=(Claim("t", "one", 60.0),)),  # It is not due.
        Writes("2", (a,), timers=(past,)),
        Writes("3", (a,), timers=(timer("t", now + 9 * HOUR),)),  # Refused: "a" has moved on.
        Writes("4", claims=(Claim("t", "one", 60.0),)),
        Writes("5", claims=(Claim("t", "two", 60.0),)),
        Writes("6", (State("b"), replace(a, rev=a.rev + 1)), timers=(replace(past, put=1),)),
        Writes("7", claims=(Claim("t", "two", 600.0),)),
        Writes("8", (State("c"),), timers=(timer("u", now + HOUR),)),
        Writes("9", drops=drop),
        Writes("10", (State("d"),), timers=(timer("v", now + HOUR), timer("u", now + HOUR))),
        Writes("11", (State("d"),), drops=(Drop("v", ""),)),  # Refused: "d" is there.
    ]
    refused = [not isinstance(verdict, tuple) for verdict in await _verdicts(h, *batch)]
    expected = [True, False, True, False, True, False, False, False, False, False, True]
    check(refused, expected, "what was refused")
    found = {each.id: each.state.id for each in await _all(h)}
    check(found, {"t": "a", "u": "d", "v": "d"}, "timers, each with its state")
    check(await _claim(h, "12", "t", "one"), False, "a claim by the holder of before")
    check(await _claim(h, "13", "t", "two"), True, "a claim by the last holder")


@case()
async def timers_far_ahead(h: Harness) -> None:
    """G10: times keep microseconds, and a time beyond the year 9999 becomes its last moment."""
    exact = datetime(2999, 12, 31, 23, 59, 59, 999_999, UTC)
    far = timedelta(days=8_000 * 365)
    low = await _now(h)
    timers = (timer("1", exact), timer("2", END_OF_TIME), timer("3", far), timer("4", HOUR))
    await _begin(h, "a", *timers)
    high = await _now(h)
    due = {each.id: each.due for each in await _all(h)}
    expected = {"1": exact, "2": END_OF_TIME, "3": END_OF_TIME}
    check({id: due[id] for id in "123"}, expected, "times")
    check(low + HOUR <= due["4"] <= high + HOUR, True, "an hour from the store's now")


@case()
async def timers_with_odd_names(h: Harness) -> None:
    """G14: names, ids and flows of timers come back as they were, and are not taken for another."""
    texts = ("e\u0301", "é", "E", "e", " ", "'\"\\\n", "{}*%s", "\U0001f600", "x" * 512)
    now = await _now(h)
    timers = [timer(f"t {text}", now + HOUR, name=text, to=text) for text in texts]
    state = await _begin(h, texts[-1], *timers)
    found = {(each.id, each.timer, each.to) for each in await _all(h)}
    check(found, {(f"t {text}", text, text) for text in texts}, "timers")
    for text in texts:
        page = await _page(h, everything=True, flows=(text,))
        check([each.timer for each in page.due], [text], f"what goes to {text!r}")
    drops = tuple(Drop(f"t {text}", "") for text in texts[1:])
    await stored(h, Writes("drop", (state,), drops=drops))
    check([each.timer for each in await _all(h)], [texts[0]], "what is left")


@case()
async def pages_of_timers_miss_nothing(h: Harness) -> None:
    """G10, G13: pages go on where the last one has ended, over timers and delays of equal times."""
    now = await _now(h) + PAST
    for n in range(12):
        state = State(f"s{n}", transition=WORKING)
        timers = [timer(f"t{n} {k}", now - timedelta(seconds=k % 2)) for k in range(4)]
        delays = (_delay(state, now, 0),)
        await stored(h, Writes(f"w{n}", (state,), timers=tuple(timers), delays=delays))
    expected = [(each.due, each.id) for each in (await _page(h, limit=1_000)).due]
    check((len(expected), expected), (60, sorted(expected)), "what is due, in order")
    for limit in (1, 7, 59):
        found, after, more = list[tuple[datetime, str]](), None, True
        while more:
            page = await _page(h, limit=limit, after=after)
            check(len(page.due) <= limit, True, "no more than asked for")
            found += [(each.due, each.id) for each in page.due]
            after, more = page.end or after, page.more
        check(found, expected, f"in pages of {limit}")


@case()
async def large_states_of_timers_come_in_pages(h: Harness) -> None:
    """G13: a page ends when the states of its timers are large, and the next one goes on."""
    big = {"note": "x" * 900_000}
    now = await _now(h) + PAST
    timers = [timer(f"t{n:02}", now, name=f"{n}") for n in range(40)]
    await _begin(h, "big", *timers, annotations=big)
    found, after, more = list[str](), None, True
    while more:
        page = await _page(h, limit=100, after=after)
        check(bool(page.due), True, "something on the page")
        found += [each.id for each in page.due]
        after, more = page.end or after, page.more
    check(found, [each.id for each in timers], "timers")


@case()
async def replay_sets_no_timer(h: Harness) -> None:
    """G8: writes that are given once more set no timer that has fired, or was set again."""
    now = await _now(h)
    writes = Writes("begin a", (State("a", transition=WORKING),), timers=(timer("t", now + PAST),))
    (state,) = await stored(h, writes)
    await _verdicts(h, writes)
    check(await _named(h), [("t", "alarm", state.rev)], "timers")
    await stored(h, Writes("fire", (state,), drops=(Drop("t", ""),)))
    await _verdicts(h, writes)
    check(await _named(h), [], "timers once it has fired")


@case()
async def timer_of_a_state_without_a_latest_revision(h: Harness) -> None:
    """G10: a timer that was left behind hides nothing, is dropped, and is of what has the id."""
    now = await _now(h)
    left, kept = timer("t", now + PAST), timer("u", now + PAST)
    state, other = await _begin(h, "a", left), await _begin(h, "b", kept)
    ended = replace(state, status=Status.ENDED)
    await stored(h, Writes("forget", (ended,), forgets=(0,)))
    found = {each.id: each.state for each in await _all(h)}
    check(found.pop("t", State("a")), State("a"), "the state of the timer, if the timer is shown")
    check(found, {"u": other}, "the other timers")
    check(list((await _page(h)).damaged), [], "what is damaged")
    again = await _begin(h, "a", timer("t", now + HOUR))
    check({each.id: each.state for each in await _all(h)}, {"t": again, "u": other}, "timers then")
    (last,) = await stored(h, Writes("again", (replace(again, status=Status.ENDED),), forgets=(0,)))
    await stored(h, Writes("drop", drops=(Drop("t", ""),)))
    await h.driver.compact(last.rev + 1)
    check([each.id for each in await _all(h)], ["u"], "timers once it is dropped")


@case("durable")
async def timers_survive(h: Harness) -> None:
    """G7, G10: timers, and who claimed them, are there after the store was closed and opened."""
    now = await _now(h)
    await _begin(h, "a", timer("t", now + PAST), timer("u", now + HOUR))
    await _claim(h, "1", "t", "one")
    before = await _all(h)
    await h.reopen()
    check(await _all(h), before, "timers")
    check(await _claim(h, "2", "t", "two"), False, "a claim by another holder")


@case("damage")
async def damaged_timers(h: Harness) -> None:
    """G15: a timer that cannot be read, or whose state cannot, is named and hides no other."""
    now = await _now(h)
    for id in ("bad", "good", "newer", "of bad", "of newer"):
        await _begin(h, id, timer(f"t {id}", now + PAST))
    await h.damage("delay", "t bad")
    await h.damage("newer delay", "t newer")
    await h.damage("revision", "of bad")
    await h.damage("newer revision", "of newer")
    page = await _page(h)
    check([each.id for each in page.due], ["t good"], "timers")
    told = sorted((bad.id, bad.state_id, bad.due) for bad in page.damaged)
    names = ("bad", "newer", "of bad", "of newer")
    check(told, [(f"t {id}", id, now + PAST) for id in names], "damaged timers")
    check(all(bad.error for bad in page.damaged), True, "reasons")
    drops = tuple(Drop(f"t {id}", "") for id in names)
    await stored(h, Writes("drop", drops=drops))
    page = await _page(h)
    check(([each.id for each in page.due], list(page.damaged)), (["t good"], []), "after drops")


CASES: tuple[Case, ...] = (
    timer_is_on_the_pages_of_what_is_due,
    puts_keep_timers,
    timer_takes_the_place_of_another,
    timer_without_a_claim_is_dropped,
    timers_postpone_nothing,
    timers_are_news,
    timers_are_news_elsewhere,
    timers_of_a_batch,
    timers_far_ahead,
    timers_with_odd_names,
    pages_of_timers_miss_nothing,
    large_states_of_timers_come_in_pages,
    replay_sets_no_timer,
    timer_of_a_state_without_a_latest_revision,
    timers_survive,
    damaged_timers,
)
