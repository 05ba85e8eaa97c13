"""Deadlines follow the store's clock, whatever that clock did before."""

from datetime import datetime, timedelta

from flowstate.clock import FakeClock
from flowstate.commands import Commit, Delay, Transit
from flowstate.driver import DueQuery, Heartbeat
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, know

__all__ = ["CASES"]

HOUR = timedelta(hours=1)
RETRY = timedelta(minutes=2)


def _put_back(h: Harness) -> datetime:
    """Put the store's clock back by an hour, and return its time."""
    assert isinstance(h.clock, FakeClock)
    h.clock.set_now(h.clock.now() - HOUR)
    return h.clock.now()


async def _stalls_at(h: Harness, id: str) -> datetime | None:
    (found,) = await h.driver.get_liveness([id])
    return None if found is None else found.stalls_at


@case("fake_clock")
async def deadline_after_the_clock_went_back(h: Harness) -> None:
    """G11: a state stalls as long after its commit as it says, also while the clock is behind."""
    await committed(h, "ahead")
    now = _put_back(h)
    ctx = await committed(h, "behind")
    check(ctx.committed.committed_at, now + HOUR, "its time in the log, which never goes back")
    check(await _stalls_at(h, "behind"), now + RETRY, "when it stalls")
    await h.engine.do(Commit(Transit(ctx, "work"), Transit(h.ctx("both"), "work")))
    for id in ("behind", "both"):
        check(await _stalls_at(h, id), now + RETRY, f"when {id} stalls")
    await h.clock.sleep(RETRY.total_seconds() + 1)
    page = await h.driver.get_due(DueQuery("stall"))
    check(sorted(each.id for each in page.due), ["behind", "both"], "what stalls")


@case("fake_clock")
async def delay_after_the_clock_went_back(h: Harness) -> None:
    """G10, G11: a delay is due, and its state stalls, by the store's now at its commit."""
    know(h, "work")
    alone = await committed(h, "alone")
    now = _put_back(h)
    ctx, delay = h.ctx("within"), timedelta(minutes=5)
    await h.engine.do(Commit(Transit(ctx, "work"), Delay(ctx, "work", after=delay)))
    check(ctx.current.delayed_until, now + timedelta(minutes=5), "when the delay is due")
    check(await _stalls_at(h, "within"), now + timedelta(minutes=5) + RETRY, "when it stalls")
    await h.engine.do(Delay(alone, "work", after=timedelta(minutes=5)))
    page = await h.driver.get_due(DueQuery("delay", everything=True))
    check({each.due for each in page.due}, {now + timedelta(minutes=5)}, "when both are due")


@case("fake_clock")
async def heartbeat_after_the_clock_went_back(h: Harness) -> None:
    """G11: a heartbeat counts from the store's now, and its own time comes after those before."""
    ctx = await committed(h, "held")
    beat = Heartbeat("held", ctx.committed.rev, 60.0, "")
    await h.driver.beat([beat])
    (before,) = await h.driver.get_liveness(["held"])
    now = _put_back(h)
    await h.driver.beat([beat])
    (after,) = await h.driver.get_liveness(["held"])
    assert before is not None and after is not None  # noqa: PT018
    check(after.stalls_at, now + timedelta(seconds=60), "when it stalls")
    assert before.beat_at is not None and after.beat_at is not None  # noqa: PT018
    check(after.beat_at > before.beat_at, True, "the later heartbeat has the later time")


CASES: tuple[Case, ...] = (
    deadline_after_the_clock_went_back,
    delay_after_the_clock_went_back,
    heartbeat_after_the_clock_went_back,
)
