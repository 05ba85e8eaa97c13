"""Steps: each is one commit, tried again as its policy says, and told its key."""

import asyncio
import threading
from datetime import timedelta

import pytest

from flowstate import FakeClock, RetryPolicy, Status, StoreBusyError
from flowstate.engines.kernel.awaiting import Awaiting
from flowstate.engines.kernel.code import CodeOptions
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.errors import InstanceFailedError, StepFailed
from flowstate.engines.kernel.steps import effect_key
from tests.engines.kernel.running import kernel_of, revisions
from tests.engines.kernel.tables import Done, Table, line, run

TWICE = RetryPolicy(attempts=3, first=10.0, factor=2.0, jitter=False)


async def add(a: int, b: int = 1) -> int:
    await asyncio.sleep(0)
    return a + b


def plain(a: int) -> str:
    return f"{a} in {threading.current_thread() is threading.main_thread()}"


class Failing:
    """A step that fails so many times."""

    def __init__(self, times: int, error: type[Exception] = ConnectionError) -> None:
        self.left, self.error = times, error
        self.keys: list[str] = []

    async def __call__(self) -> str:
        self.keys.append(effect_key())
        self.left -= 1
        if self.left >= 0:
            raise self.error("no")
        return "done"


async def test_three_steps_take_four_revisions() -> None:
    code = line("three", run("a", add, 1), run("b", plain, 2), run("c", add, 3, 4))

    async with kernel_of(code) as kernel:
        assert await kernel.start(code, "i", {})
        assert await kernel.result("i") == [2, "2 in False", 7]
        log = await revisions(kernel, "i")

    assert [state.labels.get("stop") for state in log] == ["a", "b", "c", None]
    assert [state.status for state in log] == [Status.ACTIVE] * 3 + [Status.ENDED]
    assert log[-1].labels["outcome"] == "done"


async def test_nothing_of_a_mailbox_is_touched_by_who_needs_none() -> None:
    code = line("three", run("a", add, 1), run("b", add, 2))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await kernel.result("i")

        assert await kernel.engine.count() == 1


async def test_an_instance_is_started_once() -> None:
    code = line("one", run("a", add, 1))

    async with kernel_of(code) as kernel:
        first = await asyncio.gather(*(kernel.start(code, "i", {}) for _ in range(5)))
        assert sorted(first) == [False] * 4 + [True]
        assert await kernel.result("i") == [2]
        assert not await kernel.start(code, "i", {})


async def test_what_fails_is_tried_again_with_the_same_key() -> None:
    clock, failing = FakeClock(), Failing(2)
    code = line("failing", run("a", failing))

    async with kernel_of(code, clock=clock, retry=TWICE) as kernel:
        began = clock.now()
        await kernel.start(code, "i", {})
        assert await kernel.result("i") == ["done"]

    assert failing.keys == ["i/main/a/0"] * 3
    assert clock.now() - began == timedelta(seconds=30)


@pytest.mark.parametrize("where", ["step", "code", "kernel"])
async def test_a_policy_is_that_of_the_step_the_code_or_the_kernel(where: str) -> None:
    more, none = TWICE, RetryPolicy(attempts=1)
    failing = Failing(2)
    of_step = {"retry": more} if where == "step" else {}
    options = CodeOptions(retry={"code": more, "step": none, "kernel": None}[where])
    code = line("failing", run("a", failing, **of_step), options=options)

    async with kernel_of(code, retry=more if where == "kernel" else none) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["done"]


async def test_what_is_exhausted_is_raised_at_the_stop_with_its_cause() -> None:
    code = line("failing", run("a", Failing(9)), run("b", add, 1), catch=True)

    async with kernel_of(code, retry=TWICE) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["StepFailed of ConnectionError", 2]


async def test_without_a_policy_a_step_fails_at_once() -> None:
    failing = Failing(9)
    code = line("failing", run("a", failing))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        with pytest.raises(InstanceFailedError, match="step 'a' failed once") as caught:
            await kernel.result("i")
        state = await kernel.engine.get_state("i")

    assert isinstance(caught.value.__cause__, StepFailed)
    assert caught.value.__cause__.attempts == 1
    assert isinstance(caught.value.__cause__.__cause__, ConnectionError)
    assert len(failing.keys) == 1
    assert (state.labels["outcome"], state.labels["stop"]) == ("failed", "a")


