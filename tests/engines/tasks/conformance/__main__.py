"""Runs the feature files of a folder: ``python -m tests.engines.tasks.conformance FOLDER``."""

import asyncio
import sys
from pathlib import Path

from flowstate.engines.tasks.errors import DocumentError
from tests.engines.tasks.conformance.features import features_in
from tests.engines.tasks.conformance.steps import run_feature


def main(folder: Path) -> int:
    """Run all scenarios, and return how many have failed."""
    count = failed = 0
    for feature in features_in(folder):
        count += 1
        try:
            asyncio.run(run_feature(feature))
        except (AssertionError, DocumentError) as error:
            failed += 1
            sys.stdout.write(f"FAILED {feature.name}: {error}\n")
    sys.stdout.write(f"{count - failed} of {count} scenarios come out as they should\n")
    return failed if count else 1


sys.exit(min(main(Path(sys.argv[1])), 100))
