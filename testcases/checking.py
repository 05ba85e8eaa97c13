"""A registry is held against a store: what lives there that could not go on with it?"""

from datetime import timedelta

from msgspec import Struct

from flowstate.checking import Finding, Report
from flowstate.checking import check as check_store
from flowstate.commands import Commit, Delay, End, Pause, SetTimer, Transit
from flowstate.errors import InvalidInputError
from flowstate.registry import FlowRegistry
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import end, know, raised

__all__ = ["CASES"]

DAY = timedelta(days=1)


class Order(Struct):
    """What the programs of today want."""

    amount: int


def _registry(*flows: str) -> FlowRegistry:
    registry = FlowRegistry()
    for flow in flows:
        registry.set(flow, end)
    return registry


def _found(report: Report) -> list[tuple[str, str, int, tuple[str, ...]]]:
    return [(each.problem, each.flow, each.count, each.ids) for each in report.findings]


@case()
async def check_of_an_empty_store(h: Harness) -> None:
    """G11: nothing lives there, so nothing is wrong."""
    report = await check_store(h.driver, FlowRegistry())
    check((report.ok, bool(report), report.findings), (True, False, ()), "report")
    check(str(report), "everything in the store can go on", "text")


@case()
async def check_finds_what_lives_in_unknown_flows(h: Harness) -> None:
    """G11: active and paused states, delays and timers; what has ended or was never sent is not."""
    know(h, "kept", "gone", "paused", "later", "alarm")
    for number in range(12):
        await h.engine.do(Commit(Transit(h.ctx(f"active {number:02}"), "gone")))
    paused, ended, timed = h.ctx("paused"), h.ctx("ended"), h.ctx("timed")
    await h.engine.do(Commit(Transit(paused, "paused"), Pause(paused)))
    await h.engine.do(Commit(Transit(ended, "gone"), End(ended)))
    await h.engine.do(Commit(Pause(h.ctx("unsent"))))
    await h.engine.do(Commit(Delay(h.ctx("delayed"), "later", after=DAY)))
    await h.engine.do(Commit(Transit(timed, "kept"), SetTimer(timed, "t", "alarm", after=DAY)))
    report = await check_store(h.engine, _registry("kept"))
    ids = tuple(f"active {number:02}" for number in range(10))
    expected = [
        ("unknown flow", "gone", 12, ids),
        ("unknown flow", "paused", 1, ("paused",)),
        ("unknown flow", "alarm", 1, ("timed",)),
        ("unknown flow", "later", 1, ("delayed",)),
    ]
    check(sorted(_found(report)), sorted(expected), "findings")
    check(
        str(report).splitlines()[1], "unknown flow: 1 paused states in flow 'paused': 'paused'", ""
    )
    report = await check_store(h.engine)
    check(_found(report), [], "with the flows of the engine")


@case()
async def check_knows_aliases_and_declared_flows(h: Harness) -> None:
    """G11: they count as known, but not an alias of nothing."""
    know(h, "old", "elsewhere", "lost")
    for flow in ("old", "elsewhere", "lost"):
        await h.engine.do(Commit(Transit(h.ctx(flow), flow)))
    registry = _registry("new")
    registry.alias("old", "new")
    registry.declare("elsewhere")
    registry.alias("lost", "nowhere")
    report = await check_store(h.driver, registry)
    expected = [("alias", "lost", 0, ()), ("unknown flow", "lost", 1, ("lost",))]
    check(_found(report), expected, "findings")


@case()
async def check_finds_failures_that_go_nowhere(h: Harness) -> None:
    """G11: of registered flows, and of states that say otherwise themselves."""
    registry = _registry("work")
    registry.set("charge", end, on_failure="refund")
    registry.set("ship", end, on_failure="work")
    know(h, "work")
    for id, to in (("a", "nowhere"), ("b", "nowhere"), ("c", "charge")):
        ctx = h.ctx(id)
        ctx.set_policy(on_failure=to)
        await h.engine.do(Commit(Transit(ctx, "work")))
    report = await check_store(h.driver, registry)
    expected = [("on_failure", "refund", 0, ()), ("on_failure", "nowhere", 2, ("a", "b"))]
    check(_found(report), expected, "findings")


@case()
async def check_finds_values_that_do_not_decode(h: Harness) -> None:
    """G11: by type, in a sample of each flow; what has no such value is not wrong."""
    know(h, "work")
    for id, value in (("right", Order(5)), ("wrong", {"amount": "five"}), ("none", None)):
        ctx = h.ctx(id)
        if value is not None:
            ctx.put(value, "order")
        await h.engine.do(Commit(Transit(ctx, "work")))
    report = await check_store(h.driver, _registry("work"), values={"order": Order})
    check(_found(report), [("value", "work", 1, ("wrong",))], "findings")
    check("amount" in report.findings[0].error, True, "where in the value")
    check((await check_store(h.driver, _registry("work"))).ok, True, "without types")


@case()
async def check_of_many_states_and_flows(h: Harness) -> None:
    """G13: it counts to 1,000, and finds more unknown flows than a page names."""
    flows = [f"flow {number:03}" for number in range(150)]
    know(h, *flows, "many")
    for start in range(0, 1_010, 101):
        steps = [Transit(h.ctx(f"many {start + n}"), "many") for n in range(101)]
        await h.engine.do(Commit(*steps))
    for start in range(0, 150, 75):
        await h.engine.do(Commit(*[Transit(h.ctx(f), f) for f in flows[start : start + 75]]))
    report = await check_store(h.driver, FlowRegistry())
    check({each.flow for each in report.findings}, {*flows, "many"}, "flows")
    (many,) = [each for each in report.findings if each.flow == "many"]
    check((many.count, many.more, len(many.ids)), (1_000, True, 10), "many")
    others = {(each.count, each.more) for each in report.findings if each is not many}
    check(others, {(1, False)}, "the others")


@case("damage")
async def check_names_what_cannot_be_read(h: Harness) -> None:
    """G11: it hides nothing else."""
    know(h, "work", "gone")
    for id in ("a", "b", "c"):
        await h.engine.do(Commit(Transit(h.ctx(id), "gone" if id == "c" else "work")))
    await h.damage("revision", "a")
    report = await check_store(h.driver, _registry("work"))
    found = _found(report)
    check(("unknown flow", "gone", 1, ("c",)) in found, True, "what else there is")
    check([each[0] for each in found].count("damaged"), 1, "damaged")
    damaged: Finding = report.findings[-1]
    check((damaged.count, damaged.ids, bool(damaged.error)), (1, ("a",), True), "which")


@case()
async def check_refuses_bad_input(h: Harness) -> None:
    """G14: a registry is needed, and a sample."""
    error = await raised(InvalidInputError, check_store, h.driver)
    check(error.field, "flows", "field")
    for sample in (0, 1_001, None):
        error = await raised(InvalidInputError, check_store, h.engine, sample=sample)
        check(error.field, "sample", "field")


CASES: tuple[Case, ...] = (
    check_of_an_empty_store,
    check_finds_what_lives_in_unknown_flows,
    check_knows_aliases_and_declared_flows,
    check_finds_failures_that_go_nowhere,
    check_finds_values_that_do_not_decode,
    check_of_many_states_and_flows,
    check_names_what_cannot_be_read,
    check_refuses_bad_input,
)
