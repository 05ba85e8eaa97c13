"""The fake clock jumps when every task sleeps, and at no other time."""

import asyncio
import math
import time
from datetime import UTC, datetime, timedelta

import pytest

from flowstate import FakeClock, InvalidInputError, SystemClock
from flowstate.clock import longest_sleep

START = datetime(2030, 1, 1, tzinfo=UTC)


async def test_jumps_over_three_days_at_once() -> None:
    clock = FakeClock()
    started = time.monotonic()
    await clock.sleep(3 * 86_400)

    assert clock.now() == START + timedelta(days=3)
    assert clock.monotonic() == 3 * 86_400
    assert time.monotonic() - started < 1


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock = FakeClock()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((name, clock.monotonic()))

    await asyncio.gather(sleeper("c", 3), sleeper("a", 1), sleeper("b", 2), sleeper("a2", 1))

    assert woken == [("a", 1), ("a2", 1), ("b", 2), ("c", 3)]


async def test_stands_still_while_the_loop_has_work() -> None:
    clock = FakeClock()
    sleeping = asyncio.create_task(clock.sleep(1))
    for _ in range(100):
        await asyncio.sleep(0)  # reason: this is the work
        assert clock.monotonic() == 0
    await sleeping

    assert clock.monotonic() == 1


async def test_stands_still_while_a_thread_works() -> None:
    clock = FakeClock()
    seen: list[float] = []

    def work() -> None:
        time.sleep(0.05)  # reason: gives the clock time to jump, if it would
        seen.append(clock.monotonic())

    sleeping = asyncio.create_task(clock.sleep(60))
    with clock.working():
        await asyncio.to_thread(work)
    await sleeping

    assert seen == [0]
    assert clock.monotonic() == 60


async def test_a_sleep_of_nothing_takes_no_time() -> None:
    clock = FakeClock()
    for seconds in (0, -1):
        await clock.sleep(seconds)

    assert clock.monotonic() == 0


async def test_a_cancelled_sleeper_does_not_hold_the_others_up() -> None:
    clock = FakeClock()
    cancelled = asyncio.create_task(clock.sleep(5))
    other = asyncio.create_task(clock.sleep(7))
    await asyncio.sleep(0)  # reason: both have to sleep
    cancelled.cancel()
    await other

    assert cancelled.cancelled()
    assert clock.monotonic() == 7


async def test_cancelling_the_only_sleeper_leaves_time_alone() -> None:
    clock = FakeClock()
    cancelled = asyncio.create_task(clock.sleep(5))
    await asyncio.sleep(0)  # reason: it has to sleep
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert clock.monotonic() == 0

    await clock.sleep(1)
    assert clock.monotonic() == 1


async def test_without_autojump_only_advance_moves_time() -> None:
    clock = FakeClock(autojump=False)
    first, second = (asyncio.create_task(clock.sleep(seconds)) for seconds in (1, 10))
    for _ in range(20):
        await asyncio.sleep(0)  # reason: it would jump here
    assert (clock.monotonic(), first.done()) == (0, False)

    clock.advance(1)
    await first
    assert not second.done()
    clock.advance(20)
    await second
    assert clock.now() == START + timedelta(seconds=21)


async def test_corrections_leave_sleepers_alone() -> None:
    clock = FakeClock()
    sleeping = asyncio.create_task(clock.sleep(10))
    await asyncio.sleep(0)  # reason: it has to sleep
    clock.set_now(START - timedelta(hours=1))
    assert clock.now() == START - timedelta(hours=1)
    await sleeping

    assert clock.monotonic() == 10
    assert clock.now() == START - timedelta(hours=1) + timedelta(seconds=10)


async def test_the_system_clock_is_that_of_the_machine() -> None:
    clock = SystemClock()
    before, started = clock.now(), clock.monotonic()
    with clock.working():
        await clock.sleep(0.01)  # reason: this is what is tested

    assert abs(before - datetime.now(UTC)) < timedelta(seconds=5)
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() - started >= 0.009


async def test_on_a_loop_that_does_not_tell_when_it_is_idle_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(asyncio.get_running_loop(), "_ready")
        with pytest.raises(InvalidInputError, match="autojump"):
            FakeClock().sleep(1).send(None)
        sleeping = FakeClock(autojump=False).sleep(1)
        sleeping.send(None)
    sleeping.close()


def test_only_a_real_clock_has_to_be_looked_at_again() -> None:
    assert 0 < longest_sleep(SystemClock()) <= 10
    assert longest_sleep(FakeClock()) == math.inf
