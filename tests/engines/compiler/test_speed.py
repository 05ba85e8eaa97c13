"""What a stop takes without a store, and what compiling takes."""

from time import process_time

import pytest

from flowstate.engines.kernel.code import At, Frame
from flowstate.engines.kernel.operations import Gave
from flowstate.engines.workflow import helper, step
from tests.engines.compiler.programs import program
from tests.engines.compiler.world import Data, codes_of, number

pytestmark = pytest.mark.alone

STOPS = 3000
ROUNDS = 5


@helper
async def flat(s: Data) -> int:
    total = 0
    i = 0
    while i < STOPS:
        total += await step(number, i)
        i += 1
    return total


@helper
async def nested(s: Data) -> int:
    total = 0
    for i in range(STOPS):
        try:
            total += await step(number, i)
        finally:
            s.n += 1
    return total


def seconds_a_stop(code: object) -> float:
    assert isinstance(code, type(flat))
    data = Data([], log=[])
    begin = process_time()
    reached = code.begin(Frame(code.name), data)
    while isinstance(reached, At):
        code.ask(reached.frame, data)
        reached = code.go_on(reached.frame, data, Gave(3))
    return (process_time() - begin) / STOPS


@pytest.mark.parametrize("code", [flat, nested], ids=["flat", "nested"])
def test_a_stop_takes_at_most_30_microseconds(code: object) -> None:
    best = min(seconds_a_stop(code) for _ in range(ROUNDS))

    print(f"{best * 1e6:.1f} µs a stop")  # noqa: T201 - shown with -s
    assert best < 30e-6


def test_a_hundred_lines_compile_in_a_quarter_of_a_second() -> None:
    sources = [program(seed) for seed in range(200)]
    took = []
    for source in [each for each in sources if 90 <= each.count("\n") <= 110][:5]:
        code = codes_of(source)[0]["program"]
        begin = process_time()
        assert code.compiled.stops
        took.append(process_time() - begin)

    print(f"{min(took) * 1e3:.0f} to {max(took) * 1e3:.0f} ms")  # noqa: T201 - shown with -s
    assert min(took) < 0.25
