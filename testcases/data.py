"""Blobs come back as they were stored, once per content, and only with their commit."""

from collections.abc import Sequence
from datetime import timedelta

from flowstate.commands import Command, Commit, Delay, End, GetData, StoreData, Transit
from flowstate.context import StateContext
from flowstate.data import Data, DataRef, checksum_of
from flowstate.delayer import Delayer
from flowstate.driver import Driver, DueQuery, Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import DataNotFoundError, RevisionMismatchError
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import DriverWrapper, committed, know, raised, snapshot

__all__ = ["CASES"]

MIB = 1024 * 1024


class _Recording(DriverWrapper):
    """Notes the checksums of the data that it is given to store."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.stored: list[str] = []

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Note, and pass on."""
        self.stored += [data.checksum for writes in batch for data in writes.data]
        return await super().commit(batch)


async def _read(h: Harness, id: str, alias: str) -> Data:
    """Read data through a context that knows only what the store has."""
    return await h.engine.get_data(StateContext(await h.engine.get_state(id)), alias)


@case()
async def data_comes_back(h: Harness) -> None:
    """G5: blob and annotations come back byte for byte, also from another context."""
    blobs = [b"", b"\0", bytes(range(256)), "é".encode(), b"x" * MIB]
    ctx = await committed(h, "holder")
    for n, blob in enumerate(blobs):
        ctx.data[f"blob-{n}"] = Data(blob, {"n": str(n)})
        await h.engine.do(StoreData(ctx, f"blob-{n}"))
    await h.engine.do(Commit(Transit(ctx, "work")))
    for n, blob in enumerate(blobs):
        found = await _read(h, "holder", f"blob-{n}")
        check((found.blob, found.annotations, found.rev), (blob, {"n": str(n)}, 1), f"blob {n}")
        check(found.checksum, checksum_of(found), "checksum")


@case()
async def largest_blob(h: Harness) -> None:
    """G5: a blob of 16 MiB is stored and comes back."""
    ctx = await committed(h, "holder")
    ctx.data["big"] = Data(b"0123456789abcdef" * MIB)
    await h.engine.do(Commit(StoreData(ctx, "big")))
    check((await _read(h, "holder", "big")).blob == ctx.data["big"].blob, True, "equality")


@case()
async def store_and_get_in_one_commit(h: Harness) -> None:
    """G1: a commit stores data and reads data, what it stores itself included."""
    ctx, reader = await committed(h, "holder"), h.ctx("reader")
    ctx.data["a"] = Data(b"first")
    await h.engine.do(Commit(StoreData(ctx, "a"), Transit(ctx, "work")))
    other = StateContext(ctx.committed)
    reader.data["b"] = Data(b"second", {"of": "reader"})
    both = Commit(StoreData(reader, "b"), GetData(reader, "b"), GetData(other, "a"), End(other))
    await h.engine.do(both)
    check(other.data["a"].blob, b"first", "data that was stored before")
    check(reader.data["b"].blob, b"second", "data that the commit stored")
    check((await _read(h, "reader", "b")).annotations, {"of": "reader"}, "annotations")
    check((reader.committed.rev, other.committed.rev), (3, 4), "revisions")


@case()
async def get_data_without_commit(h: Harness) -> None:
    """G5: reading data fills the context, and writes nothing."""
    ctx = await committed(h, "holder")
    ctx.data["a"] = Data(b"blob")
    await h.engine.do(Commit(StoreData(ctx, "a")))
    other = StateContext(ctx.committed)
    found = await h.engine.do(GetData(other, "a"))
    check(other.data, {"a": found}, "data of the context")
    check(other.current, ctx.committed, "state")
    check(await h.engine.head(), 2, "head")


@case()
async def unchanged_data_is_not_stored_again(h: Harness) -> None:
    """G13: content that the state refers to already is not given to the store again."""
    driver = _Recording(h.driver)
    know(h, "work")
    ctx = h.ctx("holder")
    async with h.make_engine(driver) as engine:
        contents = [Data(b"1"), Data(b"1"), Data(b"2"), Data(b"2"), Data(b"2", {"note": "new"})]
        for data in contents:
            ctx.data["x"] = data
            await engine.do(Commit(StoreData(ctx, "x"), Transit(ctx, "work")))
            await engine.do(StoreData(ctx, "x"))
    expected = [checksum_of(contents[n]) for n in (0, 2, 4)]
    check(driver.stored, expected, "checksums given to the store")
    check(ctx.current.data["x"], DataRef(3, expected[-1]), "reference")
    log = [s.data["x"].rev for s in await h.log()]
    check(log, [1, 1, 2, 2, 3], "revisions of the data")


