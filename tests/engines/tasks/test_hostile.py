"""Documents and inputs that are meant to do harm: only the declared errors, in bounded time."""

import asyncio
import contextlib
import json
import resource
import time
from collections.abc import AsyncIterator, Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest

from flowstate import Delayer, Engine, FakeClock, FlowRegistry, FlowstateError, InvalidInputError
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.expressions import Expressions
from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.tasks.calls.outgoing import Outgoing
from flowstate.engines.tasks.calls.programs import Processes
from flowstate.engines.tasks.calls.secrets import MappedSecrets
from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.documents.reading import read
from flowstate.engines.tasks.errors import DocumentError, TaskError
from flowstate.engines.tasks.running import calling
from flowstate.engines.tasks.running.code import TaskCode
from flowstate.engines.tasks.runtime import Call
from flowstate.engines.tasks.service.tasks import Tasks
from tests.engines.tasks.mutating import mutated_leaves, mutated_text, mutated_tree, value_of
from tests.engines.tasks.scenarios import Scenario, scenarios

RIGHT = Path(__file__).parent / "documents" / "right"
ALL = Processes(container=True, script=True, shell=True, mcp=True)  # noqa: S604
LONGEST = 10.0  # Seconds for one document; the slowest takes one where nothing else runs.
ENOUGH = 0.3  # Seconds until what never ends is cancelled.
MEMORY = 600 * 1024  # KiB that thousands of them may add.


def counts(few: int, many: int) -> list[Any]:
    return [(0, few), pytest.param(1_000_000, many, marks=pytest.mark.nightly)]


@cache
def texts() -> list[str]:
    """Return documents that are right."""
    found = [path.read_text() for path in sorted(RIGHT.iterdir())]
    return found + [text for each in scenes() for text in each.texts]


@cache
def scenes() -> list[Scenario]:
    return scenarios()


async def act(arguments: Mapping[str, Any], call: Call) -> Any:
    return {"did": dict(arguments)}


async def fail(arguments: Mapping[str, Any], call: Call) -> Any:
    raise TaskError.of("communication", "it fails")


@contextlib.asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Tasks]:
    """Open tasks that can reach nothing; time is virtual, and expressions are evaluated apart."""
    clock = FakeClock()
    functions = {"act": act, "echo": act, "fail": fail, "sleep": act}
    async with (
        Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine,
        Delayer(engine),
        Tasks(
            engine,
            expressions=Expressions(workers=1, seconds=0.1),
            outgoing=Outgoing(hosts=()),
            secrets=MappedSecrets({"key": "hunter2-hunter2"}),
            functions=functions,
            rng=Random(0),
            **options,
        ) as tasks,
    ):
        yield tasks


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Collect what is raised inside and is no declared error, before it is made into one."""
    found: list[BaseException] = []

    def watch(owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        async def watched(*args: Any) -> Any:
            try:
                return await inner(*args)
            except (TaskError, FlowstateError, asyncio.CancelledError):
                raise
            except BaseException as error:
                found.append(error)
                raise

        monkeypatch.setattr(owner, name, watched)

    watch(TaskCode, "_advance")
    watch(calling, "_called")
    return found


@pytest.mark.parametrize(("start", "count"), counts(60, 5_000))
async def test_a_mutated_document_is_loaded_or_refused(start: int, count: int) -> None:
    before, slowest, refused = used(), 0.0, 0
    async with opened(processes=ALL) as tasks:
        for seed in range(start, start + count):
            random = Random(seed)
            text = random.choice(texts())
            mutate = random.choice([mutated_text, mutated_leaves, mutated_tree])
            text = mutate(random, text if mutate is mutated_text else read(text).value)
            began = time.process_time()
            try:
                await asyncio.wait_for(load(text, runtime=tasks.runtime), 60)
            except DocumentError as error:
                refused += 1
                lines = [each.line for each in error.problems]
                check(bool(lines) and min(lines) >= 1, seed)
            slowest = max(slowest, time.process_time() - began)
    assert 0.3 * count < refused < count
    assert slowest < LONGEST
    assert used() - before < MEMORY


@pytest.mark.parametrize(("start", "count"), counts(90, 5_000))
async def test_a_mutated_document_ends_as_it_may(
    start: int, count: int, faults: list[BaseException]
) -> None:
    before, ran = used(), 0
    async with opened() as tasks:
        for seed in range(start, start + count):
            random = Random(seed)
            scenario = random.choice(scenes())
            content = read(scenario.texts[0]).value
            content["document"]["name"] = f"n{seed}"
            head = {"document": content.pop("document")}
            mutate = mutated_tree if random.random() < 0.2 else mutated_leaves
            changed = json.loads(mutate(random, content))
            given = value_of(random) if random.random() < 0.3 else scenario.given
            with contextlib.suppress(DocumentError, InvalidInputError):
                if isinstance(changed, dict):
                    changed = {**changed, **head}
                    changed.pop("schedule", None)  # It would start others for years.
                key = (await tasks.add(json.dumps(changed)))[0].key
                id = await tasks.start(key, given, id=f"i{seed}")
                await asyncio.wait_for(end_of(tasks, id, hard=random.random() < 0.5), 60)
                ran += 1
            assert not faults, seed
    assert ran > count / 10
    assert used() - before < MEMORY


def check(is_right: bool, seed: int) -> None:
    assert is_right, seed


async def end_of(tasks: Tasks, id: str, *, hard: bool) -> None:
    """Wait for an instance, and cancel it if it does not end."""
    with contextlib.suppress(TimeoutError, TaskError):
        async with asyncio.timeout(ENOUGH):
            await tasks.result(id, timeout=1e7)
            return
    state = await tasks.engine.get_state(id)
    assert "parked" not in state.labels, state
    await tasks.cancel(id, hard=hard)
    passing = asyncio.create_task(pass_time(tasks.engine.clock))
    with contextlib.suppress(InstanceCancelledError, TaskError):
        await tasks.result(id)
    passing.cancel()


async def pass_time(clock: Any) -> None:
    """Let time pass, which stands still while a loop without an end runs."""
    while True:
        clock.advance(1)
        await asyncio.sleep(0.02)


def used() -> int:
    """Return the largest memory of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def laughs() -> str:
    levels = [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)]
    return "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(levels)


