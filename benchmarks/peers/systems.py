"""Which libraries there are to compare, and what each of them needs."""

from importlib import metadata
from typing import Literal

from msgspec import Struct

from benchmarks.peers import (
    absurd,
    dbos,
    langgraph,
    machines,
    our_jobs,
    ours,
    pgqueuer,
    prefect,
    procrastinate,
    restate,
)
from benchmarks.peers.work import System
from benchmarks.workload import NotInstalledError

__all__ = ["SYSTEMS", "Peer"]


class Peer(Struct, frozen=True):
    """A library in one of the ways in which it can be used.

    Attributes:
        open: in a process of its own.
        store: what kind of place it is given.
        needs: names of distributions.
    """

    open: System
    store: Literal["memory", "sqlite", "postgres", "restate", "prefect"]
    needs: tuple[str, ...] = ()

    def check(self) -> None:
        """Return if it can be opened here.

        Raises:
            NotInstalledError: a distribution is missing.
        """
        for name in self.needs:
            try:
                metadata.version(name)
            except metadata.PackageNotFoundError as error:
                raise NotInstalledError(f"{name} is not installed") from error


DBOS = ("dbos",)
ABSURD = ("absurd-sdk", "absurdctl")
RESTATE = ("restate-sdk", "hypercorn", "httpx")
LANGGRAPH = ("langgraph",)
LANGGRAPH_POSTGRES = ("langgraph", "langgraph-checkpoint-postgres")
LANGGRAPH_SQLITE = ("langgraph", "langgraph-checkpoint-sqlite")
TRANSITIONS = ("transitions",)

SYSTEMS = {
    "flowstate on Postgres": Peer(ours.on_postgres, "postgres"),
    "flowstate on SQLite": Peer(ours.on_sqlite, "sqlite"),
    "flowstate in memory": Peer(ours.in_memory, "memory"),
    "flowstate, jobs": Peer(our_jobs.jobs, "postgres"),
    "flowstate, steps": Peer(ours.transitions, "memory"),
    "DBOS on Postgres, threads": Peer(dbos.in_threads, "postgres", DBOS),
    "DBOS on Postgres, asyncio": Peer(dbos.as_coroutines, "postgres", DBOS),
    "DBOS on SQLite, threads": Peer(dbos.in_threads, "sqlite", DBOS),
    "DBOS on SQLite, asyncio": Peer(dbos.as_coroutines, "sqlite", DBOS),
    "absurd": Peer(absurd.in_threads, "postgres", ABSURD),
    "Restate": Peer(restate.calls, "restate", RESTATE),
    "LangGraph on Postgres": Peer(langgraph.on_postgres, "postgres", LANGGRAPH_POSTGRES),
    "LangGraph on SQLite": Peer(langgraph.on_sqlite, "sqlite", LANGGRAPH_SQLITE),
    "LangGraph in memory": Peer(langgraph.in_memory, "memory", LANGGRAPH),
    "Prefect": Peer(prefect.flows, "prefect", ("prefect",)),
    "Procrastinate": Peer(procrastinate.jobs, "postgres", ("procrastinate",)),
    "PgQueuer": Peer(pgqueuer.jobs, "postgres", ("pgqueuer", "asyncpg")),
    "transitions": Peer(machines.transitions, "memory", TRANSITIONS),
    "transitions, AsyncMachine": Peer(machines.transitions_async, "memory", TRANSITIONS),
    "python-statemachine": Peer(machines.python_statemachine, "memory", ("python-statemachine",)),
    "Automat": Peer(machines.automat, "memory", ("automat",)),
}
