"""Bugs to plant in the Postgres driver."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate.driver import StateQuery, States, Verdict, Writes
from flowstate.drivers.kit import resolving
from flowstate.drivers.kit.records import Row, page_of
from flowstate.drivers.postgres import PostgresDriver, reader
from flowstate.drivers.postgres.commits import Resolving
from flowstate.errors import StoreUnavailableError
from flowstate.state import State
from tests.proof.bug import Bug, Plant, Trial
from tests.proof.fragments import in_migration

__all__ = ["BUGS"]

LOST_REPLIES = ("tests/postgres/test_lost_replies.py",)


UNLOCKED = ("pg_advisory_xact_lock(1718382455,", "greatest(1718382455,")


def no_commit_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes give their commits the same revisions."""
    in_migration(monkeypatch, UNLOCKED)


def revisions_from_a_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Revisions become visible in another order than their own, and cursors pass the holes."""
    table = "CREATE TABLE {schema}.latest ("
    next_one = "nextval('{schema}.revisions')"
    in_migration(
        monkeypatch,
        UNLOCKED,
        (table, f"CREATE SEQUENCE {{schema}}.revisions;\n{table}"),
        ("IF puts = 1 AND commits = 1 AND rest IS NULL THEN", "IF false THEN"),
        ("                head := head + 1;\n", f"                head := {next_one};\n"),
    )


def tokens_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that is sent again is refused, although it has happened."""
    in_migration(
        monkeypatch,
        ("committed, NULL, words[1], words[5]", "committed, NULL, '', words[5]"),
        ("until[put], words[counts[4 * put - 1]],", "until[put], '',"),
    )


def refused_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose reply was lost is tried again, meets itself, and is called refused."""

    async def find_replays(self: Resolving, commits: Sequence[Writes]) -> list[None]:
        return [None] * len(commits)

    monkeypatch.setattr(Resolving, "find_replays", find_replays)


def unknown_is_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose outcome cannot be found out is said not to have happened."""

    def failed(_token: str) -> StoreUnavailableError:
        return StoreUnavailableError("the connection is lost")

    monkeypatch.setattr(resolving, "CommitUnknownError", failed)


def labels_are_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is found among the latest by labels that it had before."""
    in_migration(monkeypatch, ("IF true = ANY (had_labels) THEN", "IF false THEN"))


def lone_commits_forget_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way of a lone commit leaves the labels and delays of the old revision."""
    in_migration(monkeypatch, (" AND NOT labelled AND NOT delayed", ""))


def lone_commits_forget_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way of a lone commit leaves the old status among the latest revisions."""
    in_migration(monkeypatch, ("SET rev = head + 1, status = words[3],", "SET rev = head + 1,"))


def delays_outlive_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delays of a state that has moved on stay, and can only lose."""
    in_migration(monkeypatch, ("IF true = ANY (had_delays) THEN", "IF false THEN"))


def first_commit_leaves_older_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay that was stored before its state stays when the state is committed."""
    in_migration(monkeypatch, ("coalesce(latest.delayed, true)", "coalesce(latest.delayed, false)"))


def delays_of_refused_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is refused, and its delays are stored all the same."""
    in_migration(
        monkeypatch,
        ("WHERE NOT refused[(delay ->> 0)::integer]\n", "WHERE true\n"),
    )


def delays_in_a_transaction_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies in between has committed a state without its delay."""
    commit = PostgresDriver.commit

    async def committing(self: PostgresDriver, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await commit(self, [replace(writes, delays=()) for writes in batch])
        for writes, verdict in zip(batch, verdicts, strict=True):
            if writes.delays and isinstance(verdict, tuple):
                await commit(self, [_later(writes, verdict)])
        return verdicts

    monkeypatch.setattr(PostgresDriver, "commit", committing)


def _later(writes: Writes, states: tuple[State, ...]) -> Writes:
    delays = [
        delay if delay.put is None else replace(delay, state=states[delay.put], put=None)
        for delay in writes.delays
    ]
    return Writes(f"{writes.token} later", delays=tuple(delays))


def every_claim_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes execute the same delay."""
    granted = "(delay.due <= moment OR delay.holder = claim ->> 1)"
    in_migration(monkeypatch, (granted, "true"))


