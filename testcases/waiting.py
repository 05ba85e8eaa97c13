"""Looking at states by id and flow: pages, watches, counts, and waiting until one is as wanted."""

import asyncio
from datetime import timedelta

from flowstate.commands import Commit, Delay, End, Pause, Resume, Transit
from flowstate.errors import DamagedRevisionError, EngineStoppedError
from flowstate.recovery_rules import DISABLED
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, know, raised, take

__all__ = ["CASES"]

HOUR = timedelta(hours=1)


@case()
async def wait_for_what_is_there(h: Harness) -> None:
    """G5: the latest revision is returned at once, if it is as wanted; older ones do not count."""
    ctx = await committed(h, "a")
    await h.engine.do(Commit(Pause(ctx)))
    check(await h.engine.wait_for("a", status=Status.PAUSED), ctx.committed, "what was found")
    await h.engine.do(Commit(Resume(ctx)))
    waiting = asyncio.ensure_future(h.engine.wait_for("a", status=Status.PAUSED))
    await asyncio.wait([waiting], timeout=0.01)
    check(waiting.done(), False, "whether it has found an older revision")
    await h.engine.do(Commit(Pause(ctx)))
    check(await waiting, ctx.committed, "what was found then")


@case()
async def wait_for_what_is_to_come(h: Harness) -> None:
    """G6: each revision of a state, and of no other one, is looked at in order, from its first."""
    know(h, "work")
    seen: list[int] = []

    def is_ended(state: State) -> bool:
        seen.append(state.rev)
        return state.status is Status.ENDED

    async with h.engine.watch(id="a") as states:
        waiting = asyncio.ensure_future(h.engine.wait_for("a", until=is_ended))
        await asyncio.wait([waiting], timeout=0.01)
        a, b = h.ctx("a"), h.ctx("b")
        for command in (Pause, Resume, Pause, End):
            await h.engine.do(Commit(command(b)))
            await h.engine.do(Commit(command(a)))
        check(await waiting, a.committed, "what was found")
        check(seen[-1], 8, "the last one")
        check([state.rev for state in await take(states, 4)], [2, 4, 6, 8], "what a watch has")
    check(seen, [2, 4, 6, 8][-len(seen) :], "what was looked at")


@case("shared")
async def wait_for_what_others_commit(h: Harness) -> None:
    """G5, G6: what another process commits is found, however many are waited for."""
    know(h, "work")
    async with h.other_driver() as driver, h.make_engine(driver) as other:
        waits = [
            asyncio.ensure_future(other.wait_for(f"s-{n}", status=Status.ENDED)) for n in range(50)
        ]
        contexts = [h.ctx(f"s-{n}") for n in range(50)]
        await h.engine.do(Commit(*(Transit(ctx, "work") for ctx in contexts)))
        for ctx in contexts:
            await h.engine.do(Commit(End(ctx)))
        found = await asyncio.gather(*waits)
    check([state.rev for state in found], list(range(51, 101)), "what was found")


@case()
async def wait_that_ends_without_it(h: Harness) -> None:
    """G6: a wait is over in time, when the engine stops, and leaves nothing behind."""
    await committed(h, "a")
    await raised(TimeoutError, h.engine.wait_for, "a", status=Status.ENDED, timeout=0.02)
    await raised(TimeoutError, h.engine.wait_for, "b", status=Status.ENDED, timeout=0)
    async with h.make_engine() as engine:
        waiting = asyncio.ensure_future(engine.wait_for("a", status=Status.ENDED))
        await asyncio.wait([waiting], timeout=0.01)
    await raised(EngineStoppedError, lambda: waiting)


@case("damage")
async def wait_for_a_damaged_state(h: Harness) -> None:
    """G15: a wait raises for a revision that cannot be read, since it may be the one."""
    await committed(h, "a")
    await committed(h, "b")
    await h.damage("revision", "a")
    error = await raised(DamagedRevisionError, h.engine.wait_for, "a", status=Status.ENDED)
    check((error.rev, error.id), (1, "a"), "what is damaged")
    check((await h.engine.wait_for("b", status=Status.ACTIVE)).rev, 2, "the other one")


