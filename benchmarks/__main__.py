"""Measures how fast flowstate is here, beside what its stores can do: see benchmarks/README.md."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from benchmarks.catalogue import CatalogueError, chosen, suites
from benchmarks.changes import change_lines, slower
from benchmarks.checkout import ROOT, CheckoutError
from benchmarks.comparing import changes
from benchmarks.output import RESULTS, write_report
from benchmarks.pairing import HalfError, pair
from benchmarks.records import Record, RecordsError, load
from benchmarks.session import Wanted, made_setting, run
from benchmarks.sizes import FULL, SIZES
from benchmarks.table import summary

__all__ = ["main"]

INTERRUPTED = 130  # As shells say it: 128, and the number of the signal.


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says, or these words instead of it; return the exit status."""
    arguments = _parser().parse_args(words)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except (CatalogueError, CheckoutError, HalfError, RecordsError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, sizes in SIZES.items():
        sized = commands.add_parser(name, help=f"measure, for {sizes.seconds:.0f} seconds")
        sized.set_defaults(command=_run, size=name)
        _add_choice(sized)
        sized.add_argument("--output", type=Path, help="a folder for the results")
        sized.add_argument(
            "--peers", action=argparse.BooleanOptionalAction, help="measure other libraries too"
        )
    _add_list(commands.add_parser("list", help="print what there is to measure"))
    _add_report(commands.add_parser("report", help="write the report again"))
    _add_compare(commands.add_parser("compare", help="say what changed from one run to another"))
    _add_pair(commands.add_parser("pair", help="measure another checkout and this one in turns"))
    schema = commands.add_parser("schema", help=f"print the JSON Schema of {RESULTS}")
    schema.set_defaults(command=_schema)
    return parser


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="", help="a part of the names to measure")
    parser.add_argument(
        "--suite", action="append", default=[], help="package.module:function, instead of all"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the order within rounds")


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_list, size=FULL.name, peers=True)
    _add_choice(parser)


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_report)
    parser.add_argument("results", type=Path, help=f"a {RESULTS}")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_compare)
    parser.add_argument("old", type=Path, help=f"a {RESULTS}")
    parser.add_argument("new", type=Path, help="another one")
    _add_limit(parser)


def _add_pair(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_pair, peers=False)
    parser.add_argument("other", type=Path, help="a checkout, such as a worktree of git")
    parser.add_argument("--size", choices=SIZES, default="quick")
    parser.add_argument("--output", type=Path, help="a folder for both results")
    _add_choice(parser)
    _add_limit(parser)


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fail-on-slower", type=float, metavar="PERCENT", help="exit with 1 if anything is"
    )


def _wanted(arguments: argparse.Namespace) -> Wanted:
    sizes = SIZES[arguments.size]
    peers = sizes is FULL if arguments.peers is None else arguments.peers
    return Wanted(sizes, arguments.only, peers, tuple(arguments.suite), arguments.seed)


def _output(arguments: argparse.Namespace) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    given: Path | None = arguments.output
    return given or ROOT / "benchmarks" / "results" / f"{arguments.size}-{stamp}"


def _run(arguments: argparse.Namespace) -> int:
    """Measure; marks that are missed are no failure, and what raised something is."""
    output = _output(arguments)
    try:
        record = asyncio.run(run(_wanted(arguments), output))
    except KeyboardInterrupt:
        print(f"\ninterrupted; what came out so far is in {output / RESULTS}", file=sys.stderr)
        return INTERRUPTED
    print(f"\n{summary(record)}\n{output}")
    for failure in record.failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if record.failures else 0


def _list(arguments: argparse.Namespace) -> int:
    asyncio.run(_print_names(_wanted(arguments)))
    return 0


async def _print_names(wanted: Wanted) -> None:
    async with AsyncExitStack() as stack:
        setting = made_setting(stack, wanted.sizes)
        for workload in chosen(setting, suites(wanted.suites, peers=wanted.peers), wanted.only):
            print(workload.key)
            for side in workload.others:
                print(f"    {side.role}: {side.name}")


def _report(arguments: argparse.Namespace) -> int:
    print(write_report(arguments.results.parent, load(arguments.results)))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    return _told_changes(load(arguments.old), load(arguments.new), arguments.fail_on_slower)


def _pair(arguments: argparse.Namespace) -> int:
    output = _output(arguments)
    old, new = asyncio.run(pair(arguments.other, _wanted(arguments), output))
    print(f"\n{output}\n")
    failed = [*old.failures, *new.failures]
    for failure in failed:
        print(f"failed: {failure}", file=sys.stderr)
    return _told_changes(old, new, arguments.fail_on_slower) or int(bool(failed))


def _told_changes(old: Record, new: Record, limit: float | None) -> int:
    """Print what changed; the exit status is 1 only if there is a limit and something is above."""
    found = changes(old, new)
    for line in change_lines(old, new, found):
        print(line)
    return int(limit is not None and bool(slower(found, limit)))


def _schema(_: argparse.Namespace) -> int:
    print(json.dumps(msgspec.json.schema(Record), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
