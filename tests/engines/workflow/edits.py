"""One workflow with a stop in each construct, and every edit of it that a deployment may bring."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import msgspec

from flowstate.engines.workflow import Workflow, workflow
from tests.engines.compiler.driving import MARKS
from tests.engines.compiler.world import loaded

__all__ = ["BEFORE", "EDITS", "STOPS", "VALUES", "Edit", "Log", "Note", "deployed"]


class Note(msgspec.Struct):
    n: int


class Log(msgspec.Struct):
    xs: list[int]
    log: list[int] = []
    flag: int = 0


BEFORE = """
@helper
async def inner(s: Log, base: int) -> int:
    w = (await wait("within", Note)).n
    return w + base

@workflow("w")
async def it(s: Log) -> int:
    q: int = 7
    a = (await wait("first", Note)).n
    s.log.append(a)
    for x in s.xs:
        b = (await wait("looped", Note)).n
        s.log.append(a + b + x)
    n = 0
    for i in range(2):
        n += (await wait("ranged", Note)).n
        s.log.append(n + i)
    while n < 40:
        m = (await wait("counted", Note)).n
        n = n + m
    try:
        c = (await wait("tried", Note)).n
        s.log.append(c)
        s.xs[9]
    except IndexError as e:
        d = (await wait("caught", Note)).n
        s.log.append(a + d + len(e.args))
    finally:
        f = (await wait("cleaned", Note)).n
        s.log.append(f)
    match await wait("matched", Note):
        case Note(n=k):
            s.log.append(k)
    g = await sub(inner, a, name="called")
    s.log.append(a + g)
    l, r = await all_of(wait("left", Note), wait("right", Note), name="both")
    s.log.append(l.n - r.n)
    assert q == 7
    return a + n
