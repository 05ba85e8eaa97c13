"""Children are counted once each, in any order of their ends, and in little space."""

from random import Random

import msgspec

from flowstate.engines.kernel.threads import Children


def test_each_child_counts_once_in_any_order() -> None:
    numbers, rng = [*range(300)], Random(1)
    rng.shuffle(numbers)
    children = Children(300, started=300)
    for place, number in enumerate(numbers):
        assert not children.has_ended(f"p.a.0.{number}")
        for _ in range(2):
            children.count(f"p.a.0.{number}", None)
        assert children.done == place + 1
        assert all(children.has_ended(f"p.a.0.{each}") for each in numbers[: place + 1])

    assert children.are_over
    assert (children.before, children.ended) == (300, "0")


def test_children_that_end_nearly_in_order_take_little_space() -> None:
    children = Children(10_000, started=10_000)
    sizes = []
    for number in range(10_000):
        children.count(f"p.a.0.{number ^ 31}", None)  # Each within 32 of its place.
        sizes.append(len(msgspec.json.encode(children)))

    assert children.done == 10_000
    assert max(sizes) < 120
