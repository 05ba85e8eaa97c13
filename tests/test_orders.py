"""The order service, as a newcomer runs it: killed, interrupted, on odd files, with wrong books."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flowstate import (
    Commit,
    End,
    Engine,
    InvalidCommandError,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.testing import Outcome, explore_crashes

pytest.importorskip("examples.orders.orders")
from examples.orders.bank import Bank, BankError, Entry
from examples.orders.flows import close, flows, go, order_id, stock_id
from examples.orders.orders import Order, OrderFileError, read, sample
from examples.orders.proof import faults

pytestmark = [pytest.mark.repository, pytest.mark.timeout(180)]
slow = pytest.mark.slow

ROOT = Path(__file__).parent.parent
ODD = """
1,tea,1,500
stock-tea,tea,1,500
"with, comma","tea, green",2,20000
flowstate.mailbox.1,cups,1,12000
ünï,anvil,1,900
big,tea,400,100
too much,tea,400,100
""".lstrip()

NO_WORKER = """
import sys
from examples.orders import __main__ as demo

demo.PATIENCE = 20.0
demo.sys.executable = "/bin/false"
sys.exit(demo.main())
"""


@contextmanager
def started(
    folder: Path, *arguments: str | Path, program: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Start the demo, or a program around it, with a folder of its own for temporary files."""
    start = ["-c", program] if program else ["-m", "examples.orders"]
    (folder / "tmp").mkdir()
    with subprocess.Popen(
        [sys.executable, *start, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(folder: Path, *arguments: str | Path, program: str = "") -> tuple[int, str]:
    """Run it to its end; return its exit status and all that it printed."""
    with started(folder, *arguments, program=program) as process:
        printed, _ = process.communicate()
    return process.returncode, printed


def workers_of(folder: Path) -> list[str]:
    """The processes whose database is in a folder."""
    paths = Path("/proc").glob("[0-9]*/cmdline")
    return [path.parent.name for path in paths if str(folder) in command_of(path)]


def command_of(path: Path) -> str:
    """The command of a process, empty if that has ended meanwhile."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def wait_for_workers(process: subprocess.Popen[str], folder: Path) -> None:
    """Return when the first row is printed, with workers at work."""
    assert process.stdout is not None
    for line in process.stdout:
        if re.match(r" +\d", line):
            break
    assert workers_of(folder)


def written(folder: Path, text: str) -> Path:
    path = folder / "orders.csv"
    path.write_text(text, encoding="utf-8")
    return path


@slow
def test_odd_orders_survive_two_kills(tmp_path: Path) -> None:
    status, printed = run(tmp_path, written(tmp_path, ODD))

    assert status == 0, printed
    assert printed.count("another one takes its place") == 2
    assert "7 orders" in printed
    assert printed.endswith("Every order ended, no one was charged twice, the stock is right.\n")
    assert "\r" not in printed  # This is no screen.
    assert list((tmp_path / "tmp").iterdir()) == []


@slow
@pytest.mark.parametrize("text", ["", "1,anvil,1,500\n"])
def test_next_to_no_orders(tmp_path: Path, text: str) -> None:
    status, printed = run(tmp_path, written(tmp_path, text))

    assert status == 0, printed


@slow
def test_a_worker_that_cannot_start_is_told(tmp_path: Path) -> None:
    status, printed = run(tmp_path, written(tmp_path, ODD), program=NO_WORKER)

    assert status == 1
    assert re.search(r"Worker \d+ has ended by itself\.", printed)


@slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_leaves_no_worker_behind(tmp_path: Path, sent: int, status: int) -> None:
    with started(tmp_path) as process:
        wait_for_workers(process, tmp_path)
        process.send_signal(sent)
        printed, _ = process.communicate()
        assert process.returncode == status, printed

    while workers_of(tmp_path):  # Else pytest's own limit on time ends it.
        time.sleep(0.01)
    assert "Traceback" not in printed
    if sent == signal.SIGINT:
        assert list((tmp_path / "tmp").iterdir()) == []


@slow
def test_refuses_a_wrong_file(tmp_path: Path) -> None:
    path = written(tmp_path, "1,tea,1,500\n2,tea,some,500\n")

    status, printed = run(tmp_path, path)

    assert status == 2
    assert printed.startswith(f"{path}:2: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("1,tea,1\n", ":1: not id,item,quantity,cents"),
        ("1,tea,1,500,6\n", ":1: not"),
        ("1,tea,1,500\n\n", ":2: not"),
        ("1,tea,0,500\n", ":1: not"),
        ("1,tea,1,-1\n", ":1: not"),
        ("1,tea,1,5.5\n", ":1: not"),
        ("1,tea,1,99999999999999999999\n", ":1: not"),
        (",tea,1,500\n", ":1: not"),
        ("1,,1,500\n", ":1: not"),
        (f"{'x' * 101},tea,1,500\n", ":1: not"),
        ("a\0b,tea,1,500\n", ":1: not"),
        ("1,tea,1,500\n1,cups,1,500\n", ":2: order '1' is there twice"),
        ("1,tea,1,500\n 1,tea,1,500\n", ":2: order '1' is there twice"),
        ('1,"tea,1,500\n', "not"),
    ],
)
def test_says_where_a_file_is_wrong(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(OrderFileError) as caught:
        read(written(tmp_path, text))

    assert place in str(caught.value)


def test_says_that_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"1,th\xe9,1,500\n")

    with pytest.raises(OrderFileError, match="No such file"):
        read(tmp_path / "missing")
    with pytest.raises(OrderFileError, match="directory"):
        read(tmp_path)
    with pytest.raises(OrderFileError, match="utf-8"):
        read(tmp_path / "latin")


def test_a_sample_is_a_proper_file(tmp_path: Path) -> None:
    made = sample(50, random.Random(1))
    lines = [f"{each.id},{each.item},{each.quantity},{each.cents}\n" for each in made]

    assert read(written(tmp_path, "".join(lines))) == made


def insist(call: Callable[..., None], *arguments: object) -> None:
    """Call a bank until it answers, and once more."""
    answers = 0
    while answers < 2:
        try:
            call(*arguments)
        except BankError:
            continue
        answers += 1


def test_the_bank_books_once_for_a_key(tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank.db")
    insist(bank.charge, "first", "a", 500)
    insist(bank.charge, "second", "b", 300)
    insist(bank.refund, "third", "a")
    insist(bank.refund, "fourth", "nobody")

    books = bank.books()

    assert books == {"a": [("charge", 500), ("refund", 500)], "b": [("charge", 300)]}
    assert bank.calls() > 8


def test_the_bank_would_show_a_second_key(tmp_path: Path) -> None:
    bank = Bank(tmp_path / "bank.db")
    insist(bank.charge, "first", "a", 500)
    insist(bank.charge, "other", "a", 500)

    assert bank.books() == {"a": [("charge", 500)] * 2}


SHIPPED, CANCELLED = order_id("1"), order_id("2")
CHARGE, OTHER_CHARGE, REFUND = ("charge", 500), ("charge", 700), ("refund", 700)
RIGHT = {SHIPPED: [CHARGE], CANCELLED: [OTHER_CHARGE, REFUND]}


@pytest.mark.parametrize(
    ("books", "stock", "found"),
    [
        (RIGHT, 9, ""),
        ({SHIPPED: [CHARGE]}, 9, ""),
        ({**RIGHT, SHIPPED: [CHARGE, CHARGE]}, 9, f"{SHIPPED}, shipped, has in the books: [("),
        ({**RIGHT, SHIPPED: [("charge", 50)]}, 9, "('charge', 50)"),
        ({**RIGHT, SHIPPED: [CHARGE, ("refund", 500)]}, 9, "('refund', 500)"),
        ({CANCELLED: RIGHT[CANCELLED]}, 9, f"{SHIPPED}, shipped, has in the books: None"),
        ({**RIGHT, CANCELLED: [OTHER_CHARGE]}, 9, f"{CANCELLED}, cancelled, has"),
        ({**RIGHT, CANCELLED: [OTHER_CHARGE, REFUND, REFUND]}, 9, f"{CANCELLED}, cancelled, has"),
        ({**RIGHT, CANCELLED: [OTHER_CHARGE, ("refund", 1)]}, 9, "('refund', 1)"),
        (RIGHT, 10, "10 of 'tea' are in stock, not 9"),
    ],
)
async def test_the_proof_finds_wrong_books(
    books: dict[str, list[Entry]], stock: int, found: str
) -> None:
    async with Engine(MemoryDriver(), flows) as engine:
        tea = StateContext(State(stock_id("tea")))
        tea.put(stock)
        await engine.do(Commit(Pause(tea)))
        for id, outcome in ((SHIPPED, "shipped"), (CANCELLED, "cancelled")):
            ctx = StateContext(State(id))
            await engine.do(Commit(Transit(ctx, "cancel"), close(ctx, outcome)))

        wrong = await faults(
            engine, [Order("1", "tea", 1, 500), Order("2", "tea", 1, 700)], 10, books
        )

    assert len(wrong) == bool(found)
    assert found in "".join(wrong)


@pytest.mark.parametrize("ends", [False, True])
async def test_the_proof_finds_an_order_that_did_not_come_to_its_end(ends: bool) -> None:
    async with Engine(MemoryDriver(), flows) as engine:
        tea = StateContext(State(stock_id("tea")))
        tea.put(10)
        ctx = StateContext(State(SHIPPED))
        step = go(ctx, "charge")
        await engine.do(Commit(Pause(tea), step, *([End(ctx)] if ends else [])))

        wrong = await faults(engine, [Order("1", "tea", 1, 500)], 10, {})

    assert wrong == [f"{SHIPPED} has not come to an end: charge"]


class PlainBank:
    """Books once for each key, in memory, and answers at the second call of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.booked: dict[str, tuple[str, str]] = {}

    def charge(self, key: str, id: str, _: int) -> None:
        self._book(key, "charge", id)

    def refund(self, key: str, id: str) -> None:
        self._book(key, "refund", id)

    def _book(self, key: str, kind: str, id: str) -> None:
        self.booked[key] = (kind, id)
        self.calls.append(key)
        if self.calls.count(key) == 1:
            raise BankError("no answer")


@slow
@pytest.mark.parametrize(
    ("order", "answer", "ended"),
    [
        (Order("1", "tea", 1, 500), None, "shipped"),
        (Order("1", "anvil", 1, 500), None, "cancelled"),
        (Order("1", "tea", 1, 50_000), True, "shipped"),
        (Order("1", "tea", 1, 50_000), False, "cancelled"),
        (Order("1", "tea", 1, 50_000), None, "cancelled"),
        (Order("1", "tea", 6, 500), None, "sold out"),
    ],
)
def test_ends_alike_whenever_its_process_dies(
    order: Order, answer: bool | None, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = PlainBank()

    async def at_once(call: Callable[..., None], *arguments: object) -> None:
        call(*arguments)

    def make_bank() -> PlainBank:
        nonlocal bank
        bank = PlainBank()
        return bank

    async def trade(engine: Engine, _: PlainBank) -> None:
        stock = StateContext(State(stock_id(order.item)))
        stock.put(5)
        with contextlib.suppress(RevisionMismatchError):
            await engine.do(Commit(Pause(stock)))
        ctx = StateContext(State(SHIPPED))
        ctx.put(order)
        with contextlib.suppress(RevisionMismatchError):
            await engine.start(ctx, go(ctx, "reserve").to)
        if answer is not None:
            with contextlib.suppress(InvalidCommandError):  # It has ended, after an answer.
                await engine.signal(SHIPPED, "approval", answer, key="answer")

    def is_right(outcome: Outcome[PlainBank]) -> None:
        assert outcome.states[SHIPPED].labels["stage"] == ended
        left = outcome.states[stock_id(order.item)].get(int)
        assert left == 5 - order.quantity * (ended == "shipped")

    monkeypatch.setattr("examples.orders.flows.asyncio.to_thread", at_once)
    monkeypatch.setattr("examples.orders.flows.bank", lambda: bank)

    explored = explore_crashes(
        make_bank,
        lambda _: flows,
        trade,
        outside=lambda bank: sorted(set(bank.booked.values())),
        invariants=[is_right],
        crashes=2,
        max_runs=200,
    )

    assert len(explored.points) >= 3
