"""The pieces that Markdown is put together from. Each ends with an empty line."""

from collections.abc import Iterable, Mapping, Sequence

__all__ = ["bullets", "picture", "table"]


def table(head: Sequence[str], cells: Iterable[Sequence[str]]) -> Iterable[str]:
    """Return a table without the columns in which no row has anything."""
    body = [[_escaped(cell) for cell in row] for row in cells]
    kept = [n for n in range(len(head)) if any(row[n] for row in body)]
    yield _row([head[n] for n in kept])
    yield _row(["---" for _ in kept])
    for row in body:
        yield _row([row[n] for n in kept])
    yield ""


def bullets(texts: Iterable[str]) -> Iterable[str]:
    """Return a list; nothing at all if there is nothing in it."""
    lines = [f"- {' '.join(text.split())}" for text in texts]
    return [*lines, ""] if lines else []


def picture(name: str, pictures: Mapping[str, str], captions: Mapping[str, str]) -> Iterable[str]:
    """Return a picture with its caption, if it was drawn."""
    if name in pictures:
        yield f"![{name}]({pictures[name]})"
        yield ""
        yield captions[name]
        yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")