async def test_an_error_that_is_never_tried_again() -> None:
    failing = Failing(9, KeyError)
    policy = RetryPolicy(attempts=5, never=(KeyError,))
    code = line("failing", run("a", failing, retry=policy), catch=True)

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["StepFailed of KeyError"]
    assert len(failing.keys) == 1


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_step_that_takes_too_long_has_failed() -> None:
    clock = FakeClock()
    code = line("slow", run("a", forever, timeout=5.0, retry=TWICE), catch=True)

    async with kernel_of(code, clock=clock) as kernel:
        began = clock.now()
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["StepFailed of TimeoutError"]
    assert clock.now() - began == timedelta(seconds=5 + 10 + 5 + 20 + 5)


async def test_a_step_in_a_worker_thread_that_takes_too_long_is_told() -> None:
    told = threading.Event()

    def work() -> None:
        for _ in range(10_000):
            if current_step().is_told:
                told.set()
                return
            threading.Event().wait(0.001)  # Other threads have their turn.

    code = line("slow", run("a", work, timeout=0.05), catch=True)

    async with kernel_of(code, clock=FakeClock(autojump=False)) as kernel:
        clock = kernel.engine.clock
        await kernel.start(code, "i", {})
        result = asyncio.create_task(kernel.result("i"))
        while not result.done():
            clock.advance(0.01)  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)  # The thread takes real time.
        assert await result == ["StepFailed of TimeoutError"]
        assert await asyncio.to_thread(told.wait, 5.0)


async def test_a_local_step_has_no_commit_of_its_own() -> None:
    code = line("locals", *[run("a", lambda: 1, local=True)] * 3, run("d", add, 1))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        assert await kernel.result("i") == [1, 1, 1, 2]

        assert len(await revisions(kernel, "i")) == 3


async def test_a_long_loop_of_local_steps_lets_others_run() -> None:
    def again(names: dict[str, int], data: dict[str, int], value: int) -> str | Done:
        data["n"] = data.get("n", 0) + value
        return "a" if data["n"] < 5_000 else Done(data["n"])

    loop = Table("loop", {"a": (run("a", lambda: 1, local=True), again)})
    code = line("one", run("a", add, 1))

    async with kernel_of(loop, code) as kernel:
        await kernel.start(loop, "loop", {})
        await kernel.start(code, "i", {})
        assert await kernel.result("i") == [2]
        assert await kernel.result("loop") == 5_000


async def test_a_result_that_json_cannot_hold_is_an_error_of_the_step() -> None:
    async def strange() -> object:
        return object()

    code = line("strange", run("a", strange), catch=True)

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["StepFailed of InvalidInputError"]


async def test_a_result_of_another_type_is_an_error_at_the_stop() -> None:
    code = line("strange", run("a", add, 1, gives=str), catch=True)

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["InvalidInputError"]


async def test_a_step_that_cancels_itself_has_failed() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    code = line("strange", run("a", cancelled), catch=True)

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["StepFailed of RuntimeError"]


async def test_code_that_returns_or_raises_at_once() -> None:
    returns = Table("returns", {}, first=lambda *_: Done("x"))

    def fail(names: object, data: object) -> Done:
        raise ValueError("no")

    raises = Table("raises", {}, first=fail)

    async with kernel_of(returns, raises) as kernel:
        await kernel.start(returns, "i", {})
        await kernel.start(raises, "j", {})
        assert await kernel.result("i") == "x"
        with pytest.raises(InstanceFailedError, match="ValueError: no"):
            await kernel.result("j")


async def test_a_policy_of_the_whole() -> None:
    code = line(
        "slow",
        run("a", forever),
        run("b", add, 1),
        catch=True,
        options=CodeOptions(timeout=timedelta(seconds=60)),
    )
    clock = FakeClock()

    async with kernel_of(code, clock=clock) as kernel:
        began = clock.now()
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["TimeoutError", 2]
    assert clock.now() - began == timedelta(seconds=60)


def test_there_is_no_key_outside_of_a_step() -> None:
    with pytest.raises(LookupError):
        effect_key()


def nested(levels: int) -> list[object]:
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [490, 498, 600])
async def test_a_result_that_lies_too_deep_within_the_instance_is_a_failure(levels: int) -> None:
    code = line("deep", run("a", nested, levels))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        with pytest.raises(InstanceFailedError, match="nested too deeply"):
            await kernel.result("i")


async def test_a_turn_that_finds_the_store_busy_is_tried_again_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, clock, failed = line("one", run("a", add, 1)), FakeClock(), list[int]()
    tend = Awaiting.tend

    async def busy(self: Awaiting) -> bool:
        if len(failed) < 5:
            failed.append(1)
            raise StoreBusyError("locked")
        return await tend(self)

    monkeypatch.setattr(Awaiting, "tend", busy)
    async with kernel_of(code, clock=clock) as kernel:
        began = clock.now()
        await kernel.start(code, "i", {})
        await kernel.result("i")

    assert len(failed) == 5
    assert clock.now() - began < timedelta(seconds=30)
