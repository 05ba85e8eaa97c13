"""A state that is sent messages while this and that is done to it, for explorations."""

from collections import Counter
from collections.abc import Awaitable, Callable

from flowstate import (
    Command,
    Commit,
    Engine,
    InvalidCommandError,
    Receive,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Transit,
)
from flowstate.commands import Put
from flowstate.mailboxes import signalling
from flowstate.mailboxes.mailbox import Mailbox, mailbox_id
from tests.interleavings import Run

__all__ = [
    "ID",
    "Scene",
    "again",
    "begin",
    "labelled",
    "to_late",
    "win",
]

FLOWS = ("work", "next", "late")
ID = "receiver"


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
            await self._repeat(engine)
            state = await self.run.store.get_state(ID)
            if state is not None and state.status is Status.PAUSED:
                stranded = set(await messages(engine)) - self._unknown()
                assert not stranded, "it waits for what is there"
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
        keys = Counter(self.tried[value] for value in found if self.tried.get(value))
        assert self.has_two_lives or max(keys.values(), default=0) <= 1, (
            f"a key was new twice: {keys}"
        )

    def _unknown(self) -> set[int]:
        """Return what may be stranded: what nobody has heard of, kept without a check."""
        if signalling.CHECKED:
            return set()
        return set(self.tried) - {*self.acknowledged, *self.refused}

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
