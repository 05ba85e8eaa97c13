"""What is done when a flow has failed: durably, in one commit."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Literal

import attrs
import msgspec
from msgspec.structs import replace

from flowstate.commands import Command, End, Retry, Transit
from flowstate.committing import Committer
from flowstate.dead import DEAD, marks_of
from flowstate.errors import EngineStoppedError, ExecutionLostError, RevisionMismatchError
from flowstate.executions.execution import Begun, Execution
from flowstate.ground.counters import Counters
from flowstate.ground.frozen import FrozenDict
from flowstate.planning.delays import again
from flowstate.registry import FlowRegistry, RegisteredFlow
from flowstate.retrying import ERROR, FAILED, FAILURES, Outcome, decide, text_of
from flowstate.state import State

__all__ = ["Failures", "Taken"]

logger = logging.getLogger("flowstate.engine")

Taken = Literal["not taken", "over", "sent"]
"""What became of a failure: it is raised, the execution is over, or the state was sent on."""


@attrs.define(eq=False)
class Failures:
    """Does what the policies of flows say when they fail."""

    _committer: Committer
    _flows: FlowRegistry
    _rng: Random
    _monotonic: Callable[[], float]
    _counters: Counters

    async def take(self, flow: RegisteredFlow, execution: Execution, error: Exception) -> Taken:
        """Deal with what a call of a flow, or the command that it returned, has raised.

        A stop of the engine is no failure, nor what comes out of a flow that was cancelled. A
        state that was never committed has nothing to go on from. If the commit cannot be stored,
        the failure is raised, and recovery finds the state as it was.
        """
        if _is_stopped(execution) or isinstance(error, EngineStoppedError | ExecutionLostError):
            return "not taken"
        self._counters.failures += 1
        begun = execution.begun
        outcome = None if begun is None else self._decide(flow, begun.state, error)
        if begun is None or outcome is None:
            return "not taken"
        extra = {"state_id": execution.id, "flow": flow.id, "failures": outcome.failures}
        try:
            await self._commit(execution, begun, outcome, text_of(error))
        except RevisionMismatchError:
            logger.debug("%r has failed, and others have moved it on", execution.id, extra=extra)
            execution.is_beaten = True
            return "over"
        except EngineStoppedError:
            return "not taken"
        except Exception:
            message = "cannot store that flow %r of %r has failed; that is left to recovery"
            logger.exception(message, flow.id, execution.id, extra=extra)
            return "not taken"
        self._count(outcome)
        _log(flow, execution.ctx.committed, outcome, error)
        goes_on = outcome.do == "send" and not execution.ctx.committed.delayed_until
        execution.failure = None if goes_on else error
        return "sent" if goes_on else "over"

    def _decide(self, flow: RegisteredFlow, state: State, error: Exception) -> Outcome | None:
        policy = flow.policy.of(state.annotations)
        if not policy.takes_failures:
            return None
        return decide(policy, flow.id, state.transition.annotations, error, self._rng)

    async def _commit(
        self, execution: Execution, begun: Begun, outcome: Outcome, text: str
    ) -> None:
        if execution.is_in_thread:
            # The call goes on and has the context; its commits must not find the new revision.
            execution.follow(execution.ctx.copy(), self._monotonic())
        ctx, state, commands = execution.ctx, begun.state, list[Command[None]]()
        match outcome.do:
            case "retry":
                after = timedelta(seconds=outcome.pause)
                notes = {FAILURES: str(outcome.failures), ERROR: text}
                delay = again(ctx, state.transition.to, after, commit=True)
                commands = [Retry(ctx, notes), delay]
            case "send":
                to, failed = outcome.to, msgspec.json.encode(outcome.failed).decode()
                commands = [Transit(ctx, to, {ERROR: text, FAILED: failed})]
                if not self._flows.can_run(to):  # An engine that can, claims it.
                    commands.append(again(ctx, to))
            case "end":
                commands = [End(ctx, marks_of(state, outcome.reason, text, outcome.failures))]
                state = replace(state, labels=FrozenDict({**state.labels, **DEAD}))
        await self._committer.commit_from(ctx, state, begun.taken, commands)
        execution.is_in_thread = False

    def _count(self, outcome: Outcome) -> None:
        if outcome.do == "retry":
            self._counters.retries += 1
        else:
            self._counters.exhausted += 1


def _log(flow: RegisteredFlow, state: State, outcome: Outcome, error: Exception) -> None:
    """Log what was done; with a traceback if a surprise leaves no further attempt."""
    extra = {
        "state_id": state.id,
        "rev": state.rev,
        "flow": flow.id,
        "failures": outcome.failures,
    }
    if outcome.do == "retry":
        message = "flow %r of %r failed, failure %d, and is tried again in %.3f s: %s"
        told = flow.id, state.id, outcome.failures, outcome.pause, text_of(error)
        logger.warning(message, *told, extra=extra)
    else:
        what = f"sent to flow {outcome.to!r}" if outcome.do == "send" else "ended as dead"
        message = "%r %s and is %s: %s"
        exhausted = state.id, outcome.reason, what, text_of(error)
        if outcome.is_expected:
            logger.warning(message, *exhausted, extra=extra)
        else:
            logger.error(message, *exhausted, extra=extra, exc_info=error)


def _is_stopped(execution: Execution) -> bool:
    """Return whether the execution was cancelled, so that the error is no failure of the flow."""
    task = asyncio.current_task()
    return execution.is_lost or task is None or task.cancelling() > execution.cancellations
