"""Signals: messages to states, delivered to who waits for them, and kept for who does not."""

from typing import Any

import attrs
from msgspec import Struct

from flowstate.context import StateContext
from flowstate.errors import InvalidCommandError, StateNotFoundError
from flowstate.ground.frozen import EMPTY
from flowstate.ground.limits import check_id
from flowstate.ground.options import check_flag
from flowstate.mailboxes.mailbox import Mailbox, Message, mailbox_id, waiting_of
from flowstate.mailboxes.receiving import deliver, keep_in_mailbox
from flowstate.mailboxes.seen_keys import token_of, with_token
from flowstate.operations.starting import commit_and_keep, execute_somewhere
from flowstate.planning.plan import Plan
from flowstate.runtime import Runtime
from flowstate.state import State, Status
from flowstate.turns import Line
from flowstate.values import with_value

__all__ = ["Signal", "checked_signal", "signal"]

CHECKED = 3  # Attempts with a check.


class Signal(Struct, frozen=True):
    """A message on its way to the receiver ``id``, which need not be there yet if it is early."""

    id: str
    message: Message
    token: str  # Of the key; empty if there is none.
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
        sending = _Sending(runtime, sent, line)
        is_new = await sending.send()
    if sending.delivered is not None:
        await execute_somewhere(runtime, sending.delivered)
    return is_new


@attrs.define(eq=False)
class _Sending:
    """What it takes to send a message, in the turn of its mailbox.

    A receiver that moves on all the time would win every race against the check that it does not
    wait. So after some of them the message is kept without the check. Then the sender looks once
    more, and delivers it if the receiver has begun to wait just before. Only if the sender dies in
    between, a message may lie there although the receiver waits for it. It was not acknowledged
    then, and is delivered when it is sent again with its key.

    Attributes:
        delivered: the receiver, if it is to be executed here.
    """

    runtime: Runtime
    sent: Signal
    line: Line
    delivered: StateContext | None = None

    async def send(self) -> bool:
        """Send the message, and return whether its key is new."""
        return await self.runtime.backoff.until_won(self._attempt)

    async def _attempt(self, lost: int) -> bool:
        self.runtime.check_open()
        if lost:
            self.line.state = None
        sent, receiver = self.sent, await self._read(self.sent.id)
        # First: the receiver may have ended because of this very message.
        if sent.token and await self._is_seen():
            if receiver is not None:
                await self._see_to_what_is_kept()
            elif not sent.early:  # The one that has kept it is about to find that out, too.
                raise _not_there(sent)
            return False
        to = _destination(receiver, sent)
        plan = self.runtime.committer.plan()
        mailbox: StateContext | None = None
        if to is None or sent.token:
            mailbox = await self._keep(plan, with_message=to is None)
        self.line.state = None
        if receiver is not None and to is not None:
            await self._deliver(plan, receiver, sent.message, to)
        else:
            is_checked = lost < CHECKED or receiver is None
            if is_checked:
                plan.check(receiver or State(sent.id))
            await self.runtime.committer.write(plan)
            if not is_checked:
                await self._see_to_what_is_kept()
                return True
        if mailbox is not None:
            self.line.state = mailbox.committed
        return True

    async def _read(self, id: str) -> State | None:
        return await self.runtime.driver.get_state(id)

    async def _is_seen(self) -> bool:
        self.line.state = mailbox = await self._read(mailbox_id(self.sent.id))
        return await self.runtime.seen_keys.have(self.sent.token, mailbox)

    async def _keep(self, plan: Plan, *, with_message: bool) -> StateContext:
        """Let the mailbox have the key and the message, and return its context."""
        id = mailbox_id(self.sent.id)
        # With a key it was read just now, to look for that: one that came since refuses the commit.
        is_known = self.line.state is not None or self.sent.token
        stored = self.line.state if is_known else await self._read(id)
        content, part = Mailbox.of(stored), None
        if with_message:
            content = content.add(self.sent.message, self.sent.id)
        if self.sent.token:
            content, part = with_token(content, self.sent.token)
        return keep_in_mailbox(plan, stored or State(id), content, part)

    async def _deliver(self, plan: Plan, receiver: State, message: Message, to: str) -> None:
        """Commit what gives a receiver its message."""
        runtime, ctx = self.runtime, deliver(plan, receiver, message, to)
        if runtime.can_execute(to):
            await commit_and_keep(runtime, ctx, runtime.committer.write(plan))
            self.delivered = ctx
        else:
            plan.pass_on(ctx)
            await runtime.committer.write(plan)

    async def _see_to_what_is_kept(self) -> None:
        """Deliver what the receiver waits for although it is in the mailbox, until nothing is."""
        await self.runtime.backoff.until_won(self._deliver_kept)

    async def _deliver_kept(self, _: int) -> None:
        receiver = await self._read(self.sent.id)
        stored = await self._read(mailbox_id(self.sent.id))
        if stored is None:
            return
        content, plan = Mailbox.of(stored), self.runtime.committer.plan()
        if receiver is not None:
            waiting = waiting_of(receiver)
            message, left = content.take(waiting.names if waiting is not None else ())
            if waiting is not None and message is not None:
                keep_in_mailbox(plan, stored, left)
                await self._deliver(plan, receiver, message, waiting.to)
        elif not self.sent.early:  # It was forgotten, and its next life must not find this.
            keep_in_mailbox(plan, stored, content.without(self.sent.message, self.sent.token))
            await self.runtime.committer.write(plan)
            _destination(receiver, self.sent)


def _destination(receiver: State | None, sent: Signal) -> str | None:
    """Return where the receiver goes with the message; ``None`` if it does not wait for it."""
    if receiver is None:
        if sent.early:
            return None
        raise _not_there(sent)
    if receiver.status is Status.ENDED:
        raise InvalidCommandError("id", f"{sent.id!r} has ended")
    waiting = waiting_of(receiver)
    return waiting.to if waiting is not None and sent.message.name in waiting.names else None


def _not_there(sent: Signal) -> StateNotFoundError:
    return StateNotFoundError(f"there is no state {sent.id!r}")
