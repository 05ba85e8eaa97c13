"""Looks into the store of a finished or unfinished job, with the queries of the library.

``python -m examples.ingest.look DATABASE states|history|data ...``
"""

import argparse
import asyncio
import sys
from pathlib import Path

from examples.ingest.flows import JOB, JOB_ID
from flowstate import (
    Engine,
    FlowRegistry,
    FlowstateError,
    State,
    StateContext,
    Status,
)
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["main"]


async def states(engine: Engine, options: argparse.Namespace) -> None:
    """Print the latest revision of each state, the lowest first."""
    labels = dict(label.split("=", 1) for label in options.label)
    shown = 0
    async for state in engine.states(labels=labels, status=options.status, latest_only=True):
        if shown == options.limit:
            return
        print(_line(state))
        shown += 1


async def history(engine: Engine, options: argparse.Namespace) -> None:
    """Print every revision of one state: how it got where it is, and when."""
    labels = JOB if options.id == JOB_ID else {"name": options.id}
    async for state in engine.states(labels=labels):
        print(_line(state))


async def data(engine: Engine, options: argparse.Namespace) -> None:
    """Print what a state refers to under an alias."""
    state = await engine.get_state(options.id)
    stored = await engine.get_data(StateContext(state), options.alias)
    sys.stdout.buffer.write(stored.blob.rstrip() + b"\n")


def _line(state: State) -> str:
    at = f"{state.committed_at:%H:%M:%S.%f}"
    where = f"{state.transition.cause} {state.transition.to}"
    return f"{state.rev:>7}  {at}  {state.status:<7}  {where:<16}  {ascii(state.id)[1:-1]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.ingest.look")
    parser.add_argument("database", type=Path)
    commands = parser.add_subparsers(required=True)
    listing = commands.add_parser("states", help=states.__doc__)
    listing.add_argument("--status", type=Status, choices=list(Status))
    listing.add_argument("--label", action="append", default=[], metavar="KEY=VALUE")
    listing.add_argument("--limit", type=int, default=20)
    listing.set_defaults(show=states)
    past = commands.add_parser("history", help=history.__doc__)
    past.add_argument("id")
    past.set_defaults(show=history)
    blob = commands.add_parser("data", help=data.__doc__)
    blob.add_argument("id")
    blob.add_argument("alias", nargs="?", default="figures", help="figures or content")
    blob.set_defaults(show=data)
    return parser


async def main() -> None:
    """Do what the command line asks for."""
    options = _parser().parse_args()
    if not options.database.is_file():
        sys.exit(f"{options.database}: no such file")
    try:
        # No flow is executed here, so none has to be known.
        async with Engine(SQLiteDriver(options.database), FlowRegistry()) as engine:
            await options.show(engine, options)
    except FlowstateError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    asyncio.run(main())