@case()
async def flow_config(h: Harness) -> None:
    """G5: two flows read a config blob and rewrite a number blob: 100, times 10, by 20, 50."""

    async def number(ctx: StateContext, engine: Engine, name: str) -> tuple[int, int]:
        config = await engine.get_data(ctx, "config")
        factor = dict(line.split("=") for line in config.blob.decode().splitlines())[name]
        return int((await engine.get_data(ctx, "number")).blob), int(factor)

    @h.flows.flow("multiply")
    async def multiply(ctx: StateContext, engine: Engine) -> Command[None]:
        found, factor = await number(ctx, engine, "multiply")
        ctx.data["number"] = Data(str(found * factor).encode())
        return Commit(StoreData(ctx, "number"), Transit(ctx, "divide"))

    @h.flows.flow("divide")
    async def divide(ctx: StateContext, engine: Engine) -> Command[None]:
        found, factor = await number(ctx, engine, "divide")
        ctx.data["number"] = Data(str(found // factor).encode())
        return Commit(StoreData(ctx, "number"), End(ctx))

    ctx = h.ctx("calculation")
    ctx.data["config"] = Data(b"multiply=10\ndivide=20")
    ctx.data["number"] = Data(b"100")
    start = Commit(StoreData(ctx, "config"), StoreData(ctx, "number"), Transit(ctx, "multiply"))
    await h.engine.do(start)
    await h.engine.execute(StateContext(ctx.committed))
    found = []
    for state in await h.log():
        found.append((await h.engine.get_data(StateContext(state), "number")).blob)
        check(state.data["config"].rev, 1, "revision of the config")
    check(found, [b"100", b"1000", b"50"], "numbers")


@case()
async def refused_commit_leaves_no_data(h: Harness) -> None:
    """G1: the data of a commit that is refused is not stored, and its context is as before."""
    ctx, stale = await committed(h, "holder"), await committed(h, "stale")
    await h.engine.do(Commit(Transit(stale.copy(), "work")))
    ctx.data["x"] = data = Data(b"never stored", {"a": "b"})
    before, log = snapshot(ctx), await h.log()
    refused = Commit(StoreData(ctx, "x"), Transit(stale, "work"))
    await raised(RevisionMismatchError, h.engine.do, refused)
    check(await h.driver.get_data(checksum_of(data)), None, "data in the store")
    check((snapshot(ctx), await h.log()), (before, log), "context and log")
    check(ctx.data["x"] is data, True, "the data that the caller gave")


@case()
async def data_outside_a_commit(h: Harness) -> None:
    """G1: data stored by itself belongs to the state only when that is committed."""
    ctx = await committed(h, "holder")
    ctx.data["x"] = Data(b"blob")
    await h.engine.do(StoreData(ctx, "x"))
    stored = await h.driver.get_data(ctx.data["x"].checksum)
    check(stored.blob if stored else None, b"blob", "data in the store")
    check((await h.engine.get_state("holder")).data, {}, "references before the commit")
    check(await h.engine.head(), 1, "head")
    await h.engine.do(Commit(End(ctx)))
    check((await _read(h, "holder", "x")).blob, b"blob", "data after the commit")


@case()
async def fork_shares_data(h: Harness) -> None:
    """G5: a fork refers to the data of its origin, and changes only its own."""
    ctx = await committed(h, "origin")
    ctx.data["x"] = Data(b"shared")
    await h.engine.do(Commit(StoreData(ctx, "x")))
    fork = ctx.fork("fork")
    await h.engine.do(Commit(Transit(fork, "work")))
    fork.data["x"] = Data(b"changed")
    check((await _read(h, "fork", "x")).blob, b"shared", "data of the fork at first")
    await h.engine.do(Commit(StoreData(fork, "x")))
    found = [(await _read(h, id, "x")).blob for id in ("origin", "fork")]
    check(found, [b"shared", b"changed"], "data of origin and fork")


@case()
async def data_of_older_revisions(h: Harness) -> None:
    """G5: every revision keeps the data that it had."""
    ctx = h.ctx("holder")
    for n in range(5):
        ctx.data["x"] = Data(str(n).encode())
        await h.engine.do(Commit(StoreData(ctx, "x")))
    for n, state in enumerate(await h.log()):
        found = await h.engine.get_data(StateContext(state), "x")
        check((found.blob, found.rev), (str(n).encode(), n + 1), f"data at revision {n + 1}")


@case()
async def compaction_takes_data(h: Harness) -> None:
    """G13: data that only compacted revisions referred to is removed, and no other."""
    ctx = h.ctx("holder")
    checksums = []
    for blob in (b"old", b"both", b"new"):
        ctx.data["x"] = Data(blob)
        await h.engine.do(Commit(StoreData(ctx, "x")))
        checksums.append(ctx.data["x"].checksum)
    keeper = h.ctx("keeper")
    keeper.data["y"] = Data(b"both")
    await h.engine.do(Commit(StoreData(keeper, "y")))
    await committed(h, "last")
    await h.engine.compact(5)
    found = [await h.driver.get_data(checksum) for checksum in checksums]
    check([data.blob if data else None for data in found], [None, b"both", b"new"], "data")


@case()
async def compaction_leaves_new_data(h: Harness) -> None:
    """G13: data that was stored just now, and is not committed yet, outlives a compaction."""
    know(h, "work")
    ctx = h.ctx("holder")
    for turn in range(3):
        ctx.data["x"] = Data(f"new in turn {turn}".encode())
        await h.engine.do(StoreData(ctx, "x"))
        await h.engine.compact(turn)
        await h.engine.compact(2**63 - 1)  # Above the head, so what is stored now is not below.
        await h.engine.do(Commit(Transit(ctx, "work")))
        check((await _read(h, "holder", "x")).blob, ctx.data["x"].blob, f"data of turn {turn}")


@case()
async def compaction_leaves_data_that_was_stored_before_its_state(h: Harness) -> None:
    """G13: data that was stored by itself is kept from the commit on that refers to it."""
    know(h, "work")
    ctx = h.ctx("holder")
    ctx.data["x"] = Data(b"stored alone")
    await h.engine.do(StoreData(ctx, "x"))
    await h.engine.do(Commit(Transit(ctx, "work")))
    await committed(h, "last")
    await h.engine.compact(2**63 - 1)
    check((await _read(h, "holder", "x")).blob, b"stored alone", "data")


@case()
async def compaction_leaves_data_of_delays(h: Harness) -> None:
    """G10, G13: data that a delay refers to is kept until the delay has fired, then removed."""

    @h.flows.flow("later")
    async def later(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit((await engine.get_data(ctx, "doc")).blob.decode())
        return Commit(End(ctx))

    ctx = await committed(h, "job")
    ctx.data["doc"] = Data(b"precious")
    await h.engine.do(StoreData(ctx, "doc"))
    await h.engine.do(Delay(ctx, "later", after=timedelta(milliseconds=50)))
    dropped = await committed(h, "dropped")
    dropped.data["doc"] = Data(b"given up")
    await h.engine.do(StoreData(dropped, "doc"))
    await h.engine.do(Delay(dropped, "later", after=timedelta(days=1)))
    checksum = dropped.data["doc"].checksum
    await _compact(h, "first")
    check((await h.driver.get_data(checksum) or Data(b"")).blob, b"given up", "data of the delay")
    loaded = StateContext(await h.engine.get_state("dropped"))
    await h.engine.do(Commit(End(loaded)))
    await _compact(h, "second")
    check(await h.driver.get_data(checksum), None, "data once its delay is gone")
    async with Delayer(h.engine):
        await h.visited("precious")


async def _compact(h: Harness, name: str) -> None:
    """Compact all there is, after some commits of others."""
    for number in range(3):
        await committed(h, f"{name}-{number}")
    await h.engine.compact(await h.engine.head())


@case()
async def data_that_a_delay_needs(h: Harness) -> None:
    """G1: a delay whose data is no longer stored is refused."""
    ctx = await committed(h, "job")
    ctx.data["doc"] = Data(b"volatile")
    await h.engine.do(StoreData(ctx, "doc"))
    await _compact(h, "others")
    await raised(DataNotFoundError, h.engine.do, Delay(ctx, "work", after=timedelta(days=1)))
    check((await h.driver.get_due(DueQuery("delay", everything=True))).due, [], "delays")


@case()
async def missing_data(h: Harness) -> None:
    """G14: data that is not there is an error: in the context, the state, and the store."""
    ctx = await committed(h, "holder")
    await raised(DataNotFoundError, lambda: h.engine.do(StoreData(ctx, "x")))
    await raised(DataNotFoundError, lambda: h.engine.do(Commit(StoreData(ctx, "x"))))
    await raised(DataNotFoundError, lambda: h.engine.do(GetData(ctx, "x")))
    ctx.data["x"] = Data(b"1")
    await h.engine.do(Commit(StoreData(ctx, "x")))
    old = StateContext(ctx.committed)
    ctx.data["x"] = Data(b"2")
    await h.engine.do(Commit(StoreData(ctx, "x")))
    await committed(h, "last")
    await h.engine.compact(4)
    before = snapshot(old)
    await raised(DataNotFoundError, lambda: h.engine.do(GetData(old, "x")))
    check(snapshot(old), before, "context")
    fork = old.fork("fork")
    await raised(DataNotFoundError, lambda: h.engine.do(Commit(Transit(fork, "work"))))
    check(await h.engine.head(), 4, "head")


@case("durable")
async def data_survives(h: Harness) -> None:
    """G7: data is there after the store was closed and opened again."""
    ctx = h.ctx("holder")
    ctx.data["x"] = Data(b"\0blob", {"a": "b"})
    await h.engine.do(Commit(StoreData(ctx, "x")))
    await h.reopen()
    found = await _read(h, "holder", "x")
    check((found.blob, found.annotations), (b"\0blob", {"a": "b"}), "data")


CASES: tuple[Case, ...] = (
    data_comes_back,
    largest_blob,
    store_and_get_in_one_commit,
    get_data_without_commit,
    unchanged_data_is_not_stored_again,
    flow_config,
    refused_commit_leaves_no_data,
    data_outside_a_commit,
    fork_shares_data,
    data_of_older_revisions,
    compaction_takes_data,
    compaction_leaves_new_data,
    compaction_leaves_data_that_was_stored_before_its_state,
    compaction_leaves_data_of_delays,
    data_that_a_delay_needs,
    missing_data,
    data_survives,
)