"""

# Each stop at which the main thread stands in turn, and what the message brings.
STOPS = [
    *("first", "looped", "ranged", "counted", "tried", "caught", "cleaned", "matched"),
    *("within", "both"),
]
VALUES = {stop: number * 3 + 1 for number, stop in enumerate(STOPS)}
STANDS = {"called": "within"}  # An instance at this stop stands at that one, in the helper.
AT = [*STOPS[:-2], "called", "both"]  # Stops of the workflow itself.


@attrs.frozen
class Edit:
    """A change of the source.

    Attributes:
        after: the source, as it is then.
        strands: the stops of which live instances are stranded.
        options: of the workflow, as it is then.
    """

    after: str
    strands: frozenset[str] = frozenset()
    options: Mapping[str, Any] = attrs.Factory(dict)


def deployed(edit: Edit | None = None) -> Workflow[int]:
    """Return the workflow, as it is before or after an edit."""
    text = BEFORE if edit is None else edit.after
    names = {"Log": Log, "Note": Note, "VALUES": VALUES, "Any": Any}
    made = loaded(MARKS + text, f"<edit {hash(text)}>", names)["it"]
    return workflow("w", **edit.options)(made.function) if edit and edit.options else made


Lines = list[str]


def _block(stop: str) -> tuple[Lines, int, int]:
    """Return the lines, and where the statement begins and ends that has a stop."""
    lines = BEFORE.splitlines()
    at = next(number for number, line in enumerate(lines) if f'"{stop}"' in line)
    end = at + 1
    while end < len(lines) and _indent(lines[end]) > _indent(lines[at]):
        end += 1
    return lines, at, end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip()) if line.strip() else 99


def around(stop: str, head: str, tail: str = "", deeper: bool = True) -> str:
    """Put lines around the statement of a stop."""
    lines, at, end = _block(stop)
    pad = " " * _indent(lines[at])
    inner = [("    " if deeper else "") + line for line in lines[at:end]]
    before, after = ([pad + line for line in part.splitlines()] for part in (head, tail))
    return "\n".join([*lines[:at], *before, *inner, *after, *lines[end:]]) + "\n"


def in_line(stop: str, old: str, new: str) -> str:
    """Change the line of a stop."""
    lines, at, _ = _block(stop)
    assert re.search(old, lines[at]), (stop, old)
    lines[at] = re.sub(old, new, lines[at])
    return "\n".join(lines) + "\n"


def everywhere(**names: str) -> str:
    """Call local names of the workflow otherwise."""
    head, mark, body = BEFORE.partition("@workflow")
    for old, new in names.items():
        body = re.sub(rf"(?<!\.)\b{old}\b(?![\"(=])", new, body)
    return head + mark + body


EXTRA = 'await wait("extra", Note)'
# What is done to a statement with a stop, and whether an instance that stands there is stranded.
AROUND: dict[str, tuple[Callable[[str], str], bool]] = {
    "stop added before": (lambda stop: around(stop, EXTRA, deeper=False), False),
    "stop added after": (lambda stop: around(stop, "", EXTRA, deeper=False), False),
    "wrapped in if": (lambda stop: around(stop, "if s.flag == 0:"), False),
    "wrapped in else": (lambda stop: around(stop, "if s.flag:\n    pass\nelse:"), False),
    "wrapped in while": (lambda stop: around(stop, "while s.flag == 0:", "    break"), False),
    "wrapped in try": (lambda stop: around(stop, "try:", "except KeyError:\n    raise"), False),
    "wrapped in finally": (lambda stop: around(stop, "try:", "finally:\n    s.flag = 0"), False),
    "wrapped in for": (lambda stop: around(stop, "for once in range(1):"), True),
    "moved into except": (
        lambda stop: around(stop, "try:\n    {}[1]\nexcept KeyError:"),
        True,
    ),
    "moved into finally": (lambda stop: around(stop, "try:\n    pass\nfinally:"), True),
}


def _statements() -> Iterator[tuple[str, Edit]]:
    for what, (change, is_stranded) in AROUND.items():
        for stop in AT:
            there = STANDS.get(stop, stop)
            yield f"{what}: {stop}", Edit(change(stop), frozenset({there} if is_stranded else ()))


def _stops() -> Iterator[tuple[str, Edit]]:
    for stop in [*AT, "within"]:
        there = frozenset({STANDS.get(stop, stop)})
        text = in_line(stop, f'"{stop}"', f'"{stop}_new"')
        yield f"stop renamed: {stop}", Edit(text, there)
        if stop != "within":
            renamed = {"renamed": {stop: f"{stop}_new"}}
            yield f"stop renamed, and said: {stop}", Edit(text, options=renamed)
        if stop not in ("called", "both"):
            text = in_line(stop, r'\(?await wait\(".*", Note\)\)?', f'Note(VALUES["{stop}"])')
            yield f"stop removed: {stop}", Edit(text, there)
        if stop not in ("called", "both", "matched"):
            text = in_line(stop, r"= \(await", "= 0 + (await")
            yield f"stop moved into an expression: {stop}", Edit(text)


def _after(stop: str) -> frozenset[str]:
    return frozenset(STOPS[STOPS.index(stop) + 1 :])


def _names() -> Iterator[tuple[str, Edit]]:
    text = everywhere(a="aa", n="nn", x="xx", i="ii", q="qq", e="ee")
    yield "local names renamed", Edit(text, frozenset(STOPS))
    renamed = {name: 2 * name for name in "anxiqe"}
    yield "local names renamed, and said", Edit(text, options={"renamed": renamed})
    yield "loop variable renamed", Edit(everywhere(x="xx"), frozenset({"looped"}))
    yield "name no longer alive", Edit(BEFORE.replace("    assert q == 7\n", ""))
    new = BEFORE.replace("    q: int = 7\n", "    q: int = 7\n    z: int = 5\n")
    new = new.replace("assert q == 7", "assert (q, z) == (7, 5)")
    yield "name newly alive", Edit(new, frozenset(STOPS))

    def upgrade(values: dict[str, Any], version: int) -> dict[str, Any]:
        return {**values, "z": version + 5}

    options = {"version": 1, "upgrade": upgrade}
    yield "name newly alive, with an upgrade", Edit(new, options=options)
    text = BEFORE.replace("q: int = 7", 'q: str = "7"').replace("q == 7", 'q == "7"')
    yield "another type", Edit(text, frozenset(STOPS))
    text = BEFORE.replace("q: int = 7", "q: float = 7.0")
    yield "a wider type", Edit(text)
    text = BEFORE.replace("s.log.append(a)\n", "s.log.append(a)\n    a = a + 0\n")
    yield "a name bound once more", Edit(text)


def _loops() -> Iterator[tuple[str, Edit]]:
    text = BEFORE.replace("in s.xs:", "in list(s.xs):")
    yield "position to items", Edit(text, frozenset({"looped"}))
    text = BEFORE.replace("in range(2):", "in [0, 1]:")
    yield "range to items", Edit(text, frozenset({"ranged"}))
    text = BEFORE.replace("for i in range(2):", "i = -1\n    while i < 1:\n        i += 1")
    yield "for to while", Edit(text, frozenset({"ranged"}))
    loop = "    for _ in range(100):\n        if n >= 40:\n            break\n"
    text = BEFORE.replace("    while n < 40:\n", loop)
    yield "while to for", Edit(text, frozenset({"counted"}))


def _regions() -> Iterator[tuple[str, Edit]]:
    out = BEFORE.replace(
        """    except IndexError as e:
        d = (await wait("caught", Note)).n
        s.log.append(a + d + len(e.args))
    finally:
        f = (await wait("cleaned", Note)).n
        s.log.append(f)
