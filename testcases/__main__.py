"""``python -m flowstate.testcases package.module:make_store``: does a driver keep its promises?"""

import argparse
import logging
import sys
from collections.abc import Sequence

from flowstate.testcases import ALL, THEMES
from flowstate.testcases.certification import Failure, certify, load_target, table
from flowstate.testcases.harness import Case

EPILOG = """
make_store() makes an empty store, and returns a function that takes a clock and returns a driver
object on that store; it may be async. Beside it stands CAPABILITIES = Capabilities(...).
The exit status is 0 when every case has passed, 1 when one has failed, 2 for a bad target.
"""


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Certify the driver that the arguments name; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m flowstate.testcases",
        description="Run the conformance suite against a driver.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", help="package.module:make_store")
    parser.add_argument("-k", default="", metavar="TEXT", help="only cases with this in the name")
    parser.add_argument("-v", action="store_true", help="name each case")
    options = parser.parse_args(arguments)
    try:
        make_store, capabilities = load_target(options.target)
    except ValueError as error:
        parser.error(str(error))
    themes = [(name, [c for c in cases if options.k in c.name]) for name, cases in THEMES.items()]
    themes = [(name, cases) for name, cases in themes if cases]
    if not themes:
        parser.error(f"none of the {len(ALL)} cases has {options.k!r} in its name")

    def show(case: Case, failure: Failure | None) -> None:
        if options.v or failure:
            say(f"{'FAILED' if failure else 'passed'}  {case.name}")
        if failure:
            say(f"        {failure.guarantees}\n{failure.error}")

    logging.disable(logging.CRITICAL)  # Cases provoke warnings on purpose.
    try:
        results = certify(make_store, capabilities, themes, show)
    finally:
        logging.disable(logging.NOTSET)
    say(table(results))
    return 1 if any(theme.failures for theme in results) else 0


if __name__ == "__main__":
    sys.exit(main())
