"""What a commit writes to deliver messages, to keep them, to wait for them, and to take them."""

from collections.abc import Sequence

from flowstate.commands import Forget, Pause, Receive
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.errors import InvalidCommandError
from flowstate.limits import check_id
from flowstate.mailboxes.mailbox import RECEIVE, Mailbox, Message, Waiting, delivered, mailbox_id
from flowstate.mailboxes.seen_keys import PARTS, next_part, parts_of
from flowstate.planning.plan import Plan
from flowstate.state import State, Status

__all__ = ["deliver", "forget_mailbox", "keep_in_mailbox", "mailboxes_of", "receive"]

MAX_NAMES = 100
WITH_MAILBOX = (Receive, Forget)


def receive(plan: Plan, command: Receive, stored: State | None) -> None:
    """Take a message that is in the stored mailbox, if there is one, or begin to wait for one."""
    names = tuple(check_id("names", name) for name in command.names)
    if not 0 < len(names) <= MAX_NAMES:
        raise InvalidCommandError("names", f"must be from 1 to {MAX_NAMES}, not {len(names)}")
    to, draft = plan.flows.check(command.to), plan.draft(command.ctx)
    message, left = Mailbox.of(stored).take(names)
    mailbox = stored or State(mailbox_id(draft.current.id))
    if message is None:
        plan.step(Pause(command.ctx, {RECEIVE: Waiting(names, to).encode()}))
        plan.check(mailbox)
    else:
        draft.step(delivered(draft.current, message, to))
        keep_in_mailbox(plan, mailbox, left)
    plan.stay(draft)


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
    """Let a mailbox be forgotten together with its receiver."""
    plan.add(Forget(StateContext(State(id, rev, status=Status.ENDED))))
