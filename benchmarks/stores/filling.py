"""What a filled store holds: one revision of each of so many states.

Of ten states one is delayed for years, one is active and never stalls in our time, one is paused,
and seven have ended. Each has a label that one of a hundred states has. A store that can write such
rows faster than commits do writes the rows that these commits would have written.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice

from msgspec import Struct

from benchmarks.flows import FINISH
from flowstate import Driver, State, Status, Transition
from flowstate.codec import DelayBody, encode_body, encode_delay
from flowstate.driver import NewDelay, Writes
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.recovery_rules import RETRY_AFTER, stalls_after

__all__ = [
    "FIRST_DUE",
    "GROUPS",
    "GROUP_MARK",
    "KINDS",
    "NEVER_STALLS",
    "NUMBER_MARK",
    "PAUSE",
    "Kind",
    "commit_all",
    "delay_body",
    "group_of",
    "labels_of",
    "writes",
]

GROUPS = 100
FIRST_DUE = datetime(2100, 1, 1, tzinfo=UTC)  # The others follow, one each second.
NEVER_STALLS = FrozenDict({RETRY_AFTER: "31536000.0"})  # Not within this year.
MICROSECOND = timedelta(microseconds=1)
NUMBER_MARK, GROUP_MARK = "@number", "@group"  # In the body of a kind.
FIRST = Transition("first")
PAUSE = Transition("first", cause="pause")


class Kind(Struct, frozen=True):
    """What states have in common whose numbers have the same last digit."""

    status: Status
    transition: Transition
    annotations: FrozenDict[str, str] = EMPTY
    is_delayed: bool = False

    def state(self, number: object, group: str) -> State:
        """Return a state of this kind, before its commit."""
        return State(
            f"s{number}",
            labels=labels_of(group),
            annotations=self.annotations,
            transition=self.transition,
            status=self.status,
        )

    @property
    def body(self) -> str:
        """As the codec writes it, with marks where number and group belong."""
        return encode_body(self.state(NUMBER_MARK, GROUP_MARK))

    @property
    def flow(self) -> str:
        """In which its states are."""
        return self.transition.to

    @property
    def stalls_after(self) -> int | None:
        """After how many microseconds, if ever."""
        after = stalls_after(self.state(NUMBER_MARK, GROUP_MARK))
        return None if after is None else after // MICROSECOND


KINDS: tuple[Kind, ...] = (
    Kind(Status.ACTIVE, FIRST, is_delayed=True),
    Kind(Status.ACTIVE, FIRST, NEVER_STALLS),
    Kind(Status.PAUSED, PAUSE),
    *[Kind(Status.ENDED, Transition("third", cause="end"))] * 7,
)


@cache
def labels_of(group: str) -> FrozenDict[str, str]:
    """Return the labels of a group, which its states share."""
    return FrozenDict({"group": group})


def group_of(number: int) -> str:
    """Return the label of a state."""
    return str(number // len(KINDS) % GROUPS)


def delay_body() -> str:
    """Return the body of every delay."""
    return encode_delay(DelayBody(FINISH))


def writes(number: int) -> Writes:
    """Return the commit of a state."""
    kind = KINDS[number % len(KINDS)]
    state = kind.state(number, group_of(number))
    body = encode_body(state)
    delays: tuple[NewDelay, ...] = ()
    if kind.is_delayed:
        due = FIRST_DUE + timedelta(seconds=number)
        delays = (NewDelay(state, FINISH, EMPTY, due, None, True, delay_body(), put=0),)
    return Writes(f"fill-{number}", (state,), (body,), delays=delays, size=len(body))


async def commit_all(driver: Driver, commits: Iterator[Writes], size: int = 100) -> list[State]:
    """Commit in batches; return the new revisions.

    Raises:
        FlowstateError: a commit was refused.
    """
    states: list[State] = []
    while batch := list(islice(commits, size)):
        for verdict in await driver.commit(batch):
            states += _accepted(verdict)
    return states


def _accepted(verdict: Sequence[State] | Exception) -> Sequence[State]:
    if isinstance(verdict, Exception):
        raise verdict
    return verdict
