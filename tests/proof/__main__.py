"""``python -m tests.proof``: plant every bug, and print which layer of the suite has found it."""

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

from tests.proof.bug import Bug
from tests.proof.catalogue import ALL, CONTROLS, with_all_layers
from tests.proof.child import URLS
from tests.proof.results import Attempt, Result, markdown, table
from tests.proof.running import attempted
from tests.redis_servers import RedisServer
from tests.servers import FAST, PostgresServer

AT_ONCE = 2


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Start a server of each kind; return the environment for whoever uses them."""
    with PostgresServer(FAST) as postgres, RedisServer() as redis:
        urls = {"postgres": postgres.url(), "redis": redis.url()}
        yield {**os.environ, **{URLS[store]: url for store, url in urls.items()}}


class Proof:
    """Looks for many bugs, a few at a time."""

    def __init__(self, environment: dict[str, str], *, all_layers: bool) -> None:
        self._environment = environment
        self._all_layers = all_layers
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._done = 0

    async def run(self, bugs: Sequence[Bug]) -> list[Result]:
        """Look for all of them; show what comes of each."""
        return await asyncio.gather(*(self._look(bug, len(bugs)) for bug in bugs))

    async def _look(self, bug: Bug, count: int) -> Result:
        async with self._turns:
            attempts: list[Attempt] = []
            is_control = bug in CONTROLS
            for trial in with_all_layers(bug):
                attempts.append(await attempted(bug, trial, self._environment))
                if attempts[-1].how and not self._all_layers:
                    break
            result = Result(bug, tuple(attempts), is_control)
        self._done += 1
        self._show(result, count)
        return result

    def _show(self, result: Result, count: int) -> None:
        verdict = "     " if result.is_good else "WRONG"
        say(f"{verdict} [{self._done}/{count}] {result.bug.name}: {result.bug.consequence}")
        for attempt in result.attempts:
            what = attempt.error or attempt.how or "nothing"
            say(f"        {attempt.layer} ({attempt.seconds:.1f} s): {what}")


def main() -> int:
    """Do what the arguments say; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.proof", description="Plant bugs, and see which layer finds them."
    )
    parser.add_argument("-k", default="", metavar="TEXT", help="only bugs with this in the name")
    parser.add_argument("--all-layers", action="store_true", help="go on after the first find")
    parser.add_argument("--markdown", action="store_true", help="print the matrix as Markdown")
    options = parser.parse_args()
    bugs = [bug for bug in (*CONTROLS, *ALL) if options.k in bug.name]
    with servers() as environment:
        results = asyncio.run(Proof(environment, all_layers=options.all_layers).run(bugs))
    say("")
    say(markdown(results) if options.markdown else table(results))
    wrong = [result.bug.name for result in results if not result.is_good]
    planted = sum(not result.is_control for result in results)
    say(f"\n{planted} planted bugs; wrong: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