def nested_keys() -> str:
    levels = [f"{' ' * i}? {'k' * 5_000}\n{' ' * i}:\n" for i in range(90)]
    return "".join(levels) + " " * 90 + "[" + "1," * 60_000 + "1]"


SLOW = ("laughs", "values")  # Seconds.
YAML_BOMBS = {
    "laughs": (laughs(), "100,000 values, those of aliases included"),
    "alias of itself": ("&a [*a]", "stands for nothing, or for itself"),
    "open lists": ("[" * 1_000_000, "this is not YAML"),
    "lists": ("- " * 500_000, "100 levels"),
    "json": ('{"a":' * 101 + "1" + "}" * 101, "100 levels"),
    "open keys": ("? " * 500_000, "a key is a text"),
    "values": ("[" + "1," * 200_000 + "1]", "100,000 values"),
    "bytes": ("#" * 2_000_000, "1 MiB"),
    "directives": ("".join(f"%TAG !a{i}! x\n" for i in range(50_000)) + "--- a", "begin with %"),
    "long key": (f"? {'k' * 300_000}\n: [{'1,' * 90_000}1]", "keys of the document are too long"),
    "long keys": (nested_keys(), "keys of the document are too long"),
    "keys twice": ("a: 1\n" * 200_000, "stands here twice"),
    "merge": ("a: &a {x: 1}\nb: {<<: *a}", "no merge key"),
    "tag": ("a: !!python/object/apply:os.system [id]", "tags such as"),
    "digits": ("9" * 1_000_000, "no number of JSON"),
    "nan": ("a: .nan", "no number of JSON"),
    "surrogate": ('"\\ud800"', "not YAML"),
    "nul": ("a\0b", "not YAML"),
    "documents": ("--- a\n" * 100_000, "one document"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.nightly] if name in SLOW else [])
        for name in YAML_BOMBS
    ],
)
async def test_a_bomb_of_yaml_is_refused(name: str) -> None:
    text, expected = YAML_BOMBS[name]
    began, before = time.process_time(), used()
    problems = read(text).problems
    assert expected in " ".join(each.text for each in problems), problems[:3]
    assert len(problems) <= 202
    assert time.process_time() - began < LONGEST
    assert used() - before < MEMORY


