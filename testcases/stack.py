"""Contexts put into other contexts come out as they went in."""

from flowstate.commands import (
    Command,
    Commit,
    End,
    Pause,
    Resume,
    Stack,
    StoreData,
    Transit,
    Unstack,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.errors import CodecError, InvalidCommandError, RevisionMismatchError
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, know, raised, snapshot

__all__ = ["CASES"]

ODD = {"emoji": "\N{PARTY POPPER}", "quotes": "'\"`", "braces": "{}{0}%s", "lines": "a\nb\t"}


@case()
async def stack_and_unstack(h: Harness) -> None:
    """G3: an uncommitted context comes out of its carrier with every attribute."""
    know(h, "a", "b")
    stacked = h.ctx("stacked", labels={"k": "v"}, annotations=ODD)
    await h.engine.do(Transit(stacked, "a", {"first": "1"}), Transit(stacked, "b"))
    carrier, into = h.ctx("carrier"), h.ctx("into", annotations={"to be": "replaced"})
    before = snapshot(stacked)
    await h.engine.do(Stack(carrier, stacked, "slot"), Unstack(carrier, into, "slot"))
    check(snapshot(into), before, "the context that came out")
    check(snapshot(stacked), before, "the context that went in")
    check(carrier.current.annotations, {}, "annotations of the carrier")


@case()
async def stacked_context_survives_the_store(h: Harness) -> None:
    """G5: a carrier read from the store gives back what was stacked in it."""
    stacked = await committed(h, "stacked", labels={"k": "v"}, annotations=ODD)
    await h.engine.do(Transit(stacked, "work", {"uncommitted": "yes"}))
    carrier = h.ctx("carrier")
    await h.engine.do(Commit(Stack(carrier, stacked, "slot"), Transit(carrier, "work")))
    loaded, into = h.ctx("loaded"), h.ctx("into")
    state = await h.engine.get_state("carrier")
    loaded.current = loaded.committed = state
    await h.engine.do(Unstack(loaded, into, "slot"))
    expected = (stacked.current, stacked.committed, stacked.transitions)
    check((into.current, into.committed, into.transitions), expected, "what came out")
    await h.engine.do(Commit(Transit(into, "work"), End(loaded)))
    check(into.committed.rev, 3, "revision of the next commit")


@case()
async def stacked_with_its_own_commit(h: Harness) -> None:
    """G2: what was stacked by the commit that stored it comes out with that revision."""
    know(h, "work")
    stacked, carrier = h.ctx("stacked"), h.ctx("carrier")
    steps: tuple[Command[None], ...] = (Pause(stacked), Stack(carrier, stacked, "slot"))
    await h.engine.do(Commit(*steps, Transit(carrier, "work")))
    into = h.ctx("into")
    await h.engine.do(Commit(Unstack(carrier, into, "slot"), Resume(into), End(carrier)))
    check(into.current.id, "stacked", "id")
    log = [(s.id, s.rev, s.status) for s in await h.log()]
    expected = [
        ("stacked", 1, Status.PAUSED),
        ("carrier", 2, Status.ACTIVE),
        ("carrier", 3, Status.ENDED),
        ("stacked", 4, Status.ACTIVE),
    ]
    check(log, expected, "log")


@case()
async def stacked_state_moved_on(h: Harness) -> None:
    """G2: what was stacked is stale once its state has moved on, and is refused."""
    know(h, "work")
    for with_commit in (True, False):
        stacked, carrier = h.ctx(f"stacked-{with_commit}"), h.ctx(f"carrier-{with_commit}")
        if not with_commit:
            await h.engine.do(Commit(Pause(stacked)))
        stack = Stack(carrier, stacked, "slot")
        pause = [Pause(stacked)] if with_commit else []
        await h.engine.do(Commit(*pause, stack, Transit(carrier, "work")))
        await h.engine.do(Commit(Transit(stacked, "work")))
        into, head = h.ctx("into"), await h.engine.head()
        before = snapshot(into), snapshot(carrier)
        taken = Commit(Unstack(carrier, into, "slot"), Resume(into), End(carrier))
        error = await raised(RevisionMismatchError, h.engine.do, taken)
        check(error.ids, (stacked.current.id,), "mismatched ids")
        check((snapshot(into), snapshot(carrier)), before, "contexts")
        check(await h.engine.head(), head, "head")


@case()
async def several_stacked(h: Harness) -> None:
    """G3: one carrier holds several contexts by name, also one inside another."""
    carrier, inner = h.ctx("carrier"), h.ctx("inner")
    for name in ("one", "two"):
        await h.engine.do(Stack(carrier, h.ctx(name), name))
    middle = h.ctx("middle")
    await h.engine.do(Stack(middle, inner, "one"), Stack(carrier, middle, "three"))
    found = []
    for name in ("two", "three", "one"):
        into = h.ctx("into")
        await h.engine.do(Unstack(carrier, into, name))
        found.append(into.current.id)
    check(found, ["two", "middle", "one"], "ids")
    out = h.ctx("out")
    await h.engine.do(Unstack(middle, out, "one"))
    check(out.current.id, "inner", "the innermost")


@case()
async def refused_stacks(h: Harness) -> None:
    """G14: a stack that makes no sense is refused, and changes nothing."""
    carrier, other = await committed(h, "carrier"), h.ctx("other")
    await h.engine.do(Stack(carrier, other, "used"))
    damaged = h.ctx("damaged", annotations={"flowstate.stack.slot": "{}"})
    before = [snapshot(ctx) for ctx in (carrier, other, damaged)]
    table: list[tuple[Command[None], type[Exception], str | None]] = [
        (Stack(carrier, carrier, "slot"), InvalidCommandError, "stacked"),
        (Unstack(carrier, carrier, "used"), InvalidCommandError, "into"),
        (Unstack(carrier, other, "empty"), InvalidCommandError, "name"),
        (Unstack(damaged, other, "slot"), CodecError, None),
    ]
    for command, kind, field in table:
        for tried in (command, Commit(command, Pause(carrier))):
            error = await raised(kind, h.engine.do, tried)
            check(getattr(error, "field", None), field, f"field for {tried}")
    late = Commit(Stack(carrier, other, "slot"), Transit(other, "work"))
    refused = await raised(InvalidCommandError, h.engine.do, late)
    check(refused.field, "stacked", "field for a state that is changed after its stack")
    check([snapshot(ctx) for ctx in (carrier, other, damaged)], before, "contexts")
    check(await h.engine.head(), 1, "head")


@case()
async def stack_onto_a_taken_name(h: Harness) -> None:
    """G14: stacking under a name that is taken is refused, and what was there stays."""
    carrier, into = await committed(h, "carrier"), h.ctx("into")
    first, second = h.ctx("first"), h.ctx("second")
    await h.engine.do(Stack(carrier, first, "slot"))
    before = [snapshot(ctx) for ctx in (carrier, second)]
    again = Stack(carrier, second, "slot")
    for tried in (again, Commit(again, Pause(carrier))):
        error = await raised(InvalidCommandError, h.engine.do, tried)
        check(error.field, "name", f"field for {tried}")
    check([snapshot(ctx) for ctx in (carrier, second)], before, "contexts")
    await h.engine.do(Unstack(carrier, into, "slot"))
    check(into.current, h.ctx("first").current, "what came out")
    await h.engine.do(again)
    check(await h.engine.head(), 1, "head")


@case()
async def stacked_context_keeps_its_data(h: Harness) -> None:
    """G13: the data of a stacked context outlives compaction for as long as it is stacked."""
    know(h, "work")
    for is_committed in (False, True):
        caller, callee = h.ctx(f"caller-{is_committed}"), h.ctx(f"callee-{is_committed}")
        if is_committed:
            await h.engine.do(Commit(Transit(caller, "work")))
        caller.data["contract"] = Data(f"signed {is_committed}".encode())
        await h.engine.do(StoreData(caller, "contract"))
        await h.engine.do(Commit(Transit(callee, "work"), Stack(callee, caller, "caller")))
        for n in range(3):
            await committed(h, f"other-{is_committed}-{n}")
        await h.engine.compact(await h.engine.head())
        carrier, back = StateContext(await h.engine.get_state(callee.current.id)), h.ctx("back")
        await h.engine.do(Unstack(carrier, back, "caller"))
        found = await h.engine.get_data(back, "contract")
        check(found.blob, f"signed {is_committed}".encode(), "its data")
        check(carrier.current.data, {}, "data of the carrier")
        await h.engine.do(Commit(Transit(back, "work"), End(carrier)))
        stored = StateContext(await h.engine.get_state(back.current.id))
        check((await h.engine.get_data(stored, "contract")).blob, found.blob, "its data, stored")
        await committed(h, f"last-{is_committed}")
        await h.engine.compact(await h.engine.head())
        check((await h.engine.get_data(stored, "contract")).blob, found.blob, "its data, compacted")


@case()
async def stacks_within_stacks(h: Harness) -> None:
    """G13: calls that nest take room in proportion to their depth, and come out one by one."""
    depth, ctx = 100, h.ctx("frame-0")
    for n in range(1, depth + 1):
        following = h.ctx(f"frame-{n}")
        await h.engine.do(Commit(Pause(following), Stack(following, ctx, "caller")))
        ctx = following
    size = len(ctx.current.annotations["flowstate.stack.caller"])
    check(size < 1_000 * depth, True, f"{size} bytes for {depth} calls")
    ctx = StateContext(await h.engine.get_state(f"frame-{depth}"))
    for n in reversed(range(depth)):
        back = h.ctx("back")
        await h.engine.do(Unstack(ctx, back, "caller"))
        check(back.current.id, f"frame-{n}", "what came out")
        ctx = back


CASES: tuple[Case, ...] = (
    stack_and_unstack,
    stacked_context_survives_the_store,
    stacked_with_its_own_commit,
    stacked_state_moved_on,
    several_stacked,
    refused_stacks,
    stack_onto_a_taken_name,
    stacked_context_keeps_its_data,
    stacks_within_stacks,
)
