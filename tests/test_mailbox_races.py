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
there once, and one that was not is there once or not at all.
"""

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Forget,
    InvalidCommandError,
    Receive,
    Resume,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Transit,
)
from flowstate.commands import Put
from flowstate.mailbox import Mailbox, mailbox_id
from flowstate.planning import Plan
from tests.interleavings import Check, Explored, Run, explore

FLOWS = ("work", "next", "late")
ID = "receiver"
Act = Callable[["Scene"], Awaitable[None]]


class Scene:
    """A receiver, and what was sent to it.

    Attributes:
        acknowledged: values of messages that were accepted.
        refused: values of those that were not.
        tried: values, with their keys, that were sent.
        has_two_lives: the receiver is forgotten, and its messages with it.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.has_two_lives = False
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self.tried: dict[int, str | None] = {}

    def process(self, name: str, work: Callable[[Engine], Awaitable[None]]) -> None:
        async def live() -> None:
            async with self.run.engine(name, *FLOWS) as engine:
                await work(engine)

        self.run.start(name, live())

    # What processes do

    def send(self, value: int, *, key: str | None = None, early: bool = False) -> None:
        """Send a message; whoever sends it is named by its value."""

        async def work(engine: Engine) -> None:
            self.tried[value] = key
            try:
                is_new = await engine.signal(ID, "m", value, key=key, early=early)
            except (InvalidCommandError, StateNotFoundError):
                is_new = False
            (self.acknowledged if is_new else self.refused).append(value)

        self.process(f"sender {value}", work)

    def receive(self, name: str = "receiver") -> None:
        """Receive until there is nothing left, and wait."""
        self.process(name, receive_all)

    def move(self, *commands: Callable[[StateContext], Command[None]], name: str = "mover") -> None:
        """Do commands on the latest revision, each in a commit of its own, until it wins."""

        async def work(engine: Engine) -> None:
            for command in commands:
                await win(engine, command)

        self.process(name, work)

    # What it is like before and afterwards

    async def prepare(self, *, is_waiting: bool = False, kept: int = 0) -> None:
        async with self.run.engine("setup", *FLOWS) as engine:
            ctx = StateContext(State(ID))
            await engine.do(Commit(Transit(ctx, "work")))
            for value in range(kept):
                await engine.signal(ID, "m", -1 - value)
                self.acknowledged.append(-1 - value)
            if is_waiting:
                await engine.do(Receive(ctx, "m", to="next"))

    async def look(self) -> None:
        """Receive what is left, and compare what has come with what was sent."""
        async with self.run.engine("look", *FLOWS) as engine:
            state = await self.run.store.get_state(ID)
            if state is not None and state.status is Status.PAUSED:
                assert await messages(engine) == [], "it waits for what is there"
            await self._repeat(engine)
            if state is not None and state.status is not Status.ENDED:
                await receive_all(engine)
            came = [s.get(int, "m") async for s in engine.history(ID) if is_delivery(s)]
            found = Counter([*came, *await messages(engine)])
        assert set(found) <= {*self.acknowledged, *self.tried}
        for value in self.acknowledged:
            assert found[value] == 1 or self.has_two_lives, f"{value}: {found[value]} times"
        for value in self.refused:
            assert found[value] == 0, f"{value} was refused, and is there"
        assert max(found.values(), default=0) <= 1

    async def _repeat(self, engine: Engine) -> None:
        """Send once more what has a key, and of which it is not known what came of it."""
        for value, key in self.tried.items():
            if key is not None and value not in {*self.acknowledged, *self.refused}:
                try:
                    is_new = await engine.signal(ID, "m", value, key=key, early=True)
                except InvalidCommandError:
                    continue  # It has ended.
                if is_new or not self._is_key_of_another(value, key):
                    self.acknowledged.append(value)

    def _is_key_of_another(self, value: int, key: str) -> bool:
        return any(self.tried[each] == key for each in self.tried if each != value)


async def receive_all(engine: Engine) -> None:
    ctx = StateContext(await engine.get_state(ID))
    while ctx.current.status is Status.ACTIVE:
        try:
            await engine.do(Receive(ctx, "m", to="next"))
        except RevisionMismatchError:
            return  # Another one has moved it on.


def is_delivery(state: State) -> bool:
    """Return whether a revision began the step that a message made, and does not only keep it."""
    return state.transition.cause == "signal" and not state.transition.origin


async def messages(engine: Engine) -> list[int]:
    """Return the values of what was not taken."""
    try:
        stored = await engine.get_state(mailbox_id(ID))
    except StateNotFoundError:
        return []
    return [int(bytes(message.value)) for message in Mailbox.of(stored).messages]


async def win(engine: Engine, command: Callable[[StateContext], Command[None]]) -> None:
    while True:
        ctx = StateContext(await engine.get_state(ID))
        try:
            return await engine.do(Commit(command(ctx)))
        except RevisionMismatchError:
            pass


async def begin(engine: Engine) -> None:
    """Begin the receiver, and let it receive all that is there."""
    await engine.do(Commit(Transit(StateContext(State(ID)), "work")))
    await receive_all(engine)


def to_late(ctx: StateContext) -> Command[None]:
    return Transit(ctx, "late")


def again(ctx: StateContext) -> Command[None]:
    return Receive(ctx, "m", to="next")


def labelled(ctx: StateContext) -> Command[None]:
    ctx.set_label("a", "b")
    return Put(ctx)


# The table above


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


@pytest.mark.nightly
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("act", [*TWO, *THREE], ids=by_name)
async def test_nor_do_two_deaths_with_more_interruptions(act: Act) -> None:
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
