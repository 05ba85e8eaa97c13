"""Random programs do compiled what they do as plain Python, wherever they are cut."""

from random import Random

import pytest

from tests.engines.compiler.programs import program
from tests.engines.compiler.world import Data, compiled_run, plain_run

GROUP = 20


def compare(seed: int) -> None:
    source, rng = program(seed), Random(seed)
    data = Data([1, 2, 3], n=seed % 2, log=[])
    plain = plain_run(source, Data([1, 2, 3], n=seed % 2, log=[]), seed)

    compiled = compiled_run(source, data, seed, rng)

    assert compiled == plain, source


@pytest.mark.parametrize("group", range(5))
def test_a_program_does_the_same(group: int) -> None:
    for seed in range(group * GROUP, (group + 1) * GROUP):
        compare(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("group", range(5, 160))
def test_many_programs_do_the_same(group: int) -> None:
    for seed in range(group * GROUP, (group + 1) * GROUP):
        compare(seed)
