"""Serve documents of tasks over HTTP, or check them."""

import argparse
import asyncio
import importlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from flowstate import Engine, FlowRegistry, FlowstateError, InvalidInputError
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.tasks.calls.databases import Database
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.calls.programs import Processes
from flowstate.engines.tasks.calls.secrets import EnvironmentSecrets, FileSecrets
from flowstate.engines.tasks.documents.loading import check_files
from flowstate.engines.tasks.runtime import Secrets
from flowstate.engines.tasks.service.retention import Keep
from flowstate.engines.tasks.service.serving import files_of, serve
from flowstate.engines.tasks.service.tasks import Tasks

__all__ = ["main"]

TOKEN = "FLOWSTATE_TASKS_TOKEN"  # noqa: S105 - the name of the variable


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says, or these words instead of it; return the exit status."""
    arguments = _parser().parse_args(words)
    logging.basicConfig(level=arguments.log.upper(), format="%(levelname)s %(name)s: %(message)s")
    try:
        return int(arguments.command(arguments))
    except (FlowstateError, ImportError, OSError) as error:
        print(f"{_parser().prog}: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flowstate.engines.tasks", description=__doc__)
    levels = ["debug", "info", "warning", "error"]
    help = "the lowest level that is logged"  # noqa: A001 - as argparse calls it
    parser.add_argument("--log", default="warning", choices=levels, help=help)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="tell what is wrong with documents")
    check.add_argument("files", nargs="+", type=Path, help="documents, or folders of them")
    _add_rules(check)
    check.set_defaults(command=_check)
    server = commands.add_parser("serve", help="serve the documents of a folder over HTTP")
    server.add_argument("folder", type=Path, help="of *.yaml, *.yml and *.json")
    stores = "sqlite:///FILE, postgresql:, redis: or memory:"
    server.add_argument("--store", default="sqlite:///tasks.db", help=stores)
    server.add_argument("--host", default="127.0.0.1")
    server.add_argument("--port", default=8080, type=int, help="0: a free one")
    server.add_argument(
        "--token", action="append", default=[], help=f"for requests; also from {TOKEN}"
    )
    server.add_argument("--look", default=1.0, type=float, help="seconds between looks for changes")
    server.add_argument("--sink", default="", help="post lifecycle events to this URL")
    server.add_argument("--keep-days", type=float, help="forget instances that ended so long ago")
    server.add_argument("--keep-count", type=int, help="ended instances of a document to keep")
    _add_rules(server)
    server.set_defaults(command=_serve)
    return parser


def _add_rules(parser: argparse.ArgumentParser) -> None:
    several: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--allow-host", **several, help="calls may reach only these hosts: a glob")
    parser.add_argument("--private-host", **several, help="these may be private, without TLS")
    kinds = ["container", "mcp", "script", "shell"]
    parser.add_argument("--run", **several, choices=kinds, help="allow tasks to run these")
    parser.add_argument("--secrets", help="env:PREFIX or folder:PATH")
    parser.add_argument("--database", **several, metavar="NAME=URL", help="for calls of sql")
    parser.add_argument(
        "--functions", **several, metavar="MODULE:NAME", help="a mapping of names to functions"
    )


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what tasks are given from outside."""
    functions: dict[str, Any] = {}
    for each in arguments.functions:
        functions |= _named(each)
    databases = [each.partition("=") for each in arguments.database]
    hosts = {"hosts": arguments.allow_host} if arguments.allow_host else {}
    return {
        "functions": functions,
        "secrets": _secrets(arguments.secrets) if arguments.secrets else None,
        "outgoing": Outgoing(private=arguments.private_host, **hosts),
        "processes": Processes(**_switches(arguments.run)),
        "databases": {name: Database(url) for name, _, url in databases},
    }


def _switches(kinds: Sequence[str]) -> Any:
    return dict.fromkeys(kinds, True)


def _named(place: str) -> dict[str, Any]:
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, Mapping):
        raise InvalidInputError("functions", f"{place!r} is no mapping of names to functions")
    return dict(found)


def _secrets(place: str) -> Secrets:
    match place.partition(":"):
        case ("env", _, prefix):
            return EnvironmentSecrets(prefix)
        case ("folder", _, path):
            return FileSecrets(Path(path))
    raise InvalidInputError("secrets", f"must be env:PREFIX or folder:PATH, not {place!r}")


def _serve(arguments: argparse.Namespace) -> int:
    keep = []
    if arguments.keep_days is not None:
        keep.append(Keep(timedelta(days=arguments.keep_days)))
    if arguments.keep_count is not None:
        keep.append(Keep(count=arguments.keep_count))
    tokens = [*arguments.token, *filter(None, [os.environ.get(TOKEN)])]
    asyncio.run(
        serve(
            arguments.folder,
            arguments.store,
            arguments.host,
            arguments.port,
            tokens=tokens,
            look=arguments.look,
            sink=arguments.sink,
            given={**_given(arguments), "keep": keep},
        )
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    files = [file for each in arguments.files for file in files_of(each)]
    if not files:
        raise InvalidInputError("files", "there is no document in these folders")
    errors = asyncio.run(_errors(files, _given(arguments)))
    print(*errors or ["all of them can be run"], sep="\n")  # noqa: T201
    return 1 if errors else 0


async def _errors(files: Sequence[Path], given: Mapping[str, Any]) -> Sequence[object]:
    async with Engine(MemoryDriver(), FlowRegistry()) as engine, Tasks(engine, **given) as tasks:
        return await check_files(files, tasks.runtime)


if __name__ == "__main__":
    sys.exit(main())
