"""Random workflows: nests of every construct, with what only a kernel can do among them.

How such a program ends depends on no time and on no order of threads: messages are sent at once and
taken in their order; of a race all but one take longer than any crash; threads only add up.
"""

from random import Random

from tests.engines.compiler.programs import Writer

__all__ = ["written"]

WORKER = """
@helper
async def worker(s: Data, n: int) -> None:
    for i in range(n % 3):
        s.sum += await step(calm, i + n, name='w1')
        if i:
            await sleep(30.0, name='w2')
    s.sum += await step(calm, n, name='w3')
    s.joined += 1

@helper
async def quick(s: Data, n: int) -> int:
    return await step(calm, n)

@helper
async def come(s: Data, n: int) -> int:
    log(s, 'come', n)
    return await step(calm, n)

@helper(shielded=True)
async def go_out(s: Data, held: int, failed: bool) -> None:
    log(s, 'leave', held + await step(calm, held), failed)

room = Manager(come, go_out)

@helper
async def idle(s: Data) -> None:
    await wait(Never, name='cidle')

@workflow('idles')
async def idles(s: Item) -> int:
    await sub(worker_of_idles, s.n)
    return 1

@helper
async def worker_of_idles(s: Item, n: int) -> None:
    await any_of(wait(Never), sleep(900_000.0 + n))

@workflow('part', retry=POLICY)
async def part(s: Item) -> int:
    got = await step(number, s.n)
    match await wait('never', Never, Timeout(hours=s.n)):
        case Timeout():
            got += await step(number, got, name='again')
    return got

"""
WHOLE = """
@workflow('whole', retry=POLICY)
async def whole(s: Data) -> str:
    try:
        end = str(await sub(program))
    except Exception as error:
        end = 'raised ' + chain(error)
    await any_of(until(lambda s: s.joined == s.forks and s.added == ADDED), sleep(400_000.0))
    return end
"""
MESSAGES = ("Paid", "Note")


