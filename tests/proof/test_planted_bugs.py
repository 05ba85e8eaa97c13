"""The suite finds each bug that is planted in the core and in the drivers of servers and files.

Each is looked for by the cheapest layer that finds it. Broken memory drivers and what only the
simulation finds have tests of their own: test_broken_drivers.py and test_simulation.py.
``make prove`` plants all of them, and shows what every layer finds.
"""

import asyncio
import os
from collections.abc import Iterator

import pytest

from tests.proof.bug import LAYERS, Bug
from tests.proof.catalogue import ALL, CONTROLS, DRIVEN, bug_named, with_all_layers
from tests.proof.child import URLS, search
from tests.proof.fragments import in_lua, in_migration, replaced
from tests.proof.running import attempted
from tests.proof.stores import CAPABILITIES


@pytest.fixture
def urls(request: pytest.FixtureRequest) -> dict[str, str]:
    """Where the servers are; only those that a bug needs run."""
    bug: Bug = request.getfixturevalue("bug")
    fixtures = {"postgres": "postgres", "redis": "redis_server"}
    if bug.store not in fixtures:
        return {}
    return {bug.store: request.getfixturevalue(fixtures[bug.store]).url()}


@pytest.fixture
def no_loop() -> Iterator[None]:
    """Layers run event loops of their own, and leave none behind."""
    yield
    asyncio.set_event_loop(None)


AT_ONCE = [bug for bug in DRIVEN if bug.trials[0].layer != "tests"]
BY_TESTS = [bug for bug in DRIVEN if bug.trials[0].layer == "tests"]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", AT_ONCE, ids=lambda bug: bug.name)
def test_is_found(bug: Bug, urls: dict[str, str], no_loop: None) -> None:
    assert search(bug, bug.trials[0], urls).how


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BY_TESTS, ids=lambda bug: bug.name)
async def test_is_found_by_tests(bug: Bug, urls: dict[str, str]) -> None:
    """In a process of its own, since pytest does not run within pytest."""
    environment = {**os.environ, **{URLS[store]: url for store, url in urls.items()}}

    found = await attempted(bug, bug.trials[0], environment)

    assert (found.how != "", found.error) == (True, "")


def test_names_are_unique() -> None:
    names = [bug.name for bug in (*ALL, *CONTROLS)]

    assert sorted(names) == sorted(set(names))
    assert all(bug_named(name).name == name for name in names)


def test_every_bug_says_what_comes_of_it_and_who_should_find_it() -> None:
    for bug in ALL:
        assert bug.consequence.endswith(".")
        assert bug.store in CAPABILITIES
        assert bug.trials
        layers = [trial.layer for trial in with_all_layers(bug)]
        assert len(layers) == len(set(layers))
        assert set(layers) <= set(LAYERS)


def test_what_cannot_be_planted_any_more_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LookupError, match="nothing left to break: 'what is'"):
        replaced("some text", "what is", "not there")
    with pytest.raises(LookupError, match="nothing left"):
        in_migration(monkeypatch, ("DROP TABLE", ""))
    with pytest.raises(LookupError, match="nothing left"):
        in_lua(monkeypatch, "commit", ("FLUSHALL", ""))
