"""LangGraph: graphs of three nodes, with a checkpointer."""

import importlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypedDict

import psycopg

from benchmarks.peers.work import Works, repeated

__all__ = ["in_memory", "on_postgres", "on_sqlite"]

NODES = ("first", "second", "third")
LOCK = 7_211_540_913  # Any number; processes that start together would make the tables twice.


class Total(TypedDict):
    """What the nodes hand on."""

    total: int


def _works(saver: Any) -> Works:
    graph = importlib.import_module("langgraph.graph")

    async def node(state: Total) -> Total:
        return {"total": state["total"] + 1}

    builder = graph.StateGraph(Total)
    for before, name in zip((graph.START, *NODES[:-1]), NODES, strict=True):
        builder.add_node(name, node)
        builder.add_edge(before, name)
    builder.add_edge(NODES[-1], graph.END)
    compiled = builder.compile(checkpointer=saver)

    async def once() -> None:
        thread = {"configurable": {"thread_id": secrets.token_hex(16)}}
        await compiled.ainvoke({"total": 0}, thread, durability="sync")

    return {"rate": repeated(once)}


@asynccontextmanager
async def in_memory(place: str) -> AsyncIterator[Works]:
    """Checkpoints are kept as long as the process lives."""
    saver = importlib.import_module("langgraph.checkpoint.memory").InMemorySaver()
    yield _works(saver)


@asynccontextmanager
async def on_sqlite(place: str) -> AsyncIterator[Works]:
    """Each step is stored before the next begins."""
    module = importlib.import_module("langgraph.checkpoint.sqlite.aio")
    path = Path(place) / f"{secrets.token_hex(8)}.db"
    async with module.AsyncSqliteSaver.from_conn_string(str(path)) as saver:
        yield _works(saver)


@asynccontextmanager
async def on_postgres(place: str) -> AsyncIterator[Works]:
    """Each step is stored before the next begins."""
    module = importlib.import_module("langgraph.checkpoint.postgres.aio")
    async with module.AsyncPostgresSaver.from_conn_string(place) as saver:
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
            await saver.setup()
        yield _works(saver)
