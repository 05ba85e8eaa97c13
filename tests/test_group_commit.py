"""Commits that arrive while a batch is on its way share the next; each has its own verdict."""

import asyncio
import gc
from collections.abc import Sequence
from pathlib import Path

import pytest

from flowstate import (
    Commit,
    CommitUnknownError,
    DriverError,
    Engine,
    EngineStoppedError,
    FlowRegistry,
    FlowstateError,
    InvalidInputError,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    StoreUnavailableError,
)
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.ground.batching import WORTH_A_BATCH


class SlowDriver(MemoryDriver):
    """Commits when it is told to, and notes the batches it was given."""

    max_batch_size = 10

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.failure: Exception | None = None

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.batches.append([put.id for writes in batch for put in writes.puts])
        self.started.set()
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        return await super().commit(batch)


def new(id: str) -> StateContext:
    return StateContext(State(id))


def start(engine: Engine, *contexts: StateContext) -> list["asyncio.Task[None]"]:
    return [asyncio.create_task(engine.do(Commit(Pause(ctx)))) for ctx in contexts]


async def test_a_lone_commit_waits_for_no_other() -> None:
    driver = SlowDriver()
    driver.go_on.set()
    async with Engine(driver, FlowRegistry()) as engine:
        await engine.do(Commit(Pause(new("a"))))
        await engine.do(Commit(Pause(new("b"))))

    assert driver.batches == [["a"], ["b"]]


async def test_commits_that_arrive_meanwhile_share_batches() -> None:
    driver = SlowDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        first = start(engine, new("first"))
        await driver.started.wait()
        contexts = [new(str(number)) for number in range(25)]
        others = start(engine, *contexts)
        await asyncio.sleep(0)  # reason: they have to start
        driver.go_on.set()
        await asyncio.gather(*first, *others)

    ids = [ctx.current.id for ctx in contexts]
    assert driver.batches == [["first"], ids[:10], ids[10:20], ids[20:]]
    assert [ctx.committed.rev for ctx in contexts] == list(range(2, 27))


async def test_many_commits_are_split_where_batches_may_overlap() -> None:
    driver = SlowDriver()
    driver.max_batch_size, driver.max_concurrent_batches = 1_000, 2
    async with Engine(driver, FlowRegistry()) as engine:
        contexts = [new(str(number)) for number in range(4 * WORTH_A_BATCH)]
        tasks = start(engine, *contexts)
        while len(driver.batches) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)  # reason: nothing has ended yet
        late = start(engine, new("late"))
        await asyncio.sleep(0)  # reason: it has to start
        driver.go_on.set()
        await asyncio.gather(*tasks, *late)

    ids = [ctx.current.id for ctx in contexts]
    assert driver.batches == [ids[: len(ids) // 2], ids[len(ids) // 2 :], ["late"]]
    assert [ctx.committed.rev for ctx in contexts] == list(range(1, len(ids) + 1))


async def test_few_commits_share_one_batch_where_batches_may_overlap() -> None:
    driver = SlowDriver()
    driver.max_batch_size, driver.max_concurrent_batches = 1_000, 2
    driver.go_on.set()
    async with Engine(driver, FlowRegistry()) as engine:
        await asyncio.gather(*start(engine, *(new(str(n)) for n in range(2 * WORTH_A_BATCH - 1))))

    assert [len(batch) for batch in driver.batches] == [2 * WORTH_A_BATCH - 1]


async def test_each_commit_has_its_own_verdict() -> None:
    driver = SlowDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        first, rival, other = new("a"), new("a"), new("b")
        tasks = start(engine, first)
        await driver.started.wait()
        tasks += start(engine, rival, other)
        driver.go_on.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert outcomes[0] is outcomes[2] is None
    assert isinstance(outcomes[1], RevisionMismatchError)
    assert outcomes[1].ids == ("a",)
    assert (first.committed.rev, rival.committed.rev, other.committed.rev) == (1, 0, 2)


async def test_cancelled_before_it_was_given_to_the_driver_nothing_is_written() -> None:
    driver = SlowDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        first, cancelled, last = new("first"), new("cancelled"), new("last")
        tasks = start(engine, first)
        await driver.started.wait()
        tasks += start(engine, cancelled, last)
        await asyncio.sleep(0)  # reason: they have to start
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        driver.go_on.set()
        await asyncio.gather(tasks[0], tasks[2])

    assert driver.batches == [["first"], ["last"]]
    assert (cancelled.committed.rev, last.committed.rev) == (0, 2)


async def test_cancelled_afterwards_the_context_still_learns_the_verdict() -> None:
    driver = SlowDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        ctx = new("a")
        (task,) = start(engine, ctx)
        await driver.started.wait()
        task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)  # reason: the cancellation has to arrive
        assert not task.done()
        driver.go_on.set()
        await asyncio.wait([task])

        assert task.cancelled()
        assert ctx.committed == await engine.get_state("a")
        await engine.do(Commit(Pause(ctx)))


async def test_a_second_cancellation_does_not_wait() -> None:
    driver = SlowDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        ctx = new("a")
        (task,) = start(engine, ctx)
        await driver.started.wait()
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)  # reason: the cancellation has to arrive
        await asyncio.wait([task])
        assert ctx.committed.rev == 0
        driver.go_on.set()
        await engine.do(Commit(Pause(new("b"))))

        assert ctx.committed == await engine.get_state("a")


