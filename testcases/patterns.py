"""What people build from the primitives: locks, queues, limits, schedules, sagas."""

from datetime import timedelta

from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    Execute,
    Noop,
    Pause,
    Resume,
    Stack,
    Transit,
    Unstack,
)
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.errors import RevisionMismatchError, StateNotFoundError
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import end, take

__all__ = ["CASES"]

LOCK = {"mutex": "m"}
QUEUE = {"queue": "q"}


def _register_mutex(h: Harness) -> None:
    """Register flows that take a paused state as a lock, work, and put it back."""

    @h.flows.flow("lock")
    async def lock(ctx: StateContext, engine: Engine) -> Command[None]:
        async with engine.watch(labels=LOCK, since_latest=True, status=Status.PAUSED) as free:
            async for state in free:
                mutex = StateContext(state)
                held = Commit(
                    Transit(mutex, "held"), Stack(ctx, mutex, "mutex"), Transit(ctx, "protected")
                )
                try:
                    await engine.do(held)
                except RevisionMismatchError:
                    continue
                return Execute(ctx)
        return Noop()

    @h.flows.flow("protected")
    async def protected(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{ctx.current.id} is in")
        await engine.clock.sleep(0.01)
        return Commit(Transit(ctx, "unlock"))

    @h.flows.flow("unlock")
    async def unlock(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{ctx.current.id} is out")
        mutex = h.ctx("any")
        return Commit(Unstack(ctx, mutex, "mutex"), Pause(mutex), End(ctx))


@case()
async def mutex(h: Harness) -> None:
    """G2: of three workers that take a lock again and again, never two are inside."""
    _register_mutex(h)
    h.flows.set("held", end)
    lock = h.ctx("the-lock", labels=LOCK)
    await h.engine.do(Commit(Pause(lock)))
    workers = ["a", "b", "c"]
    for worker in workers:
        await h.engine.do(Execute(h.ctx(worker, "lock")))
    await h.until(lambda visits: len(visits) == 6)
    came = [visit.removesuffix(" is in") for visit in h.visits[::2]]
    check(sorted(came), workers, "workers that were inside")
    left = [visit.removesuffix(" is out") for visit in h.visits[1::2]]
    check(left, came, "workers, each out before the next is in")


@case()
async def queue(h: Harness) -> None:
    """G2: two workers take paused states in the order of the log, each of them once."""
    jobs = [f"job-{n}" for n in range(12)]

    @h.flows.flow("job")
    async def job(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(ctx.current.id)
        await engine.clock.sleep(0.001)
        return Commit(End(ctx))

    @h.flows.flow("worker")
    async def worker(ctx: StateContext, engine: Engine) -> Command[None]:
        while True:
            waiting = await engine.get_states(
                labels=QUEUE, latest_only=True, status=Status.PAUSED, limit=1
            )
            if not waiting.states and not waiting.more:
                return Commit(End(ctx))
            for state in waiting.states:
                taken = StateContext(state)
                try:
                    await engine.do(Commit(Transit(taken, "job")))
                except RevisionMismatchError:
                    continue
                await engine.execute(taken)

    for id in jobs:
        await h.engine.do(Commit(Pause(h.ctx(id, labels=QUEUE))))
    for name in ("a", "b"):
        await h.engine.do(Execute(h.ctx(f"worker-{name}", "worker")))
    async with h.engine.watch(labels=QUEUE, status=Status.ENDED) as ended:
        await take(ended, len(jobs))
    taken = [s.id for s in await h.log() if s.transition.to == "job" and s.status == "active"]
    check(taken, jobs, "jobs in the order in which they were taken")
    check(sorted(h.visits), sorted(jobs), "jobs that were run")


@case("fake_clock")
async def rate_limit(h: Harness) -> None:
    """G10: a limiter resumes ten waiting states, one every 100 ms."""
    labels = {"limited": "yes"}

    @h.flows.flow("call")
    async def call(ctx: StateContext, engine: Engine) -> Command[None]:
        if not ctx.resumed:
            return Commit(Pause(ctx))
        h.visit(ctx.current.id)
        return Commit(End(ctx))

    @h.flows.flow("limiter")
    async def limiter(ctx: StateContext, engine: Engine) -> Command[None]:
        async with engine.watch(labels=labels, status=Status.PAUSED) as waiting:
            for state in await take(waiting, 10):
                resumed = StateContext(state)
                await engine.do(Commit(Resume(resumed)), Execute(resumed))
                await engine.clock.sleep(0.1)
        return Commit(End(ctx))

    started = h.clock.now()
    for n in range(10):
        await h.engine.do(Execute(h.ctx(f"call-{n}", "call", labels=labels)))
    await h.engine.execute(h.ctx("limiter", "limiter"))
    resumed = [s for s in await h.log() if s.transition.cause == "resume"]
    times = [(s.committed_at or started) - started for s in resumed]
    check(times, [timedelta(milliseconds=100 * n) for n in range(10)], "times of resumption")
    check(len(h.visits), 10, "calls")


@case("fake_clock")
async def cron(h: Harness) -> None:
    """G10: two engines with a schedule start one task each minute, on the minute."""
    minute = timedelta(minutes=1)

    @h.flows.flow("cron")
    async def cron(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("cron")
        slot = engine.clock.now().replace(second=0, microsecond=0)
        if ctx.delayed:
            task = h.ctx(f"task-{slot:%H:%M}", "task", labels={"kind": "task"})
            await engine.execute(task)
        return Commit(Delay(ctx, "cron", until=slot + minute))

    @h.flows.flow("task")
    async def task(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("task")
        return Commit(End(ctx))

    await h.clock.sleep(20)
    async with h.make_engine() as other, Delayer(h.engine), Delayer(other):
        await h.engine.execute(h.ctx("schedule", "cron"))
        async with h.engine.watch(labels={"kind": "task"}) as tasks:
            started = await take(tasks, 3)
    check(h.visits[:7], ["cron", "cron", "task", "cron", "task", "cron", "task"], "visits")
    check([s.id for s in started], ["task-00:01", "task-00:02", "task-00:03"], "tasks")
    times = [s.committed_at.strftime("%H:%M:%S.%f") for s in started if s.committed_at]
    expected = ["00:01:00.000000", "00:02:00.000000", "00:03:00.000000"]
    check(times, expected, "times of the tasks")


@case()
async def saga(h: Harness) -> None:
    """G5: after a failure, a flow undoes in reverse order what the log says was done."""
    steps = ["flight", "hotel", "car"]

    @h.flows.flow("book")
    async def book(ctx: StateContext, engine: Engine) -> Command[None]:
        done = int(ctx.current.annotations.get("done", "0"))
        h.visit(f"book {steps[done]}")
        if steps[done] == "car":
            return Commit(Transit(ctx, "cancel"))
        ctx.set_annotation("done", str(done + 1))
        return Commit(Transit(ctx, "book"))

    @h.flows.flow("cancel")
    async def cancel(ctx: StateContext, engine: Engine) -> Command[None]:
        done = int(ctx.current.annotations["done"])
        if not done:
            return Commit(End(ctx))
        h.visit(f"cancel {steps[done - 1]}")
        ctx.set_annotation("done", str(done - 1))
        return Commit(Transit(ctx, "cancel"))

    await h.engine.execute(h.ctx("trip", "book"))
    booked = ["book flight", "book hotel", "book car"]
    check(h.visits, [*booked, "cancel hotel", "cancel flight"], "visits")
    log = [(s.transition.to, s.annotations.get("done")) for s in await h.log()]
    forth = [("book", "1"), ("book", "2"), ("cancel", "2")]
    check(log, [*forth, ("cancel", "1"), ("cancel", "0"), ("cancel", "0")], "log")


@case()
async def singleton(h: Harness) -> None:
    """G2: of ten that create the same state at once, one does, and the others read it."""

    @h.flows.flow("create")
    async def create(ctx: StateContext, engine: Engine) -> Command[None]:
        try:
            await engine.get_state("config")
        except StateNotFoundError:
            config = h.ctx("config", annotations={"by": ctx.current.id})
            try:
                await engine.do(Commit(Pause(config)))
                h.visit("created")
            except RevisionMismatchError as error:
                check(error.ids, ("config",), "mismatched ids")
        found = await engine.get_state("config")
        h.visit(f"by {found.annotations['by']}")
        return Noop()

    for n in range(10):
        await h.engine.do(Execute(h.ctx(f"creator-{n}", "create")))
    await h.until(lambda visits: len(visits) == 11)
    check(h.visits.count("created"), 1, "creations")
    check(len(set(h.visits)), 2, "different visits")


CASES: tuple[Case, ...] = (
    mutex,
    queue,
    rate_limit,
    cron,
    saga,
    singleton,
)
