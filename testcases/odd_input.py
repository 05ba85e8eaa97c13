"""Odd but good input is kept exactly, kept apart, and found again."""

from datetime import datetime, timedelta, timezone

from flowstate.commands import Commit, Delay, Stack, StoreData, Transit, Unstack
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import end, know

__all__ = ["CASES"]

BIG = "x" * 1024 * 1024
EAST = timezone(timedelta(hours=14))
DAY = timedelta(days=1)
GOOD_TEXTS = (
    "plain",
    " ",
    " space around ",
    "\N{PARTY POPPER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "cafe\N{COMBINING ACUTE ACCENT}",
    "Ünïcode",
    "UPPER",
    "upper",
    "'single' \"double\" `back`",
    "%s %(x)s %%",
    "{} {0} {{x}}",
    "*",
    "?[a-z]",
    "a\nb\r\n\tc",
    ".leading",
    "../../up",
    "a:b",
    "a,b;c",
    "\\ \\u0000 \\n",
    "-- ; DROP TABLE log",
    "null",
    "0",
    "\x01\x1f\x7f",
    "\N{REPLACEMENT CHARACTER}\ufeff",
    "\U0010ffff",
    "x" * 512,
    "é" * 256,
)


@case()
async def odd_ids_and_labels(h: Harness) -> None:
    """G14: odd but good text is kept exactly, kept apart, and found again."""
    know(h, "work")
    for n, text in enumerate(GOOD_TEXTS):
        ctx = h.ctx(text, labels={text: "key", "value": text}, annotations={text: text})
        await h.engine.do(Commit(Transit(ctx, "work", {text: text})))
        check(ctx.committed.rev, n + 1, f"revision of {text!r}")
    for n, text in enumerate(GOOD_TEXTS):
        found = await h.engine.get_state(text)
        check((found.id, found.rev), (text, n + 1), "id and revision")
        check(found.labels, {text: "key", "value": text}, f"labels of {text!r}")
        notes = (found.annotations, found.transition.annotations)
        check(notes, ({text: text}, {text: text}), f"annotations of {text!r}")
        for labels in ({text: "key"}, {"value": text}, {"value": text, text: "key"}):
            page = await h.engine.get_states(labels=labels)
            check(list(page.states), [found], f"states with {labels}")
            latest = await h.engine.get_states(labels=labels, latest_only=True)
            check(list(latest.states), [found], f"latest states with {labels}")
    async with h.engine.watch(labels=[{"value": text} for text in GOOD_TEXTS]) as states:
        ids = [(await anext(states)).id for _ in GOOD_TEXTS]
    check(ids, list(GOOD_TEXTS), "ids of a watch")


@case()
async def odd_flows_aliases_and_blobs(h: Harness) -> None:
    """G14: odd but good text names flows, aliases and stacks."""
    for text in GOOD_TEXTS:
        h.flows.set(text, end)
        ctx = h.ctx(f"via {text}"[:200])
        ctx.data[text] = Data(text.encode(), {text: text})
        name = text[:200]
        await h.engine.do(Stack(ctx, h.ctx(text), name))
        await h.engine.do(Commit(Transit(ctx, text), StoreData(ctx, text)))
        loaded, into = StateContext(await h.engine.get_state(ctx.current.id)), h.ctx("into")
        check(loaded.current.transition.to, text, "flow")
        data = await h.engine.get_data(loaded, text)
        check((data.blob, data.annotations), (text.encode(), {text: text}), "data")
        await h.engine.do(Unstack(loaded, into, name))
        check(into.current.id, text, "id of the stacked state")
        await h.engine.do(Commit(Delay(loaded, text, DAY, annotations={text: text})))
        page = await h.engine.get_delayed_states()
        delays = [(d.state.id, d.to, d.annotations) for d in page.delayed if d.to == text]
        check(delays, [(loaded.current.id, text, {text: text})], "delays")


@case()
async def largest_good_input(h: Harness) -> None:
    """G14: what is just within the bounds is taken."""
    know(h, "work")
    labels = {f"{n:02}" + "k" * 510: "v" * 512 for n in range(64)}
    notes = {"k": BIG[:-1]}
    ctx = h.ctx("i" * 512, labels=labels, annotations=notes)
    await h.engine.do(Commit(Transit(ctx, "work", notes)))
    found = await h.engine.get_state("i" * 512)
    check(found.labels == labels, True, "labels")
    check(found.annotations == notes == found.transition.annotations, True, "annotations")
    page = await h.engine.get_states(labels=labels, limit=1_000)
    check([s.rev for s in page.states], [1], "states with all 64 labels")
    page = await h.engine.get_states(labels=[{"a": str(n)} for n in range(100)])
    check(list(page.states), [], "states with one of a hundred labels")


@case()
async def times_of_other_zones(h: Harness) -> None:
    """G14: times of any zone are taken as the moments that they are."""
    know(h, "work")
    await h.engine.do(
        Commit(Delay(h.ctx("a"), "work", until=datetime(2040, 1, 1, 14, tzinfo=EAST)))
    )
    (delay,) = (await h.engine.get_delayed_states()).delayed
    check(delay.due.isoformat(), "2040-01-01T00:00:00+00:00", "due")
    for hour, count in ((13, 0), (14, 1)):
        page = await h.engine.get_delayed_states(until=datetime(2040, 1, 1, hour, tzinfo=EAST))
        check(len(page.delayed), count, f"delays until {hour} o'clock")


CASES: tuple[Case, ...] = (
    odd_ids_and_labels,
    odd_flows_aliases_and_blobs,
    largest_good_input,
    times_of_other_zones,
)