@pytest.mark.parametrize("fails", [False, True])
async def test_cancelled_as_the_answer_comes_nothing_is_left_to_wait_for(fails: bool) -> None:
    tasks: list[asyncio.Task[None]] = []
    driver = MemoryDriver()

    async def commit(batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await MemoryDriver.commit(driver, batch)
        await asyncio.sleep(0)  # reason: now the caller waits
        tasks[0].cancel()
        if fails:
            raise StoreUnavailableError("away")
        return verdicts

    driver.commit = commit  # type: ignore[method-assign]
    driver.max_batch_size = 10
    async with Engine(driver, FlowRegistry()) as engine:
        tasks += start(engine, ctx := new("a"))
        await asyncio.wait(tasks, timeout=5.0)
        assert tasks[0].cancelled()
        assert ctx.committed.rev == (0 if fails else 1)


async def test_what_is_refused_after_a_second_cancellation_is_no_noise() -> None:
    driver, noise = SlowDriver(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: noise.append(context))
    async with Engine(driver, FlowRegistry()) as engine:
        driver.failure = StoreUnavailableError("away")
        (task,) = start(engine, new("a"))
        await driver.started.wait()
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)  # reason: the cancellation has to arrive
        await asyncio.wait([task])
        driver.go_on.set()
    driver.failure = None  # Its traceback would keep everything.
    del task
    gc.collect()

    assert noise == []


async def test_a_failing_driver_fails_all_of_the_batch_and_none_later() -> None:
    driver = SlowDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        contexts = [new(str(number)) for number in range(3)]
        driver.failure = StoreUnavailableError("away")
        tasks = start(engine, contexts[0])
        await driver.started.wait()
        driver.go_on.set()
        tasks += start(engine, *contexts[1:])
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert outcomes == [driver.failure] * 3
        assert [ctx.committed.rev for ctx in contexts] == [0, 0, 0]

        driver.failure = None
        await asyncio.gather(*start(engine, *contexts))
        assert [ctx.committed.rev for ctx in contexts] == [1, 2, 3]


async def test_closing_waits_for_what_was_given_to_the_driver() -> None:
    driver = SlowDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        ctx = new("a")
        tasks = start(engine, ctx)
        await driver.started.wait()
        asyncio.get_running_loop().call_soon(driver.go_on.set)

    assert ctx.committed.rev == 1
    await asyncio.gather(*tasks)


