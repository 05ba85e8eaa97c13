"""The kernel: starts instances, sends them messages, and waits for their results."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from random import Random
from types import TracebackType
from typing import Any, Self

from msgspec import Raw

from flowstate import (
    Command,
    Delay,
    Engine,
    InvalidCommandError,
    InvalidInputError,
    RetryPolicy,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.engines.kernel.code import Code, MisfitError, stops_of
from flowstate.engines.kernel.control import CONTROL, Request, Word, answers_of
from flowstate.engines.kernel.ending import TELL
from flowstate.engines.kernel.errors import Cancelled, restored, stored
from flowstate.engines.kernel.events import publish
from flowstate.engines.kernel.fitting import misfit
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import (
    ERROR,
    ORIGIN,
    OUTCOME,
    PARKED,
    RESULT,
    WORKFLOW,
    Codes,
)
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.outside import AWAITS
from flowstate.engines.kernel.results import failure_of, is_over
from flowstate.engines.kernel.starting import Origin, flow_of, new_instance
from flowstate.engines.kernel.steps import MakeTransaction
from flowstate.engines.kernel.values import kept
from flowstate.ground.frozen import EMPTY

__all__ = ["Kernel"]

MOST_BYTES = 128 * 1024  # Of a message: it must fit into an instance next to its data.


class Kernel:
    """Runs the instances of workflows on an engine.

    It registers a flow for each workflow with the registry of the engine, so instances go on
    wherever an engine with such a kernel is open. Retries, timeouts and messages need a
    ``Delayer``, and instances of processes that die need a ``Recoverer``, as all flows do.

    Args:
        engine: open until the kernel is left.
        codes: of the workflows, with all that they use.
        retry: of steps for which neither they nor their workflow say it; ``None``: they fail at
            once.
        transaction: makes a transaction of the store for each step that wants one.
        rng: draws pauses.
    """

    def __init__(
        self,
        engine: Engine,
        codes: Iterable[Code],
        *,
        retry: RetryPolicy | None = None,
        transaction: MakeTransaction | None = None,
        rng: Random | None = None,
    ) -> None:
        self.engine = engine
        self.codes = Codes(codes, retry=retry, transaction=transaction, rng=rng)

    async def __aenter__(self) -> Self:
        self.engine.check_open()
        register(self.engine.flows, self.codes)
        await self.look_at_parked()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass  # What runs is seen to by the engine.

    async def start(
        self,
        code: Code,
        id: str,
        data: Any,
        args: Mapping[str, Any] = EMPTY,
        *,
        labels: Mapping[str, str] = EMPTY,
    ) -> bool:
        """Start an instance, unless there is one of that id.

        Args:
            code: of the workflow.
            id: of the instance, and of its state.
            data: of the instance; the first argument of a workflow that is a function.
            args: its further arguments, by name.
            labels: of its state, apart from those that the engine sets.

        Returns:
            Whether it was started by this call; ``False`` if it was started before.

        Raises:
            InvalidInputError: the data or an argument is not of its type, or JSON cannot hold it;
                or the id is too long, or that of something else; or the engine sets a label.
            UnknownFlowError: the workflow is not among those given here.
            CommitUnknownError: it could not be found out whether it was started; start it again.
        """
        ctx = new_instance(code, id, data, args, labels=labels)
        try:
            await self.engine.start(ctx, flow_of(code.name))
        except RevisionMismatchError:
            name = (await self.engine.get_state(id)).labels.get(WORKFLOW)
            if name != code.name:
                what = "a state that is no instance" if name is None else f"an instance of {name!r}"
                raise InvalidInputError("id", f"{id!r} is the id of {what}") from None
            return False
        return True

    async def send(
        self,
        id: str,
        message: Any,
        *,
        key: str | None = None,
        early: bool = False,
        thread: str = "",
        name: str = "",
    ) -> bool:
        """Send a message to an instance.

        Args:
            id: of the instance.
            message: of the class that the instance waits for.
            key: makes it safe to send again.
            early: the instance need not be there yet.
            thread: only this thread takes it.
            name: what the message is called; otherwise as its class is.

        Returns:
            Whether it was sent; ``False`` if its key was seen before.

        Raises:
            StateNotFoundError: there is no such instance, and the message is not ``early``.
            InvalidCommandError: the instance has ended.
            MailboxFullError: too many messages were not taken.
            InvalidInputError: JSON cannot hold the message, or it has more than 128 KiB; or nothing
                that is known here waits for such a one, and surely not this instance. What is
                ``early`` may be for newer code.
            CommitUnknownError: it could not be found out whether it was sent.
        """
        name = name or type(message).__name__
        if not early and name.partition("#")[0] not in self._messages:
            await self._check_taken(id, name)
        name = f"{name}/{thread}" if thread else name
        raw = _bounded("message", message)
        return await self.engine.signal(id, name, raw, key=key, early=early)

    @cached_property
    def _messages(self) -> frozenset[str]:
        codes = [each for known in self.codes for each in self.codes.versions(known.name)]
        stops = [stop for each in codes for stop in stops_of(each)]
        return frozenset(name for stop in stops for name in stop.messages)

    async def _check_taken(self, id: str, name: str) -> None:
        """Refuse a message for which no stop of an instance ever waits."""
        try:
            code = self.codes.of(await self.engine.get_state(id))
        except MisfitError:
            return  # Its code is not here.
        if any(stop.is_open for stop in stops_of(code)):
            return
        names = sorted({name for stop in stops_of(code) for name in stop.messages})
        known = f"only for {', '.join(names)}" if names else "for no message"
        raise InvalidInputError("message", f"{code.name!r} never waits for {name!r}, {known}")

    async def publish(
        self, event: Any, *, key: str = "", keep: timedelta = timedelta(days=1)
    ) -> bool:
        """Publish an event, for all instances that wait for such a one with ``Event``.

        It returns when the event is stored; instances are told in the background, in any case.

        Args:
            event: of a class with fields. Its name is that of its class.
            key: makes it safe to publish again: a class has one event of a key, while it is kept.
            keep: how long it is kept at least, for waits that look back.

        Returns:
            Whether it was published; ``False`` if its key is known.

        Raises:
            InvalidInputError: JSON cannot hold the event, or it has no fields or more than 128 KiB;
                or a bad ``keep``.
            UnknownFlowError: no kernel was opened on this engine.
            CommitUnknownError: it could not be found out whether it was published.
        """
        _bounded("event", event)
        return await publish(self.engine, event, key, keep)

    async def cancel(self, id: str, *, hard: bool = False) -> None:
        """Raise ``Cancelled`` at the next stop of each thread of an instance.

        Args:
            id: of the instance; one that has ended is left alone.
            hard: end it at once instead; nothing of it cleans up. Its children are told.

        Raises:
            StateNotFoundError: there is no such instance.
            MailboxFullError: too many messages were not taken; a hard cancel needs no mailbox.
        """
        if hard:
            await self._end(id)
        else:
            await self._control(id, "cancel")

    async def pause(self, id: str) -> None:
        """Let an instance begin no step, and take no message, until it is resumed.

        Raises:
            StateNotFoundError: there is no such instance.
        """
        await self._control(id, "pause")

    async def resume(self, id: str) -> None:
        """Let an instance go on that was paused.

        Raises:
            StateNotFoundError: there is no such instance.
        """
        await self._control(id, "resume")

    async def update(
        self,
        id: str,
        name: str,
        value: Any,
        *,
        key: str = "",
        timeout: float | None = None,  # noqa: ASYNC109 - by the clock of the engine
    ) -> Any:
        """Ask an instance to change its data, and return its answer.

        Args:
            id: of the instance.
            name: of the update, in the options of its code.
            value: of the type that the update takes.
            key: makes it safe to ask again: the same key gets the same answer, as long as the
                instance keeps it.
            timeout: seconds to wait for the answer.

        Returns:
            The answer, as JSON has it.

        Raises:
            StateNotFoundError: there is no such instance.
            InvalidCommandError: it has ended.
            InvalidInputError: JSON cannot hold the value, or it has more than 128 KiB.
            MailboxFullError: too many messages were not taken.
            TimeoutError: there was no answer in time; it may come later.
            Exception: what the update has raised.
        """
        key = key or uuid.uuid4().hex
        await self.engine.signal(
            id, CONTROL, Request(name, _bounded("value", value), key), key=f"update {key}"
        )
        state = await self.engine.wait_for(
            id,
            until=lambda each: each.status is Status.ENDED or key in answers_of(each),
            timeout=timeout,
        )
        answer = answers_of(state).get(key)
        if answer is None:
            raise InvalidCommandError("id", f"{id!r} has ended")
        if answer.error is not None:
            raise restored(answer.error)
        return decoded(Any, answer.gave)

    async def result(
        self,
        id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - by the clock of the engine
    ) -> Any:
        """Return what an instance has returned, as soon as it has.

        Args:
            id: of the instance, which need not be there yet.
            timeout: seconds to wait at most.

        Raises:
            InstanceFailedError: it has ended with an error, which is the cause.
            InstanceCancelledError: it was cancelled.
            TimeoutError: it has not ended in time.
        """
        try:
            state = await self.engine.wait_for(id, until=is_over, timeout=timeout)
        except TimeoutError:
            raise TimeoutError(f"{id!r} has not ended within {timeout:g} seconds") from None
        return self.result_of(state)

    def result_of(self, state: State) -> Any:
        """Return the result that the state of an instance has.

        Raises:
            InstanceFailedError: it has ended with an error, which is the cause.
            InstanceCancelledError: it was cancelled.
        """
        if (failure := failure_of(state)) is not None:
            raise failure
        is_known = state.labels.get(WORKFLOW, "") in self.codes
        return state.get(self.codes.of(state).gives if is_known else Any, RESULT)

    async def look_at_parked(self) -> int:
        """Let instances go on that were set aside, if the codes here fit them; return how many."""
        count = 0
        async for state in self.engine.states(
            labels={PARKED: "misfit"}, latest_only=True, status=Status.PAUSED
        ):
            if not misfit(state, self.codes):
                await self._control(state.id, "look")
                count += 1
        return count

    async def _control(self, id: str, word: Word) -> None:
        try:
            await self.engine.signal(id, CONTROL, word)
        except InvalidCommandError:
            return  # It has ended.

    async def _end(self, id: str) -> None:
        """End an instance by one commit, and cancel its children."""

        def end(ctx: StateContext) -> Sequence[Command[Any]]:
            if is_over(ctx.current):
                return ()
            for topic in [key for key in ctx.current.labels if key.startswith(AWAITS)]:
                ctx.set_label(topic, None)
            ctx.set_label(OUTCOME, "cancelled")
            ctx.put(stored(Cancelled()), ERROR)
            return (Transit(ctx, TELL), Delay(ctx, TELL, timedelta(0)))

        await self.engine.update(id, end)
        async for child in self.engine.states(labels={"parent": id}, latest_only=True):
            if child.status is not Status.ENDED and not child.get(Origin, ORIGIN).abandoned:
                await self._control(child.id, "cancel")


def _bounded(field: str, value: Any) -> Raw:
    """Return a value as JSON, unless it could make an instance too large for the store."""
    raw = kept(field, value)
    if memoryview(raw).nbytes > MOST_BYTES:
        raise InvalidInputError(field, f"must be at most {MOST_BYTES} bytes as JSON")
    return raw
