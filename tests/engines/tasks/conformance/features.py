"""Reads feature files: the part of Gherkin that the conformance kit uses."""

from collections.abc import Iterator
from pathlib import Path

import attrs

__all__ = ["Feature", "Step", "features_in"]

WORDS = ("Given ", "When ", "Then ", "And ", "But ")
QUOTES = '"""'


@attrs.define
class Step:
    """A line of a scenario, and the text that follows it in triple quotes."""

    line: str
    text: str = ""


@attrs.define
class Feature:
    """A scenario of a feature file."""

    name: str
    steps: list[Step] = attrs.field(factory=list)


def features_in(folder: Path) -> Iterator[Feature]:
    """Iterate over the scenarios of all feature files in a folder."""
    for path in sorted(folder.rglob("*.feature")):
        yield from _scenarios(path.read_text())


def _scenarios(text: str) -> Iterator[Feature]:
    scenario: Feature | None = None
    lines = iter(text.splitlines())
    for line in lines:
        plain = line.strip()
        if plain.startswith("Scenario:"):
            if scenario is not None:
                yield scenario
            scenario = Feature(plain.removeprefix("Scenario:").strip())
        elif scenario is not None and plain.startswith(QUOTES):
            indent = len(line) - len(line.lstrip())
            scenario.steps[-1].text = "\n".join(_quoted(lines, indent))
        elif scenario is not None and plain.startswith(WORDS):
            scenario.steps.append(Step(plain.partition(" ")[2]))
    if scenario is not None:
        yield scenario


def _quoted(lines: Iterator[str], indent: int) -> Iterator[str]:
    for line in lines:
        if line.strip() == QUOTES:
            return
        yield line[indent:]
