"""A driver that answers wrongly is heard of by all who wait, and costs nothing afterwards."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from flowstate.commands import Commit, Delay, Transit
from flowstate.delayer import Delayer
from flowstate.driver import (
    Driver,
    DuePage,
    DueQuery,
    Heartbeat,
    Liveness,
    Seen,
    Verdict,
    Writes,
)
from flowstate.errors import DriverError, InvalidCommandError
from flowstate.recovery import Recoverer
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.logs import errors_logged
from flowstate.testcases.support import DriverWrapper, committed, know, raised, visiting

__all__ = ["CASES"]

PATIENCE = 10.0


class _Wrong(DriverWrapper):
    """Takes batches, and does what no driver should, as often as it is told to."""

    verdicts = 0
    failures = 0
    changes = 0

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.max_batch_size = 16

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Commit one by one; leave a verdict out, or fail as no driver may."""
        await asyncio.sleep(0)  # reason: others commit meanwhile, and make a batch
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError("no error of a driver")
        if self.verdicts:
            self.verdicts -= 1
            return [(), ()] * len(batch) if self.verdicts % 2 else []
        verdicts: list[Verdict] = []
        for writes in batch:
            verdicts += await super().commit([writes])
        return verdicts

    async def changed(self, seen: Seen) -> Seen:
        """Wait, or fail as no driver may."""
        found = await super().changed(seen)
        if self.changes:
            self.changes -= 1
            raise ZeroDivisionError("no error of a driver")
        return found


@case()
async def wrong_number_of_verdicts(h: Harness) -> None:
    """G16: too few or too many verdicts are an error for all of the batch, and no hang."""
    know(h, "work")
    driver = _Wrong(h.driver)
    async with h.make_engine(driver) as engine, asyncio.timeout(PATIENCE):
        for count in (1, 20):
            for wrong in (1, 2):
                driver.verdicts = 100 * wrong + wrong
                ids = [f"{count}-{wrong}-{n}" for n in range(count)]
                contexts = [h.ctx(id) for id in ids]
                commits = [engine.do(Commit(Transit(ctx, "work"))) for ctx in contexts]
                for error in await asyncio.gather(*commits, return_exceptions=True):
                    assert isinstance(error, DriverError), repr(error)
                check({ctx.committed.rev for ctx in contexts}, {0}, "what the contexts know")
        driver.verdicts = 0
        await engine.do(Commit(Transit(h.ctx("after"), "work")))
    check([s.id for s in await h.log()], ["after"], "log")


@case()
async def driver_that_fails_as_none_may(h: Harness) -> None:
    """G16: whatever a driver raises reaches all who wait, and the next commit is done."""
    know(h, "work")
    driver = _Wrong(h.driver)
    async with h.make_engine(driver) as engine, asyncio.timeout(PATIENCE):
        driver.failures = 100
        commits = [engine.do(Commit(Transit(h.ctx(f"s-{n}"), "work"))) for n in range(20)]
        found = await asyncio.gather(*commits, return_exceptions=True)
        check([error for error in found if not isinstance(error, Exception)], [], "no errors")
        driver.failures = 0
        await engine.do(Commit(Transit(h.ctx("after"), "work")))


@case()
async def watch_whose_driver_fails_as_none_may(h: Harness) -> None:
    """G6, G16: a watch raises whatever keeps it from hearing of commits; a new one goes on."""
    know(h, "work")
    driver = _Wrong(h.driver)
    with errors_logged():
        async with h.make_engine(driver) as engine, asyncio.timeout(PATIENCE):
            async with engine.watch() as states:
                first = await committed(h, "first")
                check(await anext(states), first.committed, "what is delivered at first")
                driver.changes = 1
                reading = asyncio.ensure_future(anext(states))
                await asyncio.wait([reading], timeout=0)
                await committed(h, "second")
                await asyncio.wait([reading])
                assert reading.exception() is not None
                cursor = states.cursor
            async with engine.watch(since_rev=cursor) as states:
                check((await anext(states)).id, "second", "what a new watch delivers")
                await committed(h, "third")
                check((await anext(states)).id, "third", "and then")


class _Blind(DriverWrapper):
    """Fails at reading what is due, for some time."""

    left = 3

    async def get_due(self, query: DueQuery) -> DuePage:
        """Read, or fail as no driver may."""
        if self.left:
            self.left -= 1
            raise ZeroDivisionError("no error of a driver")
        return await super().get_due(query)


@case()
async def helpers_go_on_after_a_failure(h: Harness) -> None:
    """G10, G11, G16: delayers and recoverers go on when the store can be read again."""
    visiting(h, "due", "stalled")
    ctx = await committed(h, "stalled", to="stalled")
    await h.driver.beat([Heartbeat("stalled", ctx.committed.rev, 0.0, "")])
    with errors_logged():
        async with (
            h.make_engine(_Blind(h.driver)) as one,
            Recoverer(one, lease=1.0, poll_interval=0.05),
        ):
            await h.visited("stalled")
        async with h.make_engine(_Blind(h.driver)) as two, Delayer(two, poll_interval=0.05):
            await h.engine.do(Commit(Delay(h.ctx("d"), "due", after=timedelta(0))))
            await h.visited("stalled", "due")


class _Counting(DriverWrapper):
    """Counts questions."""

    asked = 0

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        """Count and answer."""
        self.asked += 1
        return await super().get_liveness(ids)


@case("fake_clock")
async def many_stalled_states_are_asked_for_together(h: Harness) -> None:
    """G13: recovering 100 stalled states asks the store for their liveness at most 4 times."""
    visiting(h, "work")
    contexts = [await committed(h, f"s-{n}", to="work") for n in range(100)]
    beats = [Heartbeat(ctx.current.id, ctx.committed.rev, 0.0, "") for ctx in contexts]
    await h.driver.beat(beats)
    driver = _Counting(h.driver)
    async with h.make_engine(driver) as engine, Recoverer(engine):
        await h.until(lambda visits: len(visits) == 100)
    check(driver.asked <= 4, True, f"asked {driver.asked} times")


@case()
async def watch_of_two_tasks(h: Harness) -> None:
    """G6: a watch that two tasks read at once refuses the second, and delivers each state once."""
    know(h, "work")
    async with h.engine.watch() as states:
        first = asyncio.ensure_future(anext(states))
        await asyncio.wait([first], timeout=0)
        await raised(InvalidCommandError, states.__anext__)
        ctx = await committed(h, "one")
        check(await first, ctx.committed, "what the first task gets")
        ctx = await committed(h, "two")
        check(await anext(states), ctx.committed, "what comes next")


CASES: tuple[Case, ...] = (
    wrong_number_of_verdicts,
    driver_that_fails_as_none_may,
    watch_whose_driver_fails_as_none_may,
    helpers_go_on_after_a_failure,
    many_stalled_states_are_asked_for_together,
    watch_of_two_tasks,
)
