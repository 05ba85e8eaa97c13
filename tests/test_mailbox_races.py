"""Whatever is done to a receiver while messages are sent, none is missed, doubled or stuck.

What can come together, each in every order of its reads and commits, from processes of its own:

::

    sent at the same time as                       what may come of it
    ---------------------------------------------  ------------------------------------------------
    the receiver begins to wait                    delivered, or taken from the mailbox
    it takes another message                       kept behind that one
    another message                                both, each once
    the same message, with the same key            one of the two is told that the key was seen
    the receiver ends                              refused, or kept and never taken
    a timer, or an operator, moves a waiting one   delivered, or kept until it receives again
    a waiting one is changed without a step        delivered
    the receiver is begun, and the message early   taken when it first receives
    the receiver ends, is forgotten, begins again  refused, gone with the first life, or in the next
    the receiver is received for by two            one of the two loses

And each process may die before or after any of its commits. Then a message that was acknowledged is
there once, and one that was not is there once or not at all. All of it holds as well for messages
that are kept without a check, as those to a receiver that moves on all the time.
"""

from collections.abc import Awaitable, Callable

import pytest

from flowstate import (
    End,
    Engine,
    Forget,
    Resume,
    State,
)
from flowstate.mailboxes import signalling
from flowstate.planning.plan import Plan
from tests.interleavings import Check, Explored, Run, explore
from tests.scenes import ID, Scene, again, begin, labelled, to_late, win

Act = Callable[[Scene], Awaitable[None]]


async def begins_to_wait(scene: Scene) -> None:
    await scene.prepare()
    scene.send(1)
    scene.receive()


async def takes_another_message(scene: Scene) -> None:
    await scene.prepare(kept=1)
    scene.send(1)
    scene.receive()


async def another_message(scene: Scene) -> None:
    await scene.prepare(is_waiting=True)
    scene.send(1)
    scene.send(2)


async def another_message_while_it_begins_to_wait(scene: Scene) -> None:
    await scene.prepare()
    scene.send(1)
    scene.send(2)
    scene.receive()


async def the_same_key(scene: Scene) -> None:
    await scene.prepare()
    scene.send(1, key="k")
    scene.send(2, key="k")


async def the_same_key_while_it_waits(scene: Scene) -> None:
    await scene.prepare(is_waiting=True)
    scene.send(1, key="k")
    scene.send(2, key="k")


async def a_key_while_it_begins_to_wait(scene: Scene) -> None:
    await scene.prepare()
    scene.send(1, key="k")
    scene.receive()


async def ends(scene: Scene) -> None:
    await scene.prepare()
    scene.send(1)
    scene.move(End)


async def ends_although_it_waits(scene: Scene) -> None:
    await scene.prepare(is_waiting=True)
    scene.send(1, key="k")
    scene.move(End)


async def timer(scene: Scene) -> None:
    await scene.prepare(is_waiting=True)
    scene.send(1)
    scene.move(to_late)


async def timer_and_waits_again(scene: Scene) -> None:
    await scene.prepare(is_waiting=True)
    scene.send(1)
    scene.move(to_late, again)


async def operator(scene: Scene) -> None:
    await scene.prepare(is_waiting=True)
    scene.send(1)
    scene.move(Resume, again)


async def change_without_a_step(scene: Scene) -> None:
    await scene.prepare(is_waiting=True)
    scene.send(1)
    scene.move(labelled)


async def early(scene: Scene) -> None:
    scene.send(1, early=True)
    scene.process("starter", begin)


async def two_early_ones(scene: Scene) -> None:
    scene.send(1, early=True, key="a")
    scene.send(2, early=True)
    scene.process("starter", begin)


async def two_lives(scene: Scene) -> None:
    scene.has_two_lives = True
    await scene.prepare()
    scene.send(1, early=True)
    scene.move(End, Forget)