@case()
async def history_and_watch_of_one_state(h: Harness) -> None:
    """G6, G13: pages and watches by id have all revisions of one state, and no other one."""
    know(h, "work")
    contexts = [h.ctx(id, labels={"kind": id}) for id in ("a", "b", "a" * 512, "A")]
    for _ in range(3):
        for ctx in contexts:
            await h.engine.do(Commit(Transit(ctx, "work")))
            await h.engine.do(Commit(Pause(ctx)))
    for ctx in contexts:
        id = ctx.current.id
        own = [state for state in await h.log() if state.id == id]
        check([state async for state in h.engine.history(id)], own, f"history of {id}")
        paused = [state for state in own if state.status is Status.PAUSED]
        found = [s async for s in h.engine.states(id=id, status=Status.PAUSED, since_rev=4)]
        check(found, [s for s in paused if s.rev > 4], f"paused revisions of {id}")
        async with h.engine.watch(id=id, status=Status.PAUSED) as states:
            check(await take(states, len(paused)), paused, f"watched revisions of {id}")
            await h.engine.do(Commit(Pause(ctx)))
            check(await anext(states), ctx.committed, f"live revision of {id}")
        head = await h.engine.head()
        async with h.engine.watch(id=id, labels={"kind": "new"}, since_rev=head) as states:
            waiting = asyncio.ensure_future(anext(states))
            for other in contexts:
                other.set_label("kind", "new" if other is not ctx else "old")
            await h.engine.do(Commit(*map(Pause, contexts)))
            ctx.set_label("kind", "new")
            await h.engine.do(Commit(Pause(ctx)))
            check(await waiting, ctx.committed, f"labelled revision of {id}")
            ctx.set_label("kind", "old")
    check([state async for state in h.engine.history("unknown")], [], "an unknown one")


@case()
async def counts_and_states_in_a_flow(h: Harness) -> None:
    """G13: counts by labels and status, and all that has not ended in a flow, known or not."""
    know(h, "work", "other", "gone")
    active = await committed(h, "active", "gone", labels={"kind": "x"})
    paused = await committed(h, "paused", "gone", labels={"kind": "x"})
    await h.engine.do(Commit(Pause(paused)))
    delayed = await committed(h, "delayed", "gone")
    await h.engine.do(Commit(Delay(delayed, "other", after=HOUR)))
    disabled = await committed(h, "disabled", "gone", annotations={DISABLED: ""})
    ended = await committed(h, "ended", "gone", labels={"kind": "x"})
    await h.engine.do(Commit(End(ended)))
    await committed(h, "elsewhere", "other", labels={"kind": "y"})
    await h.engine.do(Commit(Pause(h.ctx("nowhere"))))
    h.flows.unset("gone")
    in_flow = {state.id: state async for state in h.engine.in_flow("gone")}
    expected = [active, paused, delayed, disabled]
    check(in_flow, {ctx.current.id: ctx.committed for ctx in expected}, "states in the flow")
    check([state.id async for state in h.engine.in_flow("")], ["nowhere"], "states in no flow")
    check([state async for state in h.engine.in_flow("unknown")], [], "an unknown flow")
    for labels, status, count in (
        ({}, None, 7),
        ({}, Status.ENDED, 1),
        ({"kind": "x"}, None, 3),
        ({"kind": "x"}, Status.PAUSED, 1),
        ([{"kind": "x"}, {"kind": "y"}], Status.ACTIVE, 2),
        ({"kind": "z"}, None, 0),
    ):
        found = await h.engine.count(labels=labels, status=status)
        check(found, count, f"how many with {labels} and {status}")


CASES: tuple[Case, ...] = (
    wait_for_what_is_there,
    wait_for_what_is_to_come,
    wait_for_what_others_commit,
    wait_that_ends_without_it,
    wait_for_a_damaged_state,
    history_and_watch_of_one_state,
    counts_and_states_in_a_flow,
)
