"""``python -m flowstate.engines.workflow check app:workflows --store URL``: may it be deployed?"""

import argparse
import asyncio
import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from flowstate import Driver, Engine, FlowRegistry, FlowstateError
from flowstate.engines.kernel.code import Code
from flowstate.engines.workflow.checking import check
from flowstate.engines.workflow.compiler.errors import CompileError
from flowstate.engines.workflow.graphs import graph_of

__all__ = ["main"]

EPILOG = """
The target is a workflow, or a list of workflows. The exit status of check is 0 when all live
instances can go on, 1 when some cannot, 2 for a bad target, a store that cannot be read, or any
other failure.
"""
STORES = "sqlite:PATH, postgresql://... or redis://..."


class TargetError(Exception):
    """The target, or the URL of the store, is of no use."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line says, and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        codes = _load(options.target)
        if options.do == "graph":
            for code in codes:
                graph = graph_of(code)
                _say(graph.json() if options.json else graph.mermaid())
            return 0
        return asyncio.run(_check(codes, options))
    except (TargetError, CompileError, FlowstateError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except Exception:  # noqa: BLE001 - the status 1 would say that instances are stranded
        traceback.print_exc()
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flowstate.engines.workflow", description="Workflows.", epilog=EPILOG
    )
    does = parser.add_subparsers(dest="do", required=True)
    checks = does.add_parser("check", help="which live instances would be stranded?")
    checks.add_argument("target", help="package.module:name")
    checks.add_argument("--store", required=True, help=STORES)
    checks.add_argument("--schema", default="flowstate", help="of Postgres")
    checks.add_argument("--namespace", default="flowstate", help="of Redis")
    checks.add_argument("--json", action="store_true", help="write the report as JSON")
    graphs = does.add_parser("graph", help="write Mermaid, or JSON")
    graphs.add_argument("target", help="package.module:name")
    graphs.add_argument("--json", action="store_true")
    return parser


def _load(target: str) -> list[Code]:
    """Return the workflows of a target.

    Raises:
        TargetError: there are none.
    """
    module, _, name = target.partition(":")
    if not name:
        raise TargetError(f"{target!r}: write package.module:name")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise TargetError(f"{target!r}: {error}") from error
    codes = list(found) if isinstance(found, list | tuple | set) else [found]
    if not codes or not all(hasattr(each, "stops") and hasattr(each, "go_on") for each in codes):
        raise TargetError(f"{target!r} is no workflow, and no list of workflows")
    return codes


async def _check(codes: Sequence[Code], options: argparse.Namespace) -> int:
    async with Engine(_driver(options), FlowRegistry()) as engine:
        report = await check(engine, codes, progress=_tell_progress)
    _say(msgspec.json.encode(report).decode() if options.json else str(report))
    return 1 if report else 0


def _tell_progress(count: int) -> None:
    if count % 1_000 == 0:
        sys.stderr.write(f"{count} live instances so far\n")


def _driver(options: argparse.Namespace) -> Driver:
    """Return a driver, not open yet; its module is imported only if it is asked for."""
    parts = urlsplit(options.store)
    match parts.scheme:
        case "sqlite":
            from flowstate.drivers.sqlite import SQLiteDriver  # noqa: PLC0415

            path = options.store.removeprefix("sqlite:").removeprefix("//")
            if not Path(path).exists():  # The driver would make a new one.
                raise TargetError(f"there is no file {path!r}")
            return SQLiteDriver(path)
        case "postgresql" | "postgres":
            from flowstate.drivers.postgres import PostgresDriver  # noqa: PLC0415

            return PostgresDriver(options.store, schema=options.schema)
        case "redis" | "rediss" | "unix":
            from flowstate.drivers.redis import RedisDriver  # noqa: PLC0415

            return RedisDriver(options.store, namespace=options.namespace)
    raise TargetError(f"--store: cannot tell what store {options.store!r} is; write {STORES}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
