"""Bugs to plant in what the core does for steps, alarms, messages, updates and old states."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import pytest

from flowstate import checking, committing, context
from flowstate.commands import Command, Commit
from flowstate.executed import Executed
from flowstate.executions import failures
from flowstate.mailboxes.mailbox import MAILBOX_PREFIX, Mailbox
from flowstate.mailboxes.seen_keys import SeenKeys
from flowstate.operations import updating
from flowstate.planning import steps
from flowstate.planning.plan import Plan
from flowstate.recovery import Retention
from flowstate.recovery.handling import Handling
from flowstate.recovery.place import Cursor
from flowstate.retrying import Outcome, Policy, decide
from flowstate.state import State
from tests.proof.bug import CASE_LIMIT, Bug, Plant, Trial

__all__ = ["BUGS"]


def keys_are_of_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that goes on after a commit has another key, and a service does its work again."""
    monkeypatch.setattr(context, "origin_of", lambda _transition, known, _steps: str(known.rev))


def failures_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that always fails is tried again without an end."""

    def deciding(
        policy: Policy, flow: str, _marks: Mapping[str, str], error: Exception, rng: Random
    ) -> Outcome:
        return decide(policy, flow, {}, error, rng)

    monkeypatch.setattr(failures, "decide", deciding)


def superseded_executions_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow works on, although others have moved its state on in the same process."""
    monkeypatch.setattr(Executed, "tell", lambda _self, _state: None)


def timers_stay_when_they_fire(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state still has the timer that has brought it where it is."""
    monkeypatch.setattr(steps, "without_timer", lambda state, _name: state.timers)


def messages_are_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that came too early is never received."""
    monkeypatch.setattr(Mailbox, "take", lambda self, _names: (None, self))


def mailboxes_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that comes while its receiver begins to wait lies there unseen."""
    check = Plan.check

    def checking_others(self: Plan, committed: State) -> None:
        if not str(committed.id).startswith(MAILBOX_PREFIX):
            check(self, committed)

    monkeypatch.setattr(Plan, "check", checking_others)


def keys_of_messages_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is sent again with its key is received twice."""

    async def have(_self: SeenKeys, _token: str, _mailbox: State | None) -> bool:
        return False

    monkeypatch.setattr(SeenKeys, "have", have)


def mailboxes_outlive_their_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next life of an id receives the messages of the one before."""
    monkeypatch.setattr(committing, "forget_mailbox", lambda _plan, _id, _rev: None)


def shared_changes_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update that waits for its turn is said to be done, and was not."""
    monkeypatch.setattr(updating, "_is_done", lambda _request, _ctx: True)


def places_are_stored_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that dies in between has left a revision out."""
    commit = Cursor.commit

    async def committing_twice(self: Cursor, commands: Sequence[Command[Any]], place: Any) -> None:
        await commit(self, (), place)
        if commands:
            await self._engine.do(Commit(*commands))

    monkeypatch.setattr(Cursor, "commit", committing_twice)


def handlers_are_not_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer passes over what fails once, and keeps no letter of it."""
    attempt = Handling._attempt

    async def attempting(self: Handling, cursor: Cursor, state: State) -> None:
        await attempt(self, cursor, state)

    monkeypatch.setattr(Handling, "_attempt", attempting)


def retention_keeps_no_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """Revisions that consumers have still to read are gone."""

    async def compact(self: Retention) -> None:
        await self._engine.compact(await self._engine.head())

    monkeypatch.setattr(Retention, "_compact", compact)


def every_flow_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a store before a deployment finds no state that could not go on."""
    monkeypatch.setattr(checking, "_is_known", lambda _flows, _id: True)


def _bug(plant: Plant, trial: Trial, store: str = "memory") -> Bug:
    return Bug(plant.__name__, plant.__doc__ or "", "core", (trial,), plant, store)


def _case(*names: str, limit: float = CASE_LIMIT) -> Trial:
    return Trial("conformance", names, limit=limit)


RACES = "tests/test_mailbox_races.py"
BUGS = (
    _bug(keys_are_of_revisions, _case("keys_of_a_step_that_runs_again")),
    _bug(failures_are_not_counted, _case("failure_too_many_ends_as_dead", limit=5.0)),
    _bug(superseded_executions_are_not_told, _case("superseded_by_its_engine", limit=5.0)),
    _bug(timers_stay_when_they_fire, _case("timer_fires_when_it_is_due", limit=5.0)),
    _bug(messages_are_not_looked_for, _case("signals_are_kept_in_order", limit=5.0)),
    _bug(mailboxes_are_not_checked, Trial("tests", (RACES,))),
    _bug(keys_of_messages_are_not_known, _case("signals_with_keys")),
    _bug(mailboxes_outlive_their_states, _case("prune_takes_mailboxes_along")),
    _bug(shared_changes_are_left_out, _case("update_of_a_hot_state"), "sqlite"),
    _bug(places_are_stored_first, _case("consumer_commits_its_place_with_what_it_does")),
    _bug(handlers_are_not_called_again, _case("consumer_tries_a_failing_revision_again")),
    _bug(retention_keeps_no_history, _case("retention_keeps_the_history")),
    _bug(every_flow_is_known, _case("check_knows_aliases_and_declared_flows")),
)
