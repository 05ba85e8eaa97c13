"""Threads that wait for others: for branches and children; and how they are interrupted."""

from typing import Literal

import msgspec
from msgspec import Raw

from flowstate.engines.kernel.errors import Cancelled, stored
from flowstate.engines.kernel.joining import Verdict, judge
from flowstate.engines.kernel.operations import Call, Join
from flowstate.engines.kernel.threads import Ended, Thread
from flowstate.engines.kernel.waiting import Waiting

__all__ = ["Branching"]

TOOK_TOO_LONG = TimeoutError("the workflow has taken longer than it may")


class Branching(Waiting):
    """The part of the progress of an instance in which threads end others."""

    __slots__ = ()

    def _join(self, name: str, thread: Thread, operation: Join) -> None:
        prefix, branches = f"{name}.{operation.name}.{thread.passed}", operation.branches
        new = {
            f"{prefix}.{index}": Thread(
                (self.first_frame(branch),) if isinstance(branch, Call) else (),
                parent=name,
                index=index,
            )
            for index, branch in enumerate(branches)
        }
        thread.does = "join"
        self.instance.threads.update(new)
        self._ready += new
        self._judge(name, thread)

    def _judge(self, name: str, thread: Thread) -> None:
        """End a join if enough of its branches have ended."""
        join = self.ask(name)
        assert isinstance(join, Join)  # noqa: S101 - who waits for branches stands at one
        branches = self.instance.branches(name)
        verdict = judge(join, thread, branches)
        if verdict is Verdict.OPEN:
            return
        if any(branch.does != "ended" for branch in branches):
            for each, branch in list(self.instance.threads.items()):
                if branch.parent == name:
                    self.interrupt(each, "cancel")
            return
        self._end_join(name, thread, join, verdict)

    def _end_join(self, name: str, thread: Thread, join: Join, verdict: Verdict) -> None:
        branches = self.instance.branches(name)
        gave = {each.index: each.outcome.gave for each in branches if each.outcome is not None}
        order = thread.picked if join.wanted is not None else sorted(thread.picked)
        picked = [(index, gave[index]) for index in order]
        for each in [key for key, branch in self.instance.threads.items() if branch.parent == name]:
            self._forget(each)
        if verdict is Verdict.OWED:
            self.raise_owed(name)
        elif verdict is Verdict.FAILED:
            self.finish(name, Ended(error=thread.error))
        else:
            self.finish(name, Ended(Raw(msgspec.json.encode(picked))))

    def _branch_ended(self, thread: Thread, ended: Ended) -> None:
        name = thread.parent
        parent, join = self.instance.threads[name], self.ask(name)
        assert isinstance(join, Join)  # noqa: S101 - who waits for branches stands at one
        if judge(join, parent, self.instance.branches(name), apart_from=thread) is Verdict.OPEN:
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
        thread = self.instance.threads[name]
        if thread.does == "ended" or (owed == "cancel" and thread.told):
            return
        thread.owed, thread.told = owed, thread.told or owed == "cancel"
        self.instance.is_changed = True
        if thread.does == "join":
            self._judge(name, thread)
        elif thread.does == "each":
            assert thread.children is not None  # noqa: S101 - who stands at one has it
            thread.children.stopping = True
        else:
            if thread.does == "step" and name not in self.to_start:
                self.to_stop.add(name)
            self._again(name, thread)

    def raise_owed(self, name: str) -> None:
        """Raise what a thread is owed at its stop."""
        thread = self.instance.threads[name]
        error = TOOK_TOO_LONG if thread.owed == "timeout" else Cancelled()
        thread.owed = ""
        self.finish(name, Ended(error=stored(error)))
