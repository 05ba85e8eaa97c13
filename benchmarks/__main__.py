"""``python -m benchmarks quick|full|tiny|soak``: measure, print a table, write a JSON file."""

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks.comparison import SIZES
from benchmarks.report import measure, print_table, write_json
from benchmarks.soak import soak, soak_cluster, soak_postgres, soak_redis
from benchmarks.suite import comparisons

__all__ = ["main"]


async def run(size: str, only: str, output: Path | None, folder: Path) -> None:
    """Run the comparisons whose name contains ``only``."""
    sizes = SIZES[size]
    results = []
    async with comparisons(sizes, folder) as found:
        chosen = [comparison for comparison in found if only in comparison.name]
        for number, comparison in enumerate(chosen, 1):
            print(f"{number}/{len(chosen)} {comparison.name}", flush=True)
            results.append(await measure(comparison, sizes.rounds))
    print_table(results)
    if output is not None:
        write_json(output, size, results)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("size", choices=[*SIZES, "soak"])
    parser.add_argument("--only", default="", help="a part of the names to measure")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to soak")
    parser.add_argument("--postgres", action="store_true", help="soak Postgres instead")
    parser.add_argument("--redis", action="store_true", help="soak Redis instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="flowstate-benchmarks-") as folder:
        if arguments.size == "soak" and arguments.postgres:
            asyncio.run(soak_postgres(arguments.minutes, Path(folder)))
        elif arguments.size == "soak" and arguments.redis:
            asyncio.run(soak_redis(arguments.minutes, Path(folder)))
        elif arguments.size == "soak":
            asyncio.run(soak(arguments.minutes, Path(folder)))
            asyncio.run(soak_cluster(arguments.minutes, Path(folder)))
        else:
            asyncio.run(run(arguments.size, arguments.only, arguments.json, Path(folder)))


if __name__ == "__main__":
    main()