BRANCHES = ", ".join(f"{{b{i}: {{wait: PT{i}S}}}}" for i in range(20))
GROWING = {
    "set": "- a: {set: {x: '${ . }'}}",
    "context": """
- a: {set: {v: 1}, export: {as: '${ "x" * 400000 }'}}
- b: {wait: PT1S}
- c: {set: '${ $context }'}""",
    "loop": "- a: {for: {in: '${ [range(30)] }'}, do: [{b: {set: '${ [., .] }'}}]}",
    "branches": f"- a: {{fork: {{branches: [{BRANCHES}]}}}}",
    "error": "- a: {raise: {error: {type: '${ . }', status: 1, detail: '${ . + . }'}}}",
    "caught": """
- a:
    try: [{b: {raise: {error: {type: 'https://x', status: 1, title: '${ . }'}}}}]
    catch: {when: .x == 1}""",
    "bomb": "- a: {set: {x: '${ last(range(1e15)) }'}}",
    "depth": "- a: {set: {x: '${ reduce range(1e5) as $i (0; [.]) }'}}",
    "memory": "- a: {if: '${ [range(1e9)] }', set: {a: 1}}",
    "many": "- a: {set: {x: '${ range(infinite) }'}}",
    "pattern": "- a: {input: {schema: {document: {pattern: '^(x|x)+$'}}}, set: {x: 1}}",
}


@pytest.mark.parametrize("size", [10, 250_000, 500_000, 1_040_000])
async def test_what_grows_too_large_is_an_error(size: int, faults: list[BaseException]) -> None:
    async with opened() as tasks:
        for name, do in GROWING.items():
            head = f"document: {{dsl: 1.0.3, namespace: a, name: {name}, version: 1.0.0}}\n"
            await tasks.add(f"{head}do:\n{do}")
            with contextlib.suppress(InvalidInputError):
                id = await tasks.start(f"a/{name}", "x" * size + "y", id=name)
                outcome = None
                with contextlib.suppress(TaskError):
                    outcome = await asyncio.wait_for(tasks.result(id, timeout=1e7), 60)
                assert "parked" not in (await tasks.engine.get_state(id)).labels
                assert outcome is None or size < 500_000
        assert not faults


UNREACHABLE = """
https://127.0.0.1/ http://127.0.0.1/ https://localhost/ https://[::1]/ https://[::ffff:127.0.0.1]/
https://2130706433/ https://0x7f000001/ https://0177.0.0.1/ https://127.1/ https://0/
https://10.0.0.1/ https://172.16.0.1/ https://192.168.0.1/ https://169.254.169.254/latest/meta-data
https://100.64.0.1/ https://[fd00::1]/ https://[fe80::1%25eth0]/ https://[64:ff9b::7f00:1]/
https://inner.example/ https://user:password@inner.example/ https://127.0.0.1:22/ ftp://127.0.0.1/
file:///etc/passwd gopher://127.0.0.1/ unix:///run/docker.sock data:text/plain,x https://①②⑦.0.0.1/
https://127.0.0.1#@example.com/ https://example.com@127.0.0.1/ https:127.0.0.1 //127.0.0.1/
https://127.0.0.1%00.example.com/ https://example.com\\@127.0.0.1/
"""


@pytest.mark.parametrize("written", ["literal", "expression"])
async def test_no_document_reaches_inside(written: str) -> None:
    connected = []

    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "127.0.0.1"] if host == "inner.example" else ["127.0.0.1"]

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    own = [
        f"https://127.0.0.1:{port}/",
        f"http://localhost:{port}/",
        f"https://any.example:{port}/",
    ]
    async with server, opened() as tasks:
        tasks.runtime.outgoing = Outgoing(resolve=resolve)
        for number, uri in enumerate([*UNREACHABLE.split(), *own]):
            endpoint = json.dumps(uri if written == "literal" else "${ .uri }")
            text = f"""
document: {{dsl: 1.0.3, namespace: a, name: n{number}, version: 1.0.0}}
do: [{{a: {{call: http, with: {{method: get, endpoint: {endpoint}}}}}}}]"""
            try:
                key = (await tasks.add(text))[0].key
            except DocumentError:
                continue
            with pytest.raises(TaskError) as caught:
                await tasks.result(await tasks.start(key, {"uri": uri}), timeout=1e6)
            kind = caught.value.type.rpartition("/")[2]
            assert kind in {"authorization", "configuration", "validation"}, (uri, caught.value)
    assert connected == []
