"""Moves the threads of an instance on, until each of them stands where it takes time.

It decides purely: no step runs in here, and nothing is written.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Raw

from flowstate import InvalidInputError, encoded
from flowstate.engines.kernel.code import At, Frame, MisfitError, Reached, Returned
from flowstate.engines.kernel.errors import (
    Cancelled,
    StepFailed,
    ThreadExistsError,
    restored,
    stored,
    text_of,
)
from flowstate.engines.kernel.joining import Verdict, check_held, judge
from flowstate.engines.kernel.operations import (
    Call,
    Each,
    Failed,
    Gave,
    Go,
    Join,
    Operation,
    Outcome,
    Run,
    Until,
    Wait,
)
from flowstate.engines.kernel.outcomes import decoded, outcome_of
from flowstate.engines.kernel.threads import MAIN, Children, Ended, Thread
from flowstate.engines.kernel.values import kept
from flowstate.engines.kernel.waiting import Waiting

__all__ = ["Progress"]

DOES = {Run: ("step", "pause"), Wait: ("wait",), Until: ("until",), Join: ("join",)}
DOES |= {Each: ("each",), Call: (), Go: ()}
MOST_MOVES = 1_000  # Between two looks of others at the event loop.
DEEPEST = 1_000  # Frames of a thread, as Python has it.
TOOK_TOO_LONG = TimeoutError("the workflow has taken longer than it may")


class Progress(Waiting):
    """The threads of one instance in one turn."""

    __slots__ = ()

    def resume(self) -> None:
        """Take the threads up as they are stored, and ask again what they want.

        Raises:
            MisfitError: the code does not fit to where they stand.
        """
        for name, thread in list(self.instance.threads.items()):
            if thread.does == "go":
                self._ready.append(name)
            elif thread.does != "ended" and self._is_asked_again(name, thread):
                self._take_up(name, thread)

    def _take_up(self, name: str, thread: Thread) -> None:
        operation = self._asked[name]
        check_held(operation, thread, self.instance.branches(name))
        if thread.does not in DOES[type(operation)]:  # The code has changed meanwhile.
            self._again(name, thread)
        elif thread.does == "step":
            self.to_start[name] = None

    def _is_asked_again(self, name: str, thread: Thread) -> bool:
        try:
            self.ask(name)
        except MisfitError:
            raise
        except (Exception, Cancelled) as error:  # noqa: BLE001 - of the user's arguments
            self._go_on(name, thread, Failed(error))
            return False
        return True

    def run(self) -> bool:
        """Move threads on as far as they come by themselves.

        Returns whether that is all; otherwise others should have their turn, then call it again.

        Raises:
            MisfitError: the code does not fit to where a thread stands.
        """
        for _ in range(MOST_MOVES):
            if not self._ready and not self._check_conditions():
                return True
            self._move(self._ready.popleft())
        return False

    def _check_conditions(self) -> bool:
        """Let threads go on whose condition is true; return whether there are any."""
        for name, thread in self._doing("until"):
            until = self.ask(name) if thread.does == "until" else None  # Or it has ended just now.
            try:
                is_true = isinstance(until, Until) and until.condition(self.instance.data)
            except (Exception, Cancelled) as error:  # noqa: BLE001 - of the user's condition
                self.finish(name, Ended(error=stored(error)))
            else:
                if is_true:
                    self.finish(name, Ended())
        return bool(self._ready)

    def _move(self, name: str) -> None:
        thread = self.instance.threads.get(name)
        if thread is None or thread.does != "go":
            return
        if thread.frames and not thread.stop:
            frame = thread.frames[-1]
            self.instance.is_changed = True
            reached = self.instance.codes[frame.code].begin(frame, self.instance.data)
            self._reached(name, thread, thread.frames, reached)
        elif thread.owed:
            self.raise_owed(name)
        elif self._is_asked_again(name, thread):
            try:
                self._enter(name, thread, self._asked[name])
            except InvalidInputError as error:
                self.finish(name, Ended(error=stored(error)))

    def _enter(self, name: str, thread: Thread, operation: Operation) -> None:
        """Begin with what a thread wants at its stop."""
        match operation:
            case Run():
                thread.does = "step"
                self.to_start[name] = None
                return  # Nothing has changed that must be committed first.
            case Wait():
                self._wait(name, thread, operation)
            case Until():
                thread.does = "until"
            case Call() if len(thread.frames) == DEEPEST:
                error = RecursionError(f"{DEEPEST} calls of helpers are within each other")
                self.finish(name, Ended(error=stored(error)))
            case Call():
                thread.frames = (*thread.frames, self.first_frame(operation))
                self._again(name, thread)
            case Join():
                self._join(name, thread, operation)
            case Each():
                thread.does, thread.children = "each", Children(len(operation.items))
                self.look_later(thread)
                if not operation.items:
                    self.finish(name, Ended(Raw(b"[]")))
            case Go():
                self._go(name, thread, operation)
        self.instance.is_changed = True

    def _go(self, name: str, thread: Thread, operation: Go) -> None:
        new = operation.thread or f"{name}.{operation.name}.{thread.passed}"
        if new in self.instance.threads:
            error = ThreadExistsError(f"there is a thread {new!r}")
            self.finish(name, Ended(error=stored(error)))
            return
        passed = self.instance.notes.passed  # Its keys differ from those of an earlier one.
        self.instance.threads[new] = Thread((self.first_frame(operation),), passed=passed)
        self._ready.append(new)
        self.finish(name, Ended(encoded("thread", new)))

    def _join(self, name: str, thread: Thread, operation: Join) -> None:
        prefix = f"{name}.{operation.name}.{thread.passed}"
        new = {
            f"{prefix}.{index}": Thread(
                (self.first_frame(branch),) if isinstance(branch, Call) else (),
                parent=name,
                index=index,
                branch=branch.name,
            )
            for index, branch in enumerate(operation.branches)
        }
        thread.does = "join"
        self.instance.threads.update(new)
        self._ready += new
        self._judge(name, thread)

    def _judge(self, name: str, thread: Thread) -> None:
        """End a join if enough of its branches have ended."""
        join, branches = self._join_of(name), self.instance.branches(name)
        verdict = judge(join, thread, branches.values())
        if verdict is Verdict.OPEN:
            return
        if any(branch.does != "ended" for branch in branches.values()):
            for each in branches:
                self.interrupt(each, "cancel")
            return
        gave = {each.index: each.outcome.gave for each in branches.values() if each.outcome}
        for each in branches:
            self._forget(each)
        if verdict is Verdict.OWED:
            self.raise_owed(name)
        elif verdict is Verdict.FAILED:
            self.finish(name, Ended(error=thread.error))
        else:
            order = thread.picked if join.wanted is not None else sorted(thread.picked)
            picked = [(index, gave[index]) for index in order]
            self.finish(name, Ended(Raw(msgspec.json.encode(picked))))

    def _join_of(self, name: str) -> Join:
        join = self.ask(name)
        assert isinstance(join, Join)  # noqa: S101 - see check_held
        return join

    def _branch_ended(self, thread: Thread, ended: Ended) -> None:
        name = thread.parent
        parent, branches = self.instance.threads[name], self.instance.branches(name).values()
        if judge(self._join_of(name), parent, branches, apart_from=thread) is Verdict.OPEN:
            if ended.error is None:
                parent.picked.append(thread.index)
            elif parent.error is None:
                parent.error = ended.error
        self._judge(name, parent)

    def interrupt_all(self) -> None:
        """Cancel all threads, and with them their branches and children."""
        for name, thread in list(self.instance.threads.items()):
            if not thread.parent:
                self.interrupt(name, "cancel")

    def interrupt(self, name: str, owed: Literal["cancel", "timeout"]) -> None:
        """Let an error be raised at the stop of a thread; the same one only once."""
        thread = self.instance.threads.get(name)
        if thread is None or thread.does == "ended" or (owed == "cancel" and thread.told):
            return
        self.instance.is_changed, thread.told = True, thread.told or owed == "cancel"
        if self._is_shielded(thread):
            thread.put_off = "cancel" if thread.told else owed
            return
        thread.owed = owed
        if thread.does == "join":
            self._judge(name, thread)
        elif thread.does == "each":
            assert thread.children is not None  # noqa: S101 - a thread at such a stop has them
            thread.children.stopping = True
        else:
            if thread.does == "step" and name not in self.to_start:
                self.to_stop.add(name)
            self._again(name, thread)

    def _is_shielded(self, thread: Thread) -> bool:
        return any(self.instance.codes[each.code].options.shielded for each in thread.frames)

    def raise_owed(self, name: str) -> None:
        """Raise what a thread is owed at its stop."""
        thread = self.instance.threads[name]
        error = TOOK_TOO_LONG if thread.owed == "timeout" else Cancelled()
        thread.owed = ""
        self.finish(name, Ended(error=stored(error)))

    def step_failed(self, name: str, error: Exception) -> None:
        """Try a step again later, or raise at its stop that it has failed."""
        thread, operation = self.instance.threads[name], self.ask(name)
        assert isinstance(operation, Run)  # noqa: S101 - only such have steps
        if thread.owed:
            return  # That is raised instead.
        policy = operation.options.retry or self.instance.code.options.retry or self.retry
        thread.failures += 1
        self.instance.is_changed = True
        if policy and thread.failures < policy.attempts and policy.retries(error):
            thread.does, thread.text = "pause", text_of(error)
            thread.at = self.later(policy.pause(thread.failures, error, self.rng))
            return
        failed = StepFailed(operation.name, thread.failures, text_of(error))
        failed.__cause__ = error
        self.finish(name, Ended(error=stored(failed)))

    def finish(self, name: str, ended: Ended | Gave) -> None:
        """Give the stop of a thread its outcome."""
        thread = self.instance.threads[name]
        self.instance.is_changed = True
        self.to_start.pop(name, None)
        if isinstance(ended, Gave):
            self._go_on(name, thread, ended)
        elif not thread.frames:
            self._end(name, thread, ended)
        elif ended.error is not None:
            self._go_on(name, thread, Failed(restored(ended.error)))
        else:
            self._go_on(name, thread, outcome_of(self.ask(name), ended))

    def _go_on(self, name: str, thread: Thread, outcome: Outcome) -> None:
        self.instance.is_changed = True
        self._asked.pop(name, None)
        if not thread.frames:
            assert isinstance(outcome, Failed)  # noqa: S101 - asking for it has raised
            self._end(name, thread, Ended(error=stored(outcome.error)))
            return
        thread.leave_stop()
        frames = thread.frames
        reached = self.instance.codes[frames[-1].code].go_on(
            frames[-1], self.instance.data, outcome
        )
        if isinstance(reached, At) and reached.frame is frames[-1]:
            thread.passed -= 1  # It has not left its stop.
        self._reached(name, thread, frames, reached)

    def _reached(
        self, name: str, thread: Thread, before: Sequence[Frame], reached: Reached
    ) -> None:
        """Let a thread stand where its code has come to, in it or in what has called it."""
        *outer, frame = before
        while not isinstance(reached, At):
            ended, gives = self._ended(frame, reached), self.instance.codes[frame.code].gives
            if not outer:
                # Where an error was raised stays known, for those who want to try again.
                thread.frames = before if ended.error is not None and name == MAIN else ()
                self._end(name, thread, ended)
                return
            outcome: Outcome = (
                Failed(restored(ended.error))
                if ended.error is not None
                else Gave(decoded(gives, ended.gave))
            )
            frame = outer.pop()
            thread.passed += 1
            reached = self.instance.codes[frame.code].go_on(frame, self.instance.data, outcome)
        thread.frames = (*outer, reached.frame)
        if thread.put_off and not self._is_shielded(thread):
            thread.owed, thread.put_off = thread.put_off, ""
        thread.does = "go"
        self._ready.append(name)

    def _ended(self, frame: Frame, reached: Reached) -> Ended:
        if not isinstance(reached, Returned):
            return Ended(error=stored(reached.error))  # type: ignore[union-attr] # it is Raised
        what = f"result of {frame.code!r}"
        try:
            raw = kept(what, reached.value)
            decoded(self.instance.codes[frame.code].gives, raw)
        except InvalidInputError as error:
            return Ended(error=stored(error))
        except msgspec.MsgspecError as error:
            return Ended(error=stored(InvalidInputError(what, f"is not of its type: {error}")))
        return Ended(raw)

    def _end(self, name: str, thread: Thread, ended: Ended) -> None:
        thread.does, thread.outcome, thread.at = "ended", ended, None
        if thread.parent:
            self._branch_ended(thread, ended)
        elif name == MAIN:
            self.interrupt_all()
        else:
            self.instance.notes.passed = max(self.instance.notes.passed, thread.passed + 1)
            self._forget(name)
            if ended.error is not None and not ended.error.is_cancel:
                self.instance.notes.failure = self.instance.notes.failure or ended.error
                self.interrupt_all()

    def _forget(self, name: str) -> None:
        del self.instance.threads[name]
        self._asked.pop(name, None)
