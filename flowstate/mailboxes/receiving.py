"""What a commit writes to deliver messages, to keep them, to wait for them, and to take them."""

from collections.abc import Sequence
from datetime import timedelta

import attrs

from flowstate.commands import CancelTimer, Command, Forget, Pause, SetTimer
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.errors import InvalidCommandError
from flowstate.ground.limits import check_duration, check_id
from flowstate.ground.options import check_flag
from flowstate.mailboxes.mailbox import RECEIVE, Mailbox, Message, Waiting, delivered, mailbox_id
from flowstate.mailboxes.seen_keys import PARTS, next_part, parts_of
from flowstate.planning.plan import Plan
from flowstate.state import State, Status
from flowstate.timers import WAIT_TIMER

__all__ = ["Receive", "deliver", "forget_mailbox", "keep_in_mailbox", "mailboxes_of", "receive"]

MAX_NAMES = 100


@attrs.frozen(init=False)
class Receive(Command[None]):
    """Go to flow ``to`` with the oldest message of one of these names, or wait for one.

    Messages come by ``engine.signal``. The value of the one that is taken is then found with
    ``ctx.get(Type, name)``, and its name is ``ctx.signal``. While there is none, the state is
    paused, and the first one that comes makes it active again. It belongs into a ``Commit``; by
    itself it is one::

        wait = timedelta(days=2)
        return Commit(Receive(ctx, "yes", "no", to="decide", timeout=wait, timeout_to="expire"))

    No message is missed or taken twice, whatever is done to the state at the same time. Nothing
    else in the commit may move the state on after it.

    The timeout is a timer that ends with the wait: by the commit that delivers a message, and by
    any other one that moves the state on. So either a message comes or the timer fires, and never
    both. Then ``ctx.timer`` is ``"flowstate.wait"``. It is one of the 64 that a state can have.

    Attributes:
        ctx: the state.
        names: of messages, from 1 to 100.
        to: the flow id.
        timeout: how long to wait for a message; ``None``: without end.
        timeout_to: the flow id to go to then.
        wait: with ``False`` the state goes on as it is if there is no message by now; the commit
            then still checks that there is none.
    """

    ctx: StateContext
    names: tuple[str, ...]
    to: str
    timeout: timedelta | None
    timeout_to: str | None
    wait: bool

    def __init__(
        self,
        ctx: StateContext,
        *names: str,
        to: str,
        timeout: timedelta | None = None,
        timeout_to: str | None = None,
        wait: bool = True,
    ) -> None:
        self.__attrs_init__(ctx, names, to, timeout, timeout_to, wait)


WITH_MAILBOX = (Receive, Forget)


def receive(plan: Plan, command: Receive, stored: State | None) -> None:
    """Take a message that is in the stored mailbox, if there is one, or begin to wait for one."""
    names = tuple(check_id("names", name) for name in command.names)
    if not 0 < len(names) <= MAX_NAMES:
        raise InvalidCommandError("names", f"must be from 1 to {MAX_NAMES}, not {len(names)}")
    to, draft = plan.flows.check(command.to), plan.draft(command.ctx)
    alarm = _alarm(command, plan)
    message, left = Mailbox.of(stored).take(names)
    mailbox = stored or State(mailbox_id(draft.current.id))
    if message is None and not command.wait:
        plan.check(mailbox)
        return
    if message is None:
        plan.step(Pause(command.ctx, {RECEIVE: Waiting(names, to).encode()}))
        if alarm is not None:
            plan.add(alarm)
        elif WAIT_TIMER in draft.current.timers:  # Of an earlier wait.
            plan.add(CancelTimer(command.ctx, WAIT_TIMER))
        plan.check(mailbox)
    else:
        draft.step(delivered(draft.current, message, to))
        keep_in_mailbox(plan, mailbox, left)
    plan.stay(draft)


def _alarm(command: Receive, plan: Plan) -> SetTimer | None:
    """Return what ends the wait, if anything does; it is checked also when there is no wait."""
    check_flag("wait", command.wait)
    if not command.wait and command.timeout is not None:
        raise InvalidCommandError("timeout", "is for one that waits")
    if command.timeout is None and command.timeout_to is None:
        return None
    if command.timeout is None or command.timeout_to is None:
        raise InvalidCommandError("timeout", "needs timeout_to, and the other way round")
    after, to = check_duration("timeout", command.timeout), plan.flows.check(command.timeout_to)
    return SetTimer(command.ctx, WAIT_TIMER, to, after=after)


def mailboxes_of(commands: Sequence[object]) -> list[str]:
    """Return the ids of the mailboxes on which a commit of these commands depends, in order."""
    contexts = [each.ctx for each in commands if isinstance(each, WITH_MAILBOX)]
    if not contexts:
        return []
    # What is no state is refused by the plan.
    ids = [ctx.current.id for ctx in contexts if isinstance(ctx, StateContext)]
    return sorted({mailbox_id(id) for id in ids if type(id) is str})


def deliver(plan: Plan, receiver: State, message: Message, to: str) -> StateContext:
    """Give a message to a receiver that waits for it; return its context."""
    ctx = StateContext(receiver)
    draft = plan.draft(ctx)
    draft.step(delivered(draft.current, message, to))
    return ctx


def keep_in_mailbox(
    plan: Plan, stored: State, content: Mailbox, part: str | None = None
) -> StateContext:
    """Store what is in a mailbox now; return its context.

    Args:
        plan: of the commit.
        stored: the mailbox, at revision 0 if there is none yet.
        content: of the mailbox.
        part: keys to be stored apart from it.
    """
    ctx = StateContext(stored)
    draft = plan.draft(ctx)
    draft.current, draft.put = content.stored_in(draft.current), True
    if part is not None:
        parts = parts_of(stored)
        alias = next_part(parts)
        ctx.data[alias] = Data(part.encode())
        plan.store_data(ctx, alias)
        old = parts[: len(parts) + 1 - PARTS]
        refs = {name: ref for name, ref in draft.current.data.items() if name not in old}
        draft.hold(draft.current.annotations, refs)
    return ctx


def forget_mailbox(plan: Plan, id: str, rev: int) -> None:
    """Let a mailbox be forgotten together with its receiver; at revision 0 there is none."""
    if rev:
        plan.add(Forget(StateContext(State(id, rev, status=Status.ENDED))))
    else:  # One that another process is about to make would stay behind.
        plan.check(State(id))
