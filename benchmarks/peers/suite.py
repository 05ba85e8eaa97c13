"""The work that others do too, each beside all that do it."""

from collections.abc import Iterator

from msgspec import Struct

from benchmarks.peers.places import Places
from benchmarks.peers.runs import Column, Runs
from benchmarks.setting import Setting
from benchmarks.sizes import Sizes
from benchmarks.workload import Place, Side, Workload

__all__ = ["workloads"]

ROUNDS = 3
AHEAD = 1.0  # Ours may take as long as a peer, at most.
FEW = 8  # At once, where there is one writer.
SHORT = 0.3  # Seconds that are enough where no store is.
MANY = 200  # At once: for those that take many with one statement.
SLOW = {"Prefect"}  # Systems that take a second for each: not more than a few at once.
# Parts of the time of a peer that our workflows may take, by how many there are at once.
MARKS = {1: 1 / 5, 32: 1 / 20}

STEPS_ON_POSTGRES = {
    "DBOS, threads": "DBOS on Postgres, threads",
    "DBOS, asyncio": "DBOS on Postgres, asyncio",
    "absurd, threads": "absurd",
    "Restate, its own store": "Restate",
    "LangGraph": "LangGraph on Postgres",
    "Prefect, results in files": "Prefect",
}
STEPS_ON_SQLITE = {
    "DBOS, threads": "DBOS on SQLite, threads",
    "DBOS, asyncio": "DBOS on SQLite, asyncio",
    "LangGraph": "LangGraph on SQLite",
}
STEPS_IN_MEMORY = {"LangGraph": "LangGraph in memory"}
JOBS = {"Procrastinate": "Procrastinate", "PgQueuer": "PgQueuer"}
MACHINES = {
    "transitions, nothing stored": "transitions",
    "AsyncMachine of transitions, nothing stored": "transitions, AsyncMachine",
    "python-statemachine, nothing stored": "python-statemachine",
    "Automat, nothing stored": "Automat",
}


class Compared(Struct, frozen=True):
    """A workload: what is taken from the runs of flowstate, and what from those of the peers.

    The mark is the part of the time of a peer that ours may take.
    """

    name: str
    ours: Column
    theirs: Column
    mark: float = AHEAD


class Family(Struct, frozen=True):
    """Workloads whose figures come from the same runs."""

    store: str
    unit: str
    ours: str
    peers: dict[str, str]
    compared: tuple[Compared, ...]


def workloads(setting: Setting) -> Iterator[Workload]:
    """Return what flowstate and others do, on the same machine in the same run."""
    places = Places(setting)
    for family in _families(setting.sizes):
        seconds = setting.sizes.peer_seconds
        yield from _workloads(
            places, family, min(SHORT, seconds) if family.store == "memory" else seconds
        )


def _families(sizes: Sizes) -> Iterator[Family]:
    numbers, few = sizes.peer_concurrencies, [n for n in sizes.peer_concurrencies if n <= FEW]
    chains = map(_chain, numbers)
    together = _same("three steps, 4 processes with 8 at once", Column(8, processes=4))
    workflows = map(_workflow, (*numbers, MANY))
    unit, on_postgres = "workflow", (*chains, together, *workflows)
    yield Family("postgres", unit, "flowstate on Postgres", STEPS_ON_POSTGRES, on_postgres)
    on_sqlite = (*map(_chain, few), *map(_workflow, few))
    yield Family("sqlite", unit, "flowstate on SQLite", STEPS_ON_SQLITE, on_sqlite)
    in_memory = (_chain(1), _workflow(1))
    yield Family("memory", unit, "flowstate in memory", STEPS_IN_MEMORY, in_memory)
    yield Family("postgres", "job", "flowstate, jobs", JOBS, (*_jobs(sizes), *_latencies()))
    yield Family("memory", "transition", "flowstate, steps", MACHINES, tuple(_transitions()))


def _chain(tasks: int) -> Compared:
    return _same(f"three steps, {tasks} at once", Column(tasks))


def _workflow(tasks: int) -> Compared:
    """Compare what is as much work as theirs: the start and the result are stored, too."""
    ours = Column(tasks, kind="workflow rate")
    name = f"a workflow of three steps, {tasks} at once"
    return Compared(name, ours, Column(tasks), MARKS.get(tasks, AHEAD))


def _same(name: str, column: Column) -> Compared:
    return Compared(name, column, column)


def _jobs(sizes: Sizes) -> Iterator[Compared]:
    for tasks in (*sizes.peer_concurrencies, MANY):
        theirs = Column(tasks)
        yield _same(f"jobs that workers claim, {tasks} at once", theirs)
        ours = Column(tasks, kind="unclaimed rate")
        yield Compared(f"jobs of one worker, {tasks} at once", ours, theirs)


def _latencies() -> Iterator[Compared]:
    theirs = Column(1, kind="latency")
    yield _same("a job that workers claim, until it starts", theirs)
    ours = Column(1, kind="unclaimed latency")
    yield Compared("a job of one worker, until it starts", ours, theirs)


def _transitions() -> Iterator[Compared]:
    theirs = Column(1)
    yield _same("transitions", theirs)
    yield Compared("transitions, committed", Column(1, kind="committed rate"), theirs)


def _workloads(places: Places, family: Family, seconds: float) -> Iterator[Workload]:
    ours = Runs(places, family.ours, [compared.ours for compared in family.compared], seconds)
    columns = list(dict.fromkeys(compared.theirs for compared in family.compared))
    few = [column for column in columns if column.tasks * column.processes <= FEW]
    peers = {
        name: Runs(places, system, few if system in SLOW else columns, seconds)
        for name, system in family.peers.items()
    }
    for compared in family.compared:
        yield Workload(
            compared.name,
            family.store,
            family.unit,
            ours.measure(compared.ours),
            tuple(
                Side(name, "peer", runs.measure(compared.theirs), compared.mark)
                for name, runs in peers.items()
                if compared.theirs in few or family.peers[name] not in SLOW
            ),
            rounds=ROUNDS,
            place=None if compared.theirs.kind == "latency" else Place("peers"),
        )