async def test_a_caller_that_was_cancelled_hides_no_failure_of_the_store() -> None:
    driver = SlowDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        driver.failure = StoreUnavailableError("away")
        ctx, other = new("a"), new("b")
        (task,) = start(engine, ctx)
        await driver.started.wait()
        task.cancel()
        await asyncio.sleep(0)  # reason: the cancellation has to arrive
        driver.go_on.set()
        await asyncio.wait([task])
        assert task.cancelled()
        with pytest.raises(StoreUnavailableError):
            await engine.do(Commit(Pause(other)))


@pytest.mark.parametrize("wrong", [[], [(), ()], None, 7], ids=str)
async def test_a_wrong_number_of_verdicts_is_an_error_for_all_of_the_batch(wrong: object) -> None:
    class Wrong(SlowDriver):
        async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
            assert batch
            return wrong  # type: ignore[return-value]

    async with Engine(Wrong(), FlowRegistry()) as engine:
        ctx = new("a")
        (outcome,) = await asyncio.gather(*start(engine, ctx), return_exceptions=True)

    assert isinstance(outcome, DriverError)
    assert ctx.committed.rev == 0


@pytest.mark.parametrize("verdict", [(), [], None, "text"], ids=str)
async def test_a_verdict_of_a_wrong_form_is_an_error_for_its_commit_alone(verdict: object) -> None:
    class Wrong(SlowDriver):
        async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
            verdicts: list[object] = list(await MemoryDriver.commit(self, batch))
            return [verdict, *verdicts[1:]]  # type: ignore[list-item]

    async with Engine(Wrong(), FlowRegistry()) as engine:
        ctx, other = new("a"), new("b")
        outcomes = await asyncio.gather(*start(engine, ctx, other), return_exceptions=True)

    assert isinstance(outcomes[0], DriverError)
    assert (ctx.committed.rev, other.committed.rev) == (0, 2)


async def test_an_engine_that_stops_says_which_outcomes_are_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flowstate.runtime.GRACE", 0.01)
    driver = SlowDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        tasks = start(engine, new("a"))
        await driver.started.wait()
    (outcome,) = await asyncio.gather(*tasks, return_exceptions=True)

    assert isinstance(outcome, CommitUnknownError)


async def test_a_busy_engine_stops_at_once_and_says_why() -> None:
    outcomes: list[FlowstateError] = []

    async def commit_on_and_on(engine: Engine, ctx: StateContext) -> None:
        try:
            while True:
                await engine.do(Commit(Pause(ctx)))
        except FlowstateError as error:
            outcomes.append(error)

    driver = MemoryDriver()
    driver.max_batch_size = 8
    async with Engine(driver, FlowRegistry()) as engine:
        tasks = [asyncio.create_task(commit_on_and_on(engine, new(str(n)))) for n in range(20)]
        async with engine.watch() as states:
            await anext(states)  # They are at it.
        stops_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stops_at < 1.0
    await asyncio.gather(*tasks)
    assert {type(error) for error in outcomes} == {EngineStoppedError}


def test_a_second_event_loop_of_the_same_thread_is_refused(tmp_path: Path) -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    for driver in (SQLiteDriver(tmp_path / "store"), MemoryDriver()):
        engine, ctx = Engine(driver, FlowRegistry()), new("a")
        first.run_until_complete(engine.__aenter__())
        with pytest.raises(InvalidInputError, match="engine: is open in another event loop"):
            second.run_until_complete(engine.do(Commit(Pause(ctx))))
        assert first.run_until_complete(engine.head()) == 0
        first.run_until_complete(engine.__aexit__(None, None, None))
    first.close()
    second.close()


async def test_a_commit_that_runs_in_another_event_loop_is_refused(tmp_path: Path) -> None:
    flows = FlowRegistry()
    for driver in (SQLiteDriver(tmp_path / "store"), MemoryDriver()):
        async with Engine(driver, flows) as engine:
            await engine.do(Commit(Pause(new("a"))))
            busy = start(engine, *(new(str(number)) for number in range(50)))
            with pytest.raises(InvalidInputError, match="engine: is open in another event loop"):
                await asyncio.to_thread(asyncio.run, engine.do(Commit(Pause(new("b")))))
            await asyncio.gather(*busy)
            assert await engine.head() == 51
