"""``python -m tests.soak``: ten times the work of the test suite, and real servers under fire.

Whatever fails is printed with the command that replays it, and the rest goes on.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.soak.catalogue import STAGES
from tests.soak.report import table
from tests.soak.soak import Soak, say


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="on two cores; 60 by default")
    parser.add_argument("--only", metavar="NAME", help="stages whose names begin so")
    parser.add_argument("--seed", type=int, help="the first one; new ones each time by default")
    parser.add_argument("--amount", type=int, help="units of each stage that has an amount")
    return parser.parse_args(arguments)


def main() -> int:
    """Do what the arguments say; return the exit status."""
    options = parse()
    stages = [each for each in STAGES if each.name.startswith(options.only or "")]
    if not stages:
        sys.exit(f"no stage is called {options.only}: {', '.join(each.name for each in STAGES)}")
    seed = options.seed if options.seed is not None else int(time.time())
    folder = Path(tempfile.mkdtemp(prefix="flowstate-soak-"))
    soak = Soak(stages, minutes=options.minutes, seed=seed, amount=options.amount, folder=folder)
    say(f"soaking for about {options.minutes:g} minutes, seed {seed}, files in {folder}")
    is_whole = True
    try:
        asyncio.run(soak.run())
    except KeyboardInterrupt:
        is_whole = False
        say("interrupted")
    finally:
        say(table(soak.tallies))
        say("\n".join([f"{len(soak.failures)} failures", *soak.failures]))
    if not soak.failures:
        shutil.rmtree(folder)
    return 0 if is_whole and not soak.failures else 1


if __name__ == "__main__":
    sys.exit(main())
