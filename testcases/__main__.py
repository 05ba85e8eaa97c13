"""``python -m flowstate.testcases package.module:make_store``: does a driver keep its promises?"""

import argparse
import logging
import sys
from collections.abc import Sequence

from msgspec.structs import replace

from flowstate.testcases.certification import Failure, certify, table
from flowstate.testcases.layers import LAYERS, Amount, Check, Theme, replay, themes
from flowstate.testcases.target import load_target

EPILOG = """
The target makes an empty store, and returns a function that takes a clock and returns a driver
object on that store; it may be async. Its module has CAPABILITIES = Capabilities(...), and for
cases that damage a store or stop its server also HOOKS = Hooks(...).
A class of drivers, or a function that returns a driver, will do for a store of which there is
never more than one driver object.

conformance   a case for each promise, the cancellation of everything among them
model         random programs, compared with a model; what fails is made short
concurrency   tasks, driver objects and processes at once, with commits that are cancelled;
              what they were told is recorded and checked against the log

The exit status is 0 when all has passed, 1 when something has failed, 2 for a bad target.
"""
WIDTH = 78


class Screen:
    """Says what failed, and on a terminal how far we are."""

    def __init__(self, total: int, *, verbose: bool) -> None:
        self._total = total
        self._verbose = verbose
        self._done = 0
        self._is_terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        """Print at once."""
        self._clear()
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def show(self, check: Check, outcome: Failure | str | None) -> None:
        """Tell what came of a check."""
        self._done += 1
        if isinstance(outcome, Failure):
            self.say(f"FAILED  {check.name}\n        {outcome.shows}\n{outcome.error}")
        elif self._verbose:
            self.say(f"left out  {check.name}: {outcome}" if outcome else f"passed  {check.name}")
        if self._is_terminal:
            self._clear()
            sys.stderr.write(f"{self._done}/{self._total} {check.name}"[:WIDTH])
            sys.stderr.flush()

    def end(self) -> None:
        """Take the progress away."""
        self._clear()

    def _clear(self) -> None:
        if self._is_terminal:
            sys.stderr.write(f"\r{' ' * WIDTH}\r")
            sys.stderr.flush()


def command_line() -> argparse.ArgumentParser:
    """Return what a user may ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m flowstate.testcases",
        description="Certify a driver.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    amount = Amount()
    parser.add_argument("target", help="package.module:make_store")
    parser.add_argument("--only", choices=LAYERS, help="one layer")
    parser.add_argument("-k", default="", metavar="TEXT", help="only checks with this in the name")
    parser.add_argument("-v", action="store_true", help="name each check")
    parser.add_argument("--seed", type=int, default=amount.seed, help="of all chance")
    parser.add_argument("--steps", type=int, default=amount.steps, help="of all random programs")
    parser.add_argument(
        "--operations", type=int, default=amount.operations, help="of each recorded load"
    )
    parser.add_argument("--program", metavar="TEXT", help="replay one random program only")
    return parser


def selected(options: argparse.Namespace) -> list[Theme]:
    """Return the checks that the user wants.

    Raises:
        ValueError: there are none, or what is to be replayed is no program.
    """
    if options.program is not None:
        return [replay(options.program)]
    amount = Amount(steps=options.steps, operations=options.operations, seed=options.seed)
    everything = themes(amount)
    chosen = [
        replace(theme, checks=tuple(each for each in theme.checks if options.k in each.name))
        for theme in everything
        if options.only in {None, theme.layer}
    ]
    chosen = [theme for theme in chosen if theme.checks]
    if not chosen:
        count = sum(len(theme.checks) for theme in everything)
        raise ValueError(f"none of the {count} checks has {options.k!r} in its name")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Certify the driver that the arguments name; return the exit status."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        target = load_target(options.target)
        chosen = selected(options)
    except ValueError as error:
        parser.error(str(error))
    screen = Screen(sum(len(theme.checks) for theme in chosen), verbose=options.v)
    logging.disable(logging.CRITICAL)  # Cases provoke warnings on purpose.
    try:
        results = certify(target, chosen, screen.show)
    finally:
        logging.disable(logging.NOTSET)
        screen.end()
    screen.say(table(results))
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