def old_heartbeats_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has lost a state keeps it from being recovered."""
    in_migration(
        monkeypatch,
        ("CASE WHEN latest.rev = asked.rev THEN", "CASE WHEN latest.rev >= asked.rev THEN"),
        ("latest.id = asked.id AND latest.rev = asked.rev", "latest.id = asked.id"),
    )


def compaction_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader goes on behind a hole as if there were none."""

    def silent(query: StateQuery, rows: Sequence[Row], **bounds: Any) -> States:
        return page_of(replace(query, gaps_below=None), rows, **bounds)

    monkeypatch.setattr(reader, "page_of", silent)


def compaction_takes_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that has not changed for long is gone."""
    in_migration(
        monkeypatch,
        (
            "AND latest.rev IS DISTINCT FROM log.rev",
            "AND true",
        ),
    )


def needs_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state refers to data that is no longer stored."""
    missing = "NOT EXISTS (SELECT FROM {schema}.data WHERE checksum = needed ->> 0)"
    in_migration(monkeypatch, (missing, "false"))


def drops_need_no_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has lost a claim removes the delay under its new holder."""
    in_migration(monkeypatch, ("AND coalesce(holder, '') = dropped ->> 1", "AND true"))


def puts_drop_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alarm of a state that has moved on never goes off."""
    in_migration(monkeypatch, (" AND old.rev <> -1;", ";"))


def forgotten_states_are_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that is forgotten is found all the same, and its id cannot begin again."""
    in_migration(monkeypatch, ("= -2 THEN -head ELSE", "= -2 THEN head ELSE"))


def forgotten_states_begin_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an id was before it began again is found by its revisions only."""
    in_migration(monkeypatch, ("counts[4 * put + 1] := -current[here];", "NULL;"))


def rows_of_forgotten_states_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store keeps a row for each state that there ever was."""
    in_migration(monkeypatch, ("AND rev BETWEEN -resume AND -1;", "AND false;"))


def ended_states_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of what waits in a flow has all that has ever ended there."""
    in_migration(
        monkeypatch, ("CASE WHEN micros = -1 AND status <> 'ended'", "CASE WHEN micros = -1")
    )


def data_of_delays_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay fires, and the data that it was stored with is gone."""
    kept = "AND NOT EXISTS (SELECT FROM {schema}.delay WHERE refs @> ARRAY[data.checksum])"
    in_migration(monkeypatch, (kept, ""))


def _bug(plant: Plant, *trials: Trial) -> Bug:
    name, doc = plant.__name__, plant.__doc__ or ""
    return Bug(f"postgres-{name}", doc, "postgres", trials, plant, "postgres")


def _case(*names: str) -> Trial:
    return Trial("conformance", names)


BUGS = (
    _bug(no_commit_lock, Trial("histories", seconds=90.0)),
    _bug(revisions_from_a_sequence, Trial("histories", seconds=90.0)),
    _bug(tokens_are_not_stored, Trial("tests", LOST_REPLIES)),
    _bug(refused_is_refused, Trial("tests", LOST_REPLIES)),
    _bug(unknown_is_failed, Trial("tests", LOST_REPLIES)),
    _bug(labels_are_not_removed, _case("defect_10_removed_label_stays_removed")),
    _bug(lone_commits_forget_labels, _case("superseded_delays_vanish")),
    _bug(lone_commits_forget_the_status, Trial("programs", seconds=90.0)),
    _bug(delays_outlive_their_revision, _case("superseded_delays_vanish")),
    _bug(first_commit_leaves_older_delays, Trial("programs", seconds=90.0)),
    _bug(delays_of_refused_commits, _case("refused_commit_leaves_no_delay")),
    _bug(delays_in_a_transaction_of_their_own, _case("first_of_several_delays_wins")),
    _bug(every_claim_wins, _case("claim_has_one_holder")),
    _bug(drops_need_no_holder, _case("drop_is_for_the_holder")),
    _bug(data_of_delays_is_not_kept, _case("compaction_leaves_data_of_delays")),
    _bug(puts_drop_timers, _case("puts_keep_timers")),
    _bug(forgotten_states_are_the_latest, _case("forgotten_state_has_no_latest_revision")),
    _bug(forgotten_states_begin_a_chain, _case("forgotten_id_begins_again")),
    _bug(
        rows_of_forgotten_states_stay,
        Trial("tests", ("tests/postgres/test_compaction.py",)),
    ),
    _bug(ended_states_are_idle, _case("idle_states")),
    _bug(old_heartbeats_count, _case("heartbeat_of_another_revision")),
    _bug(compaction_is_silent, _case("compacting_keeps_the_latest_revisions")),
    _bug(compaction_takes_the_latest, _case("compacting_keeps_the_latest_revisions")),
    _bug(needs_are_not_looked_at, _case("missing_data")),
)
