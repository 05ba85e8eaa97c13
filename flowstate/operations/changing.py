"""What an engine does to states by their ids: changes without a race to win."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flowstate.commands import Labels
from flowstate.context import StateContext
from flowstate.ground.frozen import EMPTY
from flowstate.mailboxes.signalling import checked_signal, signal
from flowstate.operations.looking import Looking
from flowstate.operations.pruning import prune
from flowstate.operations.starting import start
from flowstate.operations.updating import Change, update
from flowstate.state import State

__all__ = ["Changing"]


class Changing(Looking):
    """The part of an engine that changes states."""

    __slots__ = ()

    async def start(
        self,
        ctx: StateContext,
        to: str | None = None,
        annotations: Mapping[str, str] = EMPTY,
        *,
        elsewhere: bool = False,
    ) -> None:
        """Send a state to a flow, and let it be executed there, by one commit.

        It is executed in the background of this engine. If this engine does not have the flow, is
        stopping, or is full while a flow asks, the commit leaves it to an engine that has the flow
        and a ``Delayer``. Cancelled after its commit, a start is passed on in that way as well.

        Args:
            ctx: the state, new or not; the background goes on with a copy of it.
            to: the flow id. ``None``: the one that the working copy is in.
            annotations: of the transition.
            elsewhere: leave it to another engine in any case, or to this one if it has a
                ``Delayer``, as soon as it has room.

        Raises:
            InvalidInputError: a bad argument, or something of the state is refused.
            UnknownFlowError: the flow is neither registered nor declared.
            RevisionMismatchError: the state has moved on.
            CommitUnknownError: it could not be found out whether the commit happened.
            EngineStoppedError: the engine is not open.
        """
        runtime = self._here()
        await start(runtime, ctx, to, annotations, elsewhere=elsewhere)

    async def signal(
        self,
        id: str,
        name: str,
        value: Any = None,
        *,
        key: str | None = None,
        early: bool = False,
    ) -> bool:
        """Send a message to a state, from any process, whatever the state does at that time.

        A state that waits for it (see :class:`Receive`) gets it by this one commit, and is executed
        as by :meth:`start`. For any other one it is kept, in a mailbox with room for 1,000
        messages, until the state receives it. The mailbox is a state as well, with the id
        ``flowstate.mailbox.<id>``, and is forgotten together with the state.

        Args:
            id: of the state.
            name: of the message, and of the value of the state that it becomes.
            value: what ``ctx.put`` takes.
            key: makes it safe to send again: a message with a key that the state has seen before
                is dropped. Of the keys of a state the last 10,000 are known, at least.
            early: the state need not be there yet.

        Returns:
            Whether the message was sent; ``False`` if its key was seen before.

        Raises:
            StateNotFoundError: there is no such state, and the message is not ``early``.
            InvalidCommandError: the state has ended.
            MailboxFullError: too many messages were not received.
            InvalidInputError: a bad argument, or the values of the state would be too large.
            CommitUnknownError: it could not be found out whether it was sent. Sent again without a
                key, it may come twice.
        """
        return await signal(self._here(), checked_signal(id, name, value, key, early))

    async def update(self, id: str, change: Change, *, attempts: int = 64) -> State:
        """Read a state, let it be changed, and commit that; again, if others were faster.

        Callers of one process take turns, in the order of their coming, and each goes on from
        what the one before has committed. So they never lose a race against each other. Plain
        functions that return nothing share the revision of the one before them, if they wait by
        then. Between processes the store decides: who loses waits a little, reads, and calls
        ``change`` again.

        The commit does no step of its own, and executes nothing. A state that it moves nowhere
        keeps the delays that were committed with it, its timers, and the pause of a policy. A flow
        that runs for it is superseded. An active state then waits for its delay, or for recovery,
        which comes no later than without the update, however many there are: return a step, or a
        ``Delay``, for one that is to go on sooner.

        Args:
            id: of the state.
            change: is called with a context of the latest revision. It changes that, and may
                return a command, or several, to be committed together with it, such as
                ``Transit(ctx, "ship")``. It may be async. It may run several times, so effects
                outside of the store do not belong in it. A change that changes nothing writes
                nothing.
            attempts: how many races it may lose.

        Returns:
            The committed revision that has the change.

        Raises:
            StateNotFoundError: there is no such state.
            RevisionMismatchError: it has lost as many races as it may.
            InvalidCommandError: ``change`` returned something else, or is itself the change of
                the same state and would wait for itself. Of different states, changes may lie
                within each other.
            InvalidInputError: a bad argument, or what ``change`` made of the state; names it.
            CommitUnknownError: it could not be found out whether the commit happened.
        """
        return await update(self._here(), id, change, attempts)

    async def prune(
        self,
        *,
        ended_before: datetime | None = None,
        labels: Labels = EMPTY,
        limit: int | None = None,
        batch: int = 128,
    ) -> int:
        """Forget ended states, as :class:`Forget` does, and what is left in their mailboxes.

        States that others move on meanwhile are left alone; so are those that cannot be read or
        stored, which are logged. ``compact`` then removes their revisions.

        Args:
            ended_before: only states whose latest revision was committed before this time, with a
                time zone; ``None``: all.
            labels: only states with these labels, as of :class:`GetStates`.
            limit: at most so many; ``None``: all.
            batch: at most so many with one commit, from 1 to 128.

        Returns:
            How many states were forgotten.

        Raises:
            InvalidInputError: a bad argument; names it.
            CommitUnknownError: it could not be found out whether a commit happened.
        """
        return await prune(self._here(), ended_before, labels, limit, batch)
