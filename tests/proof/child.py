"""``python -m tests.proof.child BUG LAYER``: plant one bug, and let one layer look for it.

Prints a line of JSON at the end. A process of its own for each, because a bug may hang it, kill it
or leave anything behind.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Mapping

import msgspec
import pytest
from msgspec import Struct

from tests.proof.bug import Bug, Trial
from tests.proof.catalogue import bug_named, with_all_layers
from tests.proof.layers import look

__all__ = ["URLS", "Finding", "search"]

URLS = {"postgres": "FLOWSTATE_TEST_POSTGRES_URL", "redis": "FLOWSTATE_TEST_REDIS_URL"}


class Finding(Struct, frozen=True):
    """What came of a trial.

    Attributes:
        how: what has found the bug; empty if nothing has.
        seconds: that it took.
    """

    how: str
    seconds: float


def search(bug: Bug, trial: Trial, urls: Mapping[str, str]) -> Finding:
    """Plant a bug, let a layer look for it, and remove it again."""
    if trial.layer != "tests":  # Those look at what is logged.
        logging.disable(logging.CRITICAL)  # What is broken has much to say.
    began = time.monotonic()
    try:
        with pytest.MonkeyPatch.context() as monkeypatch:
            bug.plant(monkeypatch)
            how = look(bug, trial, urls)
    finally:
        logging.disable(logging.NOTSET)
    return Finding(how, time.monotonic() - began)


def main(name: str, layer: str) -> None:
    """Look for the bug with a name; print what comes of it."""
    bug = bug_named(name)
    trial = next(trial for trial in with_all_layers(bug) if trial.layer == layer)
    urls = {store: os.environ[url] for store, url in URLS.items() if url in os.environ}
    with contextlib.redirect_stdout(sys.stderr):
        finding = search(bug, trial, urls)
    sys.stdout.write(msgspec.json.encode(finding).decode() + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