class WholeWriter(Writer):
    """Writes a workflow, and the helpers and children that it needs."""

    kernel = ("cancel", "clean", "each", "go", "hold", "late", "local", "race", "wait")

    def whole(self) -> str:
        """Write all of it."""
        self._depth = 0
        text = self.text().replace("async def program", "@helper\nasync def program")
        return f"{WORKER}{text}{WHOLE}"

    def _statement(self, depth: int) -> None:
        # A helper keeps to itself: it may run while a message or a child is waited for.
        if not self._has_inner or self._rng.random() < 0.6:
            super()._statement(depth)
        else:
            getattr(self, f"_{self._rng.choice(self.kernel)}")(depth)

    def _named(self, kind: str = "s") -> str:
        self._stops += 1
        return f"name='{kind}{self._stops}'"

    def _join(self, depth: int) -> None:
        """Write a join of which one branch may fail, so that it is known which."""
        many, arg, var = "*[step(calm, v) for v in ys[:3]]", self._argument(), self._var()
        calls = f"step(number, {arg}), step(calm, s.n)"
        if self._has_inner and self._rng.random() < 0.5:
            calls = f"step(calm, 2), sub(inner, {arg})"
        if self._rng.random() < 0.5:
            self._line(depth, f"{var}, *_ = await all_of({calls}, {self._named()})")
        else:
            self._line(depth, f"{var} = sum(await all_of({many}, {self._named()}))")

    def _wait(self, depth: int) -> None:
        """Wait for messages that have come, or never come."""
        new, name = self._new("m"), self._named("m")
        if self._rng.random() < 0.3:
            self._line(depth, "try:")
            self._line(depth + 1, f"{new} = await wait(Paid, timeout=90_000, {name})")
            self._line(depth + 1, f"{self._var()} = {new}.n")
            self._line(depth, "except TimeoutError:")
            self._block(depth + 1, 2)
            return
        classes = self._rng.choice(["Paid", "Note", "Paid, Note", "Note, Paid"])
        if self._rng.random() < 0.3:
            late = "sleep(90_000)"
            both = f"any_of(wait(Paid), {late}), any_of({late}, wait({classes}))"
            self._line(depth, f"log(s, *await all_of({both}, {name}))")
            return
        self._line(depth, f"match await wait({classes}, Timeout(days=1), {name}):")
        for kind in MESSAGES:
            if kind in classes:
                self._line(depth + 1, f"case {kind}(n={self._var()}):")
                self._block(depth + 2, 2)
        if self._rng.random() < 0.7:
            self._line(depth + 1, "case Timeout():")
            self._block(depth + 2, 2)

    def _race(self, depth: int) -> None:
        """Write a race that one branch wins: the others take days, or fail before."""
        quick = self._rng.choice(["step(calm, s.n)", "sub(quick, s.n)"])
        slow = self._rng.choice(["wait(Never)", "sleep(300_000)", "until(never)"])
        both = self._rng.sample([quick, slow], 2)
        var = self._var()
        match self._rng.randrange(4):
            case 0:
                self._line(depth, f"{var} = await any_of({', '.join(both)}, {self._named()}) or 0")
            case 1:
                some = f"step(number, {self._argument()}), sleep(300_000)"
                self._line(depth, f"{var} = await any_of({some}, {self._named()}) or 1")
            case 2:
                some = f"step(calm, 1), {', '.join(both)}, step(calm, s.n)"
                first = f"first({self._rng.randint(0, 2)}, {some}, {self._named()})"
                new = self._new("q")
                self._line(depth, f"{new}: tuple[int, ...] = await {first}")
                self._line(depth, f"log(s, len({new}))")
            case _:
                self._line(depth, f"{var} = await any_of({self._named()}) or 2")

    def _each(self, depth: int) -> None:
        items = f"[Item(v % 5 + 1) for v in ys[:{self._rng.randint(0, 3)}]]"
        call = f"each(part, {items}, limit={self._rng.randint(1, 3)}, {self._named('e')})"
        self._line(depth, "try:")
        self._line(depth + 1, f"{self._var()} = sum(await {call})")
        self._line(depth, "except ChildFailed:")
        self._block(depth + 1, 2)

    def _go(self, depth: int) -> None:
        self._line(depth, "if tick(s):")
        self._line(depth + 1, "s.forks += 1")
        self._line(depth + 1, f"go(worker, s.forks, {self._named('g')})")

    def _cancel(self, depth: int) -> None:
        """Write a stop at which the only cancel comes."""
        forms = [
            "wait(Never, {})",
            "sleep(900_000, {})",
            "until(never, {})",
            "step(hang, {})",
            "sub(idle, {})",
            "any_of(wait(Never), sub(idle), until(never), {})",
            "all_of(sleep(900_000), step(hang), {})",
            "each(idles, [Item(1), Item(2)], {})",
        ]
        self._line(depth, f"if not s.told and ({self._test()}):")
        self._line(depth + 1, "s.told = True")
        self._line(depth + 1, f"await {self._rng.choice(forms).format(self._named('c'))}")

    def _late(self, depth: int) -> None:
        """Write a step of which every attempt takes too long."""
        self._line(depth, "try:")
        self._line(depth + 1, f"await step(hang, timeout=20, {self._named('t')})")
        name = self._new("e")
        self._line(depth, f"except StepFailed as {name}:")
        self._line(depth + 1, f"log(s, {name}.attempts)")

    def _local(self, depth: int) -> None:
        call = f"step(calm, {self._argument()}, local=True, {self._named()})"
        self._line(depth, f"{self._var()} = await {call}")

    def _hold(self, depth: int) -> None:
        """Write a block that is left durably by each of its exits."""
        name, held = self._named("k"), self._new("h")
        managers = {
            f"lock('{held}', {name})": "log(s, 'held')",
            f"rate_limit('{held}', 1, per=30, {name})": "log(s, 'its turn')",
            f"room({self._argument()}, {name}) as {held}": f"log(s, {held})",
            f"compensating({name}) as {held}": f"{held}(undone, {self._var()})",
        }
        manager = self._rng.choice([*managers, [*managers][-1]])
        self._line(depth, f"async with {manager}:")
        self._line(depth + 1, managers[manager])
        self._block(depth + 1, 3)
        if self._rng.random() < 0.5:
            self._cancel(depth + 1)

    def _clean(self, depth: int) -> None:
        """Clean up at any end, a cancel too."""
        self._line(depth, "try:")
        self._block(depth + 1, 2)
        self._cancel(depth + 1)
        if self._rng.random() < 0.5:
            self._line(depth, "except (Cancelled, StepFailed):")
            self._line(depth + 1, f"log(s, 'undo', {self._stop('calm')})")
            self._block(depth + 1, 2)
            if self._rng.random() < 0.6:
                self._line(depth + 1, "raise")
        else:
            self._line(depth, "finally:")
            self._line(depth + 1, f"log(s, 'at last', {self._stop('calm')})")
            if self._rng.random() < 0.3:
                self._line(depth + 1, f"if {self._test()}: return {self._value(1)}")


def written(seed: int) -> str:
    """Return the source of a workflow that is called ``whole``."""
    return WholeWriter(Random(seed)).whole()
