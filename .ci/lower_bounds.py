"""Print a constraint ``name==version`` for each lower bound that pyproject.toml gives."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

EXTRAS = ("logic", "postgres", "redis", "tasks", "test", "workflow")
BOUND = re.compile(r"(?P<name>[\w.-]+)(?:\[(?P<extra>[\w-]+)\])?>=(?P<version>[\d.]+)")
# The wheel with the client library has a name of its own, and the same version.
WITH_EXTRA = {("psycopg", "binary"): "psycopg-binary"}


def constraints(project: dict[str, object]) -> Iterator[str]:
    """Return the constraints."""
    lists = [project["dependencies"]]
    lists += [project["optional-dependencies"][extra] for extra in EXTRAS]  # type: ignore[index]
    for requirement in (each for listed in lists for each in listed):  # type: ignore[attr-defined]
        if found := BOUND.match(requirement):
            name, extra, version = found.groups()
            yield f"{name}=={version}"
            if (name, extra) in WITH_EXTRA:
                yield f"{WITH_EXTRA[name, extra]}=={version}"


if __name__ == "__main__":
    text = Path(__file__).parent.parent.joinpath("pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(constraints(tomllib.loads(text)["project"])))