async def two_lives_and_a_wait(scene: Scene) -> None:
    scene.has_two_lives = True
    await scene.prepare(is_waiting=True)
    scene.send(1, early=True)

    async def live_twice(engine: Engine) -> None:
        await win(engine, End)
        await win(engine, Forget)
        await begin(engine)

    scene.process("owner", live_twice)


async def two_receivers(scene: Scene) -> None:
    await scene.prepare(kept=1)
    scene.send(1)
    scene.receive("one receiver")
    scene.receive("other receiver")


TWO: tuple[Act, ...] = (
    begins_to_wait,
    takes_another_message,
    another_message,
    the_same_key,
    the_same_key_while_it_waits,
    a_key_while_it_begins_to_wait,
    ends,
    ends_although_it_waits,
    timer,
    timer_and_waits_again,
    operator,
    change_without_a_step,
    early,
    two_lives,
    two_lives_and_a_wait,
)
THREE: tuple[Act, ...] = (
    another_message_while_it_begins_to_wait,
    two_early_ones,
    two_receivers,
)


async def tried(act: Act, **bounds: int) -> Explored:
    async def prepare(run: Run) -> Check:
        scene = Scene(run)
        await act(scene)
        return scene.look

    return await explore(prepare, **bounds)


def by_name(act: Act) -> str:
    return act.__name__


@pytest.mark.parametrize("act", TWO, ids=by_name)
async def test_no_order_misses_doubles_or_strands_a_message(act: Act) -> None:
    assert (await tried(act, interruptions=4)).runs >= 6


@pytest.mark.parametrize("act", THREE, ids=by_name)
async def test_nor_does_any_order_of_three(act: Act) -> None:
    assert (await tried(act, interruptions=1)).runs >= 20


@pytest.mark.parametrize("act", TWO, ids=by_name)
async def test_nor_does_a_death_anywhere(act: Act) -> None:
    assert (await tried(act, deaths=1, interruptions=1)).deadly >= 20


@pytest.mark.parametrize("act", [*TWO, *THREE], ids=by_name)
async def test_nor_does_what_is_kept_without_a_check(
    monkeypatch: pytest.MonkeyPatch, act: Act
) -> None:
    monkeypatch.setattr(signalling, "CHECKED", 0)
    bounds = {"interruptions": 4} if act in TWO else {"interruptions": 1}
    assert (await tried(act, **bounds)).runs >= 6
    if act in TWO:
        assert (await tried(act, deaths=1, interruptions=1)).deadly >= 20


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("act", [*TWO, *THREE], ids=by_name)
@pytest.mark.parametrize("checked", [3, 0])
async def test_nor_do_two_deaths_with_more_interruptions(
    monkeypatch: pytest.MonkeyPatch, checked: int, act: Act
) -> None:
    monkeypatch.setattr(signalling, "CHECKED", checked)
    assert (await tried(act, interruptions=3)).runs >= 6
    assert (await tried(act, deaths=2, interruptions=2 if act in TWO else 1)).deadly >= 50


@pytest.mark.parametrize("act", [begins_to_wait, early], ids=by_name)
@pytest.mark.parametrize("whose", ["the sender's", "the receiver's"])
async def test_without_the_check_of_either_side_one_would_be_stranded(
    monkeypatch: pytest.MonkeyPatch, act: Act, whose: str
) -> None:
    checked = Plan.check

    def check(plan: Plan, committed: State) -> None:
        if (committed.id == ID) != (whose == "the sender's"):
            checked(plan, committed)

    monkeypatch.setattr(Plan, "check", check)
    with pytest.raises(AssertionError, match="it waits for what is there"):
        await tried(act)


async def test_without_a_second_look_what_is_kept_without_a_check_would_be_stranded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing(sending: object) -> None:
        pass

    monkeypatch.setattr(signalling, "CHECKED", 0)
    monkeypatch.setattr(signalling._Sending, "_see_to_what_is_kept", nothing)
    with pytest.raises(AssertionError, match="it waits for what is there"):
        await tried(begins_to_wait)
