"""Signals: messages to states, delivered to who waits for them, and kept for who does not."""

from typing import Any

from msgspec import Struct

from flowstate.context import StateContext
from flowstate.errors import InvalidCommandError, RevisionMismatchError, StateNotFoundError
from flowstate.frozen import EMPTY
from flowstate.limits import check_id
from flowstate.mailbox import Mailbox, Message, mailbox_id, waiting_of
from flowstate.options import check_flag
from flowstate.planning import Plan
from flowstate.receiving import deliver, keep_in_mailbox
from flowstate.runtime import Runtime
from flowstate.seen_keys import token_of, with_token
from flowstate.starting import commit_and_keep, execute_somewhere
from flowstate.state import State, Status
from flowstate.turns import Line
from flowstate.values import with_value

__all__ = ["Signal", "checked_signal", "signal"]


class Signal(Struct, frozen=True):
    """A message on its way.

    Attributes:
        id: of the receiver.
        message: for it.
        token: of the key; empty if there is none.
        early: the receiver need not be there yet.
    """

    id: str
    message: Message
    token: str
    early: bool


def checked_signal(id: str, name: str, value: Any, key: str | None, early: bool) -> Signal:
    """Return a signal, with its value as JSON."""
    id, name = check_id("id", id), check_id("name", name)
    message = Message(name, with_value(EMPTY, name, value)[name])
    token = "" if key is None else token_of(check_id("key", key))
    check_flag("early", early)
    return Signal(id, message, token, early)


async def signal(runtime: Runtime, sent: Signal) -> bool:
    """Do ``Engine.signal``, which says what is promised."""
    # Turns are for those who use the mailbox, in the order of their coming.
    async with runtime.turns.take(mailbox_id(sent.id)) as line:
        outcome = await _send(runtime, sent, line)
    if isinstance(outcome, StateContext):
        await execute_somewhere(runtime, outcome)
    return outcome is not False


async def _send(runtime: Runtime, sent: Signal, line: Line) -> StateContext | bool:
    """Send it; return what is to be executed here, or whether its key is new."""
    lost = 0
    while True:
        runtime.check_open()
        try:
            return await _attempt(runtime, sent, line)
        except RevisionMismatchError:
            line.state = None
        await runtime.backoff.pause(lost)
        lost += 1


async def _attempt(runtime: Runtime, sent: Signal, line: Line) -> StateContext | bool:
    receiver = await runtime.driver.get_state(sent.id)
    if sent.token:  # First: the receiver may have ended because of this very message.
        line.state = await runtime.driver.get_state(mailbox_id(sent.id))
        if await runtime.seen_keys.have(sent.token, line.state):
            return False
    to = _destination(receiver, sent)
    plan = runtime.committer.plan()
    mailbox: StateContext | None = None
    if to is None or sent.token:
        stored = line.state or await runtime.driver.get_state(mailbox_id(sent.id))
        mailbox = _keep(plan, sent, stored, with_message=to is None)
    line.state = None
    if receiver is None or to is None:
        plan.check(receiver or State(sent.id))
        ctx = None
        await runtime.committer.write(plan)
    else:
        ctx = await _deliver(runtime, plan, receiver, sent.message, to)
    if mailbox is not None:
        line.state = mailbox.committed
    return ctx or True


def _destination(receiver: State | None, sent: Signal) -> str | None:
    """Return where the receiver goes with the message; ``None`` if it does not wait for it."""
    if receiver is None:
        if sent.early:
            return None
        raise StateNotFoundError(f"there is no state {sent.id!r}")
    if receiver.status is Status.ENDED:
        raise InvalidCommandError("id", f"{sent.id!r} has ended")
    waiting = waiting_of(receiver)
    return waiting.to if waiting is not None and sent.message.name in waiting.names else None


def _keep(plan: Plan, sent: Signal, stored: State | None, *, with_message: bool) -> StateContext:
    """Let a mailbox have the key and the message, and return its context."""
    content, part = Mailbox.of(stored), None
    if with_message:
        content = content.add(sent.message, sent.id)
    if sent.token:
        content, part = with_token(content, sent.token)
    return keep_in_mailbox(plan, stored or State(mailbox_id(sent.id)), content, part)


async def _deliver(
    runtime: Runtime, plan: Plan, receiver: State, message: Message, to: str
) -> StateContext | None:
    """Commit what gives a receiver its message; return its context if it is executed here."""
    ctx = deliver(plan, receiver, message, to)
    if not runtime.can_execute(to):
        plan.pass_on(ctx)
        await runtime.committer.write(plan)
        return None
    await commit_and_keep(runtime, ctx, runtime.committer.write(plan))
    return ctx