""",
        """    except IndexError:
        pass
    d = (await wait("caught", Note)).n
    s.log.append(a + d + 1)
    f = (await wait("cleaned", Note)).n
    s.log.append(f)
""",
    )
    yield "moved out of except and finally", Edit(out, frozenset({"caught", "cleaned"}))
    text = BEFORE.replace("except IndexError as e:", "except LookupError as e:")
    yield "a wider except", Edit(text)
    first = "except KeyError:\n        raise\n    except IndexError as e:"
    yield "another except before it", Edit(BEFORE.replace("except IndexError as e:", first))


def _joins() -> Iterator[tuple[str, Edit]]:
    left, right = 'wait("left", Note)', 'wait("right", Note)'
    both = f"l, r = await all_of({left}, {right}"
    more = f'l, r, _ = await all_of({left}, {right}, wait("more", Note)'
    yield "a branch added", Edit(BEFORE.replace(both, more), frozenset({"both"}))
    swapped = BEFORE.replace(both, f"r, l = await all_of({right}, {left}")
    yield "branches swapped", Edit(swapped, frozenset({"both"}))
    text = BEFORE.replace(f'{both}, name="both")', 'l = r = await wait("both", Note)')
    yield "a join that is a wait", Edit(text, frozenset({"both"}))


def _helpers() -> Iterator[tuple[str, Edit]]:
    text = around("within", EXTRA, deeper=False)
    yield "stop added in a helper", Edit(text)
    text = BEFORE.replace("async def inner(s", "async def deeper(s")
    yield "helper renamed", Edit(text.replace("sub(inner", "sub(deeper"), frozenset({"within"}))
    text = BEFORE.replace("@helper\n", '@helper(name="inner")\n')
    text = text.replace("async def inner(s", "async def deeper(s").replace(
        "sub(inner", "sub(deeper"
    )
    yield "helper renamed, but not for frames", Edit(text)
    text = BEFORE.replace("base: int)", "base: int, more: int = 0)")
    yield "helper with one more argument", Edit(text)


EDITS: dict[str, Edit] = dict(
    [*_statements(), *_stops(), *_names(), *_loops(), *_regions(), *_joins(), *_helpers()]
)
