"""Loops with stops keep their place."""

from collections.abc import Sequence

import msgspec

from flowstate.engines.kernel.code import Raised
from flowstate.engines.kernel.operations import Gave
from flowstate.engines.workflow import (
    helper,
    step,
)
from tests.engines.compiler.driving import compiled, drive
from tests.engines.compiler.world import number


def test_a_list_that_grows_while_it_is_gone_over_is_gone_over_to_its_end() -> None:
    code = compiled("""
for x in s.xs:
    if await step(number, x) and len(s.xs) < 5:
        s.xs.append(x * 10)
""")

    driven = drive(code, iter([1] * 9))

    assert [asked.args for asked in driven.asked] == [(1,), (2,), (3,), (10,), (20,)]  # type: ignore[union-attr]
    assert bytes(driven.frames[3].place["for x"]) == b"3"


class Shelf(msgspec.Struct):
    books: list[str] | None
    sizes: Sequence[int] = (3, 4)
    heat: float | None = 0.5

    @property
    def titles(self) -> list[str]:
        return [book.title() for book in self.books or []]


def test_loops_go_over_attributes_of_many_types() -> None:
    @helper
    async def it(s: Shelf) -> None:
        for book in s.books:  # type: ignore[union-attr] # it is there
            await step(number, len(book), name="book")
        for size in s.sizes:
            await step(number, size, name="size")
        for title in s.titles:
            s.books = []
            await step(number, len(title), name="title")

    driven = drive(it, iter(range(9)), Shelf(["ab", "c"]))

    assert driven.stops == ["book", "book", "size", "size", "title", "title"]
    places = [bytes(raw).decode() for frame in driven.frames for raw in frame.place.values()]
    assert places[1::2] == ["1", '{"at":1,"items":[3,4]}', '{"at":1,"items":["Ab","C"]}']


def test_what_is_bound_again_is_not_what_a_loop_goes_over() -> None:
    code = compiled("""
for x in s.xs:
    s.xs = []
    await step(number, x)
""")

    driven = drive(code, [1, 2, 3])

    assert [asked.args for asked in driven.asked] == [(1,), (2,), (3,)]  # type: ignore[union-attr]
    assert bytes(driven.frames[1].place["for x"]) == b'{"at":1,"items":[1,2,3]}'


def test_what_a_loop_goes_over_is_stored_even_if_it_ends_after_the_stop() -> None:
    code = compiled("""
ys: list[int] = [4, 5]
for y in ys:
    return y + await step(number, y)
""")

    assert drive(code, [1]).result == 5


def test_a_loop_over_what_has_gone_fails() -> None:
    @helper
    async def it(s: Shelf) -> None:
        for book in s.books or []:
            await step(number, len(book), name="book")
        for book in s.books:  # type: ignore[union-attr] # it is there
            await step(number, len(book), name="again")
            s.heat = len(book)

    driven = drive(it, [1, 2], Shelf(["ab"]))
    (frame,) = driven.frames[1:]

    reached = it.go_on(frame, Shelf(None), Gave(1))

    assert isinstance(reached, Raised)


def test_nested_loops_over_one_name_keep_both_places() -> None:
    code = compiled("""
for i in range(2):
    for i in [7, 8]:
        log(s, await step(number, i))
""")

    driven = drive(code, [1, 2, 3, 4])

    assert [asked.args for asked in driven.asked] == [(7,), (8,), (7,), (8,)]  # type: ignore[union-attr]
    assert list(driven.frames[0].place) == ["for i", "for i #2"]
