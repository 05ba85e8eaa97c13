"""What a consumer does with one revision: call the handler, again and again, or pass it over."""

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
from msgspec.structs import replace

from flowstate.commands import Command, Commit
from flowstate.engine import Engine
from flowstate.errors import DamagedRevisionError, InvalidInputError, RevisionMismatchError
from flowstate.recovery.place import Cursor, DeadLetter
from flowstate.retrying import RetryPolicy, text_of
from flowstate.state import State
from flowstate.turns import Backoff

__all__ = ["Handler", "Handling", "MakeTransaction"]

logger = logging.getLogger("flowstate.recovery")

Answer = Command[Any] | Sequence[Command[Any]] | None
Handler = Callable[..., Answer | Awaitable[Answer]]
"""Takes a revision, and with ``transaction`` also that; returns what is to be committed."""
MakeTransaction = Callable[[], AbstractAsyncContextManager[Any]]


@attrs.define(eq=False, repr=False)
class Handling:
    """Deals with one revision after the other.

    Args:
        engine: open.
        name: of the consumer.
        own: ids of the lease and the place. Another process has them if a commit lost them.
        handler: as of :class:`flowstate.recovery.Consumer`, as are the next three.
        transaction: makes a transaction.
        retry: says how long to pause.
        skip: pass over what fails too often.
        chance: draws pauses.

    Attributes:
        is_leaving: begin nothing more.
        at_rest: no handler runs, and no commit of it is on its way.
    """

    engine: Engine
    name: str
    own: frozenset[str]
    handler: Handler
    transaction: MakeTransaction | None
    retry: RetryPolicy
    skip: bool
    chance: random.Random
    is_leaving: bool = attrs.field(init=False, default=False)
    at_rest: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)

    def __attrs_post_init__(self) -> None:
        self.at_rest.set()

    async def pause(self, failures: int, error: Exception) -> None:
        """Wait before another attempt."""
        await self.engine.clock.sleep(self.retry.pause(failures, error, self.chance))

    async def deal_with(self, cursor: Cursor, found: State | DamagedRevisionError) -> bool:
        """Handle a revision or pass it over; return ``False`` if the consumer is left instead.

        Raises:
            DamagedRevisionError: it cannot be read, and must not be passed over.
            RevisionMismatchError: another process has moved the place, or taken the lease.
            FlowstateError: the engine has stopped, or the lease is lost.
        """
        if isinstance(found, State):
            return await self._handle(cursor, found)
        if not self.skip:
            raise found
        await self._pass_over(cursor, DeadLetter(found.rev, found.id, str(found)))
        return True

    async def _handle(self, cursor: Cursor, state: State) -> bool:
        """Hand a revision over until that is committed, or it is passed over."""
        failures, races = 0, Backoff(self.engine.clock.sleep, self.chance)
        while not self.is_leaving:
            error = await self._attempt(cursor, state)
            if error is None:
                return True
            failures += 1
            logger.error(
                "consumer %r failed at revision %d of %r",
                self.name,
                state.rev,
                state.id,
                exc_info=error,
                extra={"state_id": state.id, "rev": state.rev},
            )
            is_worth_it = failures < self.retry.attempts and self.retry.retries(error)
            if self.skip and not is_worth_it:
                await self._pass_over(cursor, DeadLetter(state.rev, state.id, text_of(error)))
                return True
            if isinstance(error, RevisionMismatchError):  # Others change the same states.
                await races.pause(failures)
            else:
                await self.pause(min(failures, self.retry.attempts), error)
        return False

    async def _attempt(self, cursor: Cursor, state: State) -> Exception | None:
        """Return what went wrong with the handler or with what it wants to commit."""
        self.at_rest.clear()
        try:
            await self._call(cursor, state)
        except Exception as error:
            ids = error.ids if isinstance(error, RevisionMismatchError) else ()
            is_own = not self.own.isdisjoint(ids)
            if is_own or not self.engine.is_open or not cursor.is_held:
                raise
            return error
        except asyncio.CancelledError as error:
            # That of a task that the handler has awaited; else this one would be cancelled, too.
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            failure = RuntimeError("the handler was cancelled, but not by the consumer")
            failure.__cause__ = error
            return failure
        finally:
            self.at_rest.set()
        return None

    async def _call(self, cursor: Cursor, state: State) -> None:
        place = replace(cursor.place, rev=state.rev)
        if self.transaction is not None:
            async with self.transaction() as tx:
                commands = await _commands(self.handler(state, tx))
                draft = await cursor.commit_in(tx, commands, place)
            cursor.moved(draft)
        elif commands := await _commands(self.handler(state)):
            await cursor.commit(commands, place)
        else:
            cursor.handled(state.rev)

    async def _pass_over(self, cursor: Cursor, letter: DeadLetter) -> None:
        await cursor.commit((), cursor.place.passing(letter))
        logger.error(
            "consumer %r passed over revision %d of %r: %s",
            self.name,
            letter.rev,
            letter.id,
            letter.error,
            extra={"state_id": letter.id, "rev": letter.rev},
        )


async def _commands(answer: Answer | Awaitable[Answer]) -> Sequence[Command[Any]]:
    """Return what a handler wants to commit."""
    if inspect.isawaitable(answer):
        answer = await answer
    match answer:
        case None:
            return ()
        case Commit():
            return answer.commands
        case Command():
            return (answer,)
        case list() | tuple():
            return answer
    reason = f"must return commands or None, not a {type(answer).__name__}"
    raise InvalidInputError("handler", reason)
