"""Random programs: nests of every construct, with stops anywhere."""

from random import Random

from tests.engines.compiler.program_values import Values

__all__ = ["program"]

ENTERED = """
@helper
async def enter(s: Data, p: int) -> Box:
    return await step(box, p, name='e1')

@helper(shielded=True)
async def leave(s: Data, held: Box, failed: bool) -> None:
    log(s, held.n, failed)
    s.n += await step(number, held.n, name='e2')

door = Manager(enter, leave)
"""
CLASSES = ("Alpha", "Beta", "KeyError", "(Beta, ValueError)", "Exception")


class Writer(Values):
    """Writes one program."""

    def text(self) -> str:
        """Write the program."""
        self._lines += ENTERED.splitlines()
        self._line(0, "@helper")
        self._line(0, "async def inner(s: Data, p: int, q: str = 'q') -> int:")
        self._declare("p")
        self._line(1, "ys: list[int] = [p, 1]")
        self._budget = 6
        self._block(1, 2)
        self._line(1, "return a + len(q)")
        self._line(0, "")
        self._has_inner = True
        self._line(0, "async def program(s: Data) -> int | str:")
        self._declare("1")
        self._line(1, "c, d = 3, 4" if self._rng.random() < 0.9 else "c = 5")
        self._line(1, "ys: list[int] = [2, 0, 1]")
        self._budget = self._rng.randint(6, 40)
        while self._budget > 0:
            self._round()
        self._line(1, "log(s, a, b, ys)")
        self._line(1, "return a")
        return "\n".join(self._lines) + "\n"

    def _round(self) -> None:
        """Write some statements; what they raise often does not end the program."""
        if self._rng.random() < 0.4:
            return self._block(1, 4)
        heads = ["while tick(s):", "for j in range(2):", "if a < 9:", "for t in 'xyz':"]
        self._line(1, self._rng.choice(heads))
        self._line(2, "try:")
        self._loops += "if" not in self._lines[-2]
        self._block(3, 5)
        self._loops = 0
        name = self._new("e")
        self._line(2, f"except Exception as {name}:")
        self._line(3, f"log(s, 'survived', chain({name}))")
        self._handlers += 1
        self._block(3, 2)
        self._handlers -= 1
        return None

    def _declare(self, value: str) -> None:
        self._line(1, f"a: int = {value}")
        self._line(1, "b = 2")
        for name in "bcd":
            self._line(1, f"{name}: int")

    def _block(self, depth: int, most: int) -> None:
        for _ in range(self._rng.randint(1, most)):
            if self._budget <= 0:
                break
            self._budget -= 1
            self._statement(depth)
        self._line(depth, f"log(s, {self._new('x')!r})")

    def _statement(self, depth: int) -> None:
        kinds = ["assign", "stop", "stop", "stop", "log", "data", "list"]
        if depth < 6:
            kinds += ["if", "if", "while", "for", "for", "try", "try", "match", "function", "with"]
            kinds += ["enter"]
        if depth > 1:
            kinds += ["raise", "raise"] + ["return"] * (self._rng.random() < 0.4)
        if self._loops:
            kinds += ["leave", "leave"]
        if self._handlers:
            kinds += ["again"]
        kinds += ["delete", "join", "assert", "alias", "keep", "box", "suppress", "shared"]
        kind = self._rng.choice(kinds)
        getattr(self, "_stop_statement" if kind == "stop" else f"_{kind}")(depth)

    def _assign(self, depth: int) -> None:
        forms = [
            f"{self._var()} = {self._value()}",
            f"{self._var()} += {self._value()}",
            f"{self._var()}, {self._var()} = {self._value()}, {self._value()}",
            f"{self._var()} = {self._var()} = {self._value()}",
        ]
        self._line(depth, self._rng.choice(forms))

    def _log(self, depth: int) -> None:
        self._line(depth, f"log(s, f'{{{self._value()}}}')")

    def _data(self, depth: int) -> None:
        forms = ["s.n += 1", f"s.n = {self._value()}"]
        self._line(depth, self._rng.choice(forms))
        if "s.xs" not in self._fixed or self._rng.random() < 0.5:
            self._line(depth, f"if tick(s): s.xs.append({self._value()})")

    def _list(self, depth: int) -> None:
        if "ys" in self._fixed:
            self._line(depth, f"if tick(s): ys.append({self._value()})")
            return
        forms = [
            f"ys = [{self._value()}, {self._value()}]",
            f"ys = [v + {self._var()} for v in ys][:5]",
            "ys = sorted(ys)",
            f"ys.append({self._value()})",
            f"ys[0] = {self._value()}",
        ]
        self._line(depth, self._rng.choice(forms))

    def _stop_statement(self, depth: int) -> None:
        new = self._new("k")
        var = self._var()
        forms = [
            f"{var} = {self._stop_value()}",
            f"{var} = {self._stop_value()}",
            f"{var} += {self._stop()}",
            f"s.n = {self._stop_value()}",
            f"log(s, {self._stop_value()})",
            f"{new} = {self._stop('box')}; log(s, {new}.n, {new}.label)",
            f"{new}: int = {self._stop()}; {var} = {new}",
            f"{var}, {new} = {self._stop('pair')}; log(s, {new})",
            f"({var}, {new}), *{new}r = ({self._stop('pair')}), 1; log(s, {new}r)",
            f"{new} = {self._stop('maybe')}; {var} = {new} or 3",
            f"{self._stop()}",
        ]
        if "s.xs" not in self._fixed:
            forms.append(f"s.xs.append({self._stop()})")
        for line in self._rng.choice(forms).split("; "):
            self._line(depth, line)

    def _if(self, depth: int) -> None:
        self._line(depth, f"if {self._any_test()}:")
        self._block(depth + 1, 3)
        if self._rng.random() < 0.3:
            self._line(depth, f"elif {self._any_test()}:")
            self._block(depth + 1, 2)
        if self._rng.random() < 0.4:
            self._line(depth, "else:")
            self._block(depth + 1, 2)

    def _body(self, depth: int, fixed: str = "") -> None:
        self._loops += 1
        self._fixed.append(fixed)
        self._block(depth + 1, 3)
        self._fixed.pop()
        self._loops -= 1
        if self._rng.random() < 0.4:
            self._line(depth, "else:")
            self._block(depth + 1, 2)

    def _while(self, depth: int) -> None:
        if self._rng.random() < 0.3:
            self._line(depth, "while True:")
            self._line(depth + 1, "if not tick(s): break")
        else:
            self._line(depth, f"while tick(s) and ({self._any_test()}):")
        self._body(depth)

    def _for(self, depth: int) -> None:
        var = self._rng.choice([self._var(), self._new("i")])
        match self._rng.randrange(9):
            case 0:
                header, fixed = f"for {var} in range({self._value(1)} % 4):", ""
            case 1:
                header, fixed = f"for {var} in s.xs:", "s.xs"
            case 2:
                header, fixed = f"for {var} in ys:", "ys"
            case 3:
                new = self._new("i")
                header, fixed = f"for {new}, {var} in enumerate(s.xs[:3]):", ""
            case 4:
                header, fixed = f"for {var} in [{self._var()}, int({self._value()})]:", ""
            case 5:
                header, fixed = f"for {var} in {self._stop('numbers')}:", ""
            case 6:
                header, fixed = f"for {var}, s.n in zip(ys[:2], list(s.xs)):", ""
            case 7:
                new = self._new("zs")
                self._line(depth, f"{new}: list[int] = [v * 2 for v in s.xs if v < 5][:3]")
                header, fixed = f"for {var} in list({new}):", ""
            case _:
                header, fixed = f"for {var} in range(3, {self._value(0)} % 3 - 2, -2):", ""
        self._line(depth, header)
        if fixed:
            self._line(depth + 1, "if not tick(s): break")
        self._body(depth, fixed)

    def _try(self, depth: int) -> None:
        self._line(depth, "try:")
        if depth < 6 and self._budget > 0 and self._rng.random() < 0.3:
            self._budget -= 1
            self._try(depth + 1)
        self._block(depth + 1, 3)
        shape = self._rng.choice(["except", "finally", "both"])
        if shape != "finally":
            for kind in self._rng.sample(CLASSES, self._rng.choice([1, 1, 2])):
                self._handler(depth, kind)
            if self._rng.random() < 0.3:
                self._line(depth, "else:")
                self._block(depth + 1, 2)
        if shape != "except":
            self._line(depth, "finally:")
            if self._rng.random() < 0.5:
                self._line(depth + 1, f"log(s, {self._stop()})")
            self._block(depth + 1, 2)

    def _handler(self, depth: int, kind: str) -> None:
        name = self._new("e") if self._rng.random() < 0.7 else ""
        self._line(depth, f"except {kind} as {name}:" if name else f"except {kind}:")
        self._handlers += 1
        self._line(
            depth + 1, f"log(s, 'caught', {self._shown}({name}))" if name else "log(s, 'caught')"
        )
        self._block(depth + 1, 3)
        if self._rng.random() < 0.4:
            forms = [
                "raise",
                "raise Beta(7)",
                *([f"raise {name}", f"raise Alpha(5) from {name}"] if name else []),
            ]
            self._line(depth + 1, self._rng.choice(forms))
        self._handlers -= 1

    def _match(self, depth: int) -> None:
        match self._rng.randrange(3):
            case 0:
                self._line(depth, f"match {self._value()}:")
                cases = ["case 0 | 1:", f"case {self._new('m')} if {self._test(1)}:", "case _:"]
            case 1:
                self._line(depth, f"match {self._stop('box')}:")
                cases = [
                    f"case Box(n=0 | 1, label={self._new('m')}):",
                    f"case Box(n={self._var()}):",
                ]
            case _:
                self._line(depth, f"match ({self._value()}, ys):")
                var = self._var()
                cases = [
                    f"case (0, {self._new('m')}):",
                    f"case ({var}, [{self._new('m')}, *{self._new('m')}]):",
                ]
        for case in cases[: self._rng.randint(1, 3)]:
            self._line(depth + 1, case)
            self._block(depth + 2, 2)

    def _function(self, depth: int) -> None:
        name, var = self._new("f"), self._var()
        self._line(depth, f"def {name}(v: int = 1) -> int:")
        if self._rng.random() < 0.5:
            self._line(depth + 1, f"return v + {var}")
        else:
            self._line(depth + 1, f"log(s, v, {var})")
            self._line(depth + 1, "return v")
        self._line(depth, f"{self._var()} = {name}({self._value(1)})")

    def _enter(self, depth: int) -> None:
        self._stops += 1
        new = self._new("held")
        bound = f" as {new}" if self._rng.random() < 0.7 else ""
        self._line(depth, f"async with door({self._argument()}, name='s{self._stops}'){bound}:")
        self._block(depth + 1, 3)
        if bound:
            self._line(depth + 1, f"log(s, {new}.label)")

    def _with(self, depth: int) -> None:
        self._line(depth, "try:")
        self._line(depth + 1, f"{self._var()} = ys[{self._value(1)}]")
        self._line(depth, "except IndexError:")
        self._line(depth + 1, "log(s, 'no item')")

    def _return(self, depth: int) -> None:
        if self._rng.random() < 0.4:
            self._line(depth, f"return {self._rng.choice([self._stop_value(), self._value()])}")
        else:
            self._line(depth, f"if {self._test()}: return {self._value()}")

    def _raise(self, depth: int) -> None:
        kind = self._rng.choice(["Alpha(1)", "Beta('b')", "ValueError(2, 'x')"])
        self._line(depth, f"if {self._test()}: raise {kind}")

    def _leave(self, depth: int) -> None:
        word = self._rng.choice(["break", "continue"])
        self._line(depth, f"if {self._test()}: {word}")

    def _again(self, depth: int) -> None:
        self._line(
            depth, f"if {self._test()}: {self._rng.choice(['raise', 'raise Alpha(9) from None'])}"
        )

    def _delete(self, depth: int) -> None:
        if self._rng.random() < 0.3:
            self._line(depth, f"del {self._rng.choice('cd')}")

    def _join(self, depth: int) -> None:
        self._stops += 1
        two = f"step(number, {self._argument()}), step(number, s.n)"
        many = "*[step(number, v) for v in ys[:3]]"
        name, var = f"name='s{self._stops}'", self._var()
        if self._rng.random() < 0.5:
            self._line(depth, f"{var}, _ = await all_of({two}, {name})")
        else:
            self._line(depth, f"{var} = sum(await all_of({many}, {name}))")

    def _keep(self, depth: int) -> None:
        """Keep an error in a name."""
        new = self._new("last")
        self._line(depth, f"{new}: Exception | None = None")
        self._line(depth, "try:")
        self._stop_statement(depth + 1)
        self._raise(depth + 1)
        self._line(depth, f"except Exception as {new}e:")
        self._line(depth + 1, f"{new} = {new}e")
        self._stop_statement(depth)
        self._line(depth, f"log(s, repr({new}))")

    def _box(self, depth: int) -> None:
        """Change a value that is stored."""
        new = self._new("box")
        self._line(depth, f"{new} = Box({self._value(1)}, 'new')")
        self._line(depth, f"for {new}k, {new}v in {{'x': {new}.n, 'y': 2}}.items():")
        self._line(depth + 1, f"{new}.n += {new}v")
        self._stop_statement(depth + 1)
        self._line(depth + 1, f"{new}.label += {new}k")
        self._line(depth, f"log(s, {new})")

    def _suppress(self, depth: int) -> None:
        self._line(depth, "with suppress(IndexError):")
        self._line(depth + 1, f"{self._var()} = ys[{self._value(1)}]")
        self._line(depth + 1, "log(s, 'within')")

    def _shared(self, depth: int) -> None:
        """Bind a name from within a nested function."""
        name, var = self._new("f"), self._var()
        self._line(depth, f"def {name}() -> None:")
        self._line(depth + 1, f"nonlocal {var}")
        self._line(depth + 1, f"{var} = {self._value(0)}")
        self._line(depth, f"{name}()")

    def _assert(self, depth: int) -> None:
        if self._rng.random() < 0.5:
            self._line(depth, f"assert {self._any_test()}, {self._value()}")

    def _alias(self, depth: int) -> None:
        new = self._new("t")
        self._line(depth, f"{new}: tuple[int, str] = ({self._value()}, 'x')")
        self._stop_statement(depth)
        self._line(depth, f"log(s, {new})")


def program(seed: int) -> str:
    """Return the source of a program."""
    return Writer(Random(seed)).text()
