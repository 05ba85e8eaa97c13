"""Control messages: what is said to an instance as a whole, by clients and by its children."""

import logging
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from flowstate import StateContext
from flowstate.engines.kernel.errors import StoredError, stored
from flowstate.engines.kernel.instance import ANSWERS, MOST_ANSWER, Instance
from flowstate.engines.kernel.outcomes import decoded
from flowstate.engines.kernel.progress import Progress
from flowstate.engines.kernel.threads import Ended

__all__ = ["CONTROL", "ChildEnded", "Request", "Word", "answers_of", "obey"]

logger = logging.getLogger("flowstate.engines")

CONTROL = "$control"  # The name of these messages.
MOST_ANSWERS = 100  # That an instance keeps, as long as they have at most ``MOST_ANSWER`` bytes.

Word = Literal["cancel", "pause", "resume", "look"]
"""Raise ``Cancelled`` at the next stop of each thread; begin no step, and take no message; go on;
look again, whether the code fits by now, and for what is waited for outside."""


class Request(Struct, frozen=True, tag_field="do", tag="update"):
    """Change the data, and answer.

    Attributes:
        name: of the update.
        value: what is asked for.
        key: names the answer.
    """

    name: str
    value: Raw
    key: str


class ChildEnded(Struct, frozen=True, omit_defaults=True, tag_field="do", tag="child"):
    """A child has ended.

    Attributes:
        child: its id.
        thread: of the parent, which waits for it.
        passed: how many stops that had passed.
        rev: in which it has ended.
        error: why there is no result.
    """

    child: str
    thread: str
    passed: int
    rev: int
    error: StoredError | None = None


Control = Word | Request | ChildEnded


def obey(raw: Raw, ctx: StateContext, instance: Instance, progress: Progress) -> None:
    """Do what a control message says."""
    notes = instance.notes
    instance.is_changed = True
    try:
        message: Control = decoded(Control, raw)
    except msgspec.MsgspecError as error:
        extra = {"state_id": instance.id}
        text = "%r does not count a message %r: %s"
        logger.warning(text, instance.id, CONTROL, error, extra=extra)
        return
    match message:
        case "cancel" if not notes.cancelled:
            notes.cancelled, notes.paused = True, False
            progress.interrupt_all()
        case "pause" | "resume" if notes.paused != (message == "pause"):
            notes.paused = message == "pause"
            if instance.code.options.told is not None:
                stops = [each.stop for each in instance.threads.values() if each.does != "ended"]
                instance.code.options.told(instance.data, message, stops)
        case Request():
            _keep_answer(ctx, message.key, _answer(instance, progress, message))
        case ChildEnded():
            _count(instance, message)
        case "look":
            progress.is_looking = True
        case _:
            pass


def _answer(instance: Instance, progress: Progress, request: Request) -> Ended:
    """Change the data as an update says, or as who waits for it says, and return the answer."""
    update = instance.code.options.updates.get(request.name)
    try:
        if update is not None:
            return Ended(instance.change(update, request.value))
        return Ended(progress.answer(request.name, request.value))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - the caller gets it
        return Ended(error=stored(error))


def answers_of(ctx: Any) -> dict[str, Ended]:
    """Return the newest answers that a state or context has, by their keys."""
    answers: dict[str, Ended] = ctx.get(dict[str, Ended], ANSWERS, default={})
    return answers


def _keep_answer(ctx: StateContext, key: str, answer: Ended) -> None:
    answers = {**answers_of(ctx), key: answer}
    for old in list(answers)[:-MOST_ANSWERS]:
        del answers[old]
    sizes = {each: len(msgspec.json.encode(answers[each])) for each in answers}
    while len(sizes) > 1 and sum(sizes.values()) > MOST_ANSWER:
        old = next(iter(sizes))
        del answers[old], sizes[old]
    ctx.put(Raw(msgspec.json.encode(answers)), ANSWERS)


def _count(instance: Instance, ended: ChildEnded) -> None:
    """Count a child that has ended, unless its thread does not wait for it any more."""
    thread = instance.threads.get(ended.thread)
    if thread is None or thread.children is None or thread.passed != ended.passed:
        return
    if ended.rev > thread.children.since:  # It may have begun again after that.
        thread.children.count(ended.child, ended.error)
