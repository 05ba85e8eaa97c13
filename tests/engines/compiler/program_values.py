"""Random expressions, with and without a stop."""

from random import Random

__all__ = ["Values"]

VARIABLES = "abcd"


class Values:
    """Writes expressions of one program."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._lines: list[str] = []
        self._stops = 0
        self._serial = 0
        self._loops = 0  # Around the present statement, within its function.
        self._handlers = 0
        self._has_inner = False
        self._fixed: list[str] = []  # Lists that the present loops go over.

    @property
    def _shown(self) -> str:
        """What shows an error; a helper does not know what its caller handles."""
        return "chain" if self._has_inner else "repr"

    def _line(self, depth: int, text: str) -> None:
        self._lines.append("    " * depth + text)

    def _new(self, kind: str) -> str:
        self._serial += 1
        return f"{kind}{self._serial}"

    def _var(self) -> str:
        return self._rng.choice(VARIABLES)

    def _value(self, deep: int = 2) -> str:  # noqa: C901, PLR0911 - one return for each form
        kinds = ["var", "const", "n", "index"]
        if deep:
            kinds += ["add", "if", "len", "sum", "lambda", "min", "walrus"]
        match self._rng.choice(kinds):
            case "var":
                return self._var()
            case "const":
                return str(self._rng.randint(-2, 9))
            case "n":
                return "s.n"
            case "index":
                return f"ys[{self._rng.choice(['0', '-1', '1'])}]"
            case "add":
                return f"({self._value(deep - 1)} {self._rng.choice('+-')} {self._value(deep - 1)})"
            case "if":
                return f"({self._value(deep - 1)} if {self._test(deep - 1)} else {self._value(0)})"
            case "len":
                return "len(s.xs)"
            case "sum":
                return f"sum(v + {self._var()} for v in ys[:3] if v)"
            case "lambda":
                return f"(lambda v: v + {self._var()})({self._value(deep - 1)})"
            case "min":
                return f"min({self._value(0)}, {self._value(0)})"
        return f"({self._var()} := {self._value(deep - 1)})"

    def _test(self, deep: int = 2) -> str:  # noqa: PLR0911 - as above
        match self._rng.choice(["cmp", "cmp", "odd", "in", "not", "and", "chain"]):
            case "cmp":
                return f"{self._value(max(0, deep - 1))} {self._rng.choice('<>')} {self._value(0)}"
            case "odd":
                return f"{self._value(0)} % 2 == 0"
            case "in":
                return f"{self._value(0)} in ys"
            case "chain":
                return f"0 <= {self._value(0)} < 6"
            case "not" if deep:
                return f"not ({self._test(deep - 1)})"
            case "and" if deep:
                word = self._rng.choice(["and", "or"])
                return f"({self._test(deep - 1)}) {word} ({self._test(deep - 1)})"
        return "True"

    def _stop(self, call: str = "number") -> str:
        self._stops += 1
        if call == "number" and self._has_inner and self._rng.random() < 0.1:
            return f"await sub(inner, {self._value(0)}, name='s{self._stops}')"
        return f"await step({call}, {self._argument()}, name='s{self._stops}')"

    def _argument(self) -> str:
        """Return a value that changes nothing, as what is evaluated for every attempt must."""
        return self._rng.choice([self._var(), "s.n", "ys[0]", f"{self._var()} + 1", "len(s.xs)"])

    def _stop_value(self) -> str:
        """Return an expression with a stop whose value is a number."""
        stop = self._stop()
        return self._rng.choice(
            [
                stop,
                stop,
                f"{self._var()} + {stop}",
                f"({stop}) + {self._value(1)}",
                f"({stop}) if {self._test(1)} else {self._value(0)}",
                f"{self._value(0)} if {self._test(1)} else {stop}",
                f"max({self._var()}, {stop}, {self._value(1)})",
                f"({self._var()} := {stop})",
                f"[{stop}, {self._value(1)}][0]",
                f"int(f'{{{stop}}}')".replace("'s", '"s').replace("',", '",').replace("')}", '")}'),
            ]
        )

    def _stop_test(self) -> str:
        return self._rng.choice(
            [
                f"{self._stop('fact')}",
                f"({self._stop()}) > {self._value(0)}",
                f"{self._test(1)} and {self._stop('fact')}",
                f"{self._test(1)} or {self._test(1)} or {self._stop('fact')}",
                f"not ({self._stop('fact')}) and {self._test(1)}",
                f"({self._var()} := {self._stop()}) < 4",
            ]
        )

    def _any_test(self) -> str:
        return self._stop_test() if self._rng.random() < 0.3 else self._test()
