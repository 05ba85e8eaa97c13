"""Bugs to plant in the SQLite driver."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate.driver import Heartbeat, StateQuery, States, Verdict, Writes
from flowstate.drivers.kit.records import TIMER_REV
from flowstate.drivers.kit.times import FIRST, from_micros
from flowstate.drivers.sqlite import compaction, delays, liveness, reader, rows, writer
from flowstate.drivers.sqlite.delays import Delays
from flowstate.drivers.sqlite.file import File
from flowstate.drivers.sqlite.lock import WriterLock
from flowstate.drivers.sqlite.session import FileSession
from flowstate.drivers.sqlite.writer import Batch
from flowstate.state import State
from tests.proof.bug import CASE_LIMIT, Bug, Plant, Trial
from tests.proof.fragments import replaced

__all__ = ["BUGS"]

FAILING_COMMITS = ("tests/sqlite/test_unknown.py",)


class _Deferred(sqlite3.Connection):
    """Takes SQLite's lock with the first write instead of before the first read."""

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        begins = statement == "BEGIN IMMEDIATE"
        return super().execute("BEGIN" if begins else statement, parameters)


def no_lock_between_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes judge their commits by what others are about to change."""
    monkeypatch.setattr(WriterLock, "__enter__", lambda _: None)
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=_Deferred))


def half_a_commit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a commit had written when it failed stays in the store."""

    def keep(self: File) -> None:
        if self._writer.in_transaction:
            self._writer.execute("COMMIT")

    monkeypatch.setattr(File, "_roll_back", keep)


def latest_after_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies in between leaves a revision that is in the log alone."""
    insert = rows.insert

    def inserting(connection: sqlite3.Connection, table: str, *rest: Any) -> None:
        insert(connection, table, *rest)
        if table == "log":
            connection.execute("COMMIT")
            connection.execute("BEGIN IMMEDIATE")

    monkeypatch.setattr(writer, "insert", inserting)


def last_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits do not look whether they find the revision that they expect."""
    judge = Batch.judge

    def judging(self: Batch, writes: Writes) -> Verdict:
        puts = tuple(replace(put, rev=self._rev(put.id)) for put in writes.puts)
        return judge(self, replace(writes, puts=puts))

    monkeypatch.setattr(Batch, "judge", judging)


def labels_are_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is found among the latest by labels that it had before."""
    flush = Batch._flush_labels

    def flushing(self: Batch) -> None:
        self._stored = {}
        flush(self)

    monkeypatch.setattr(Batch, "_flush_labels", flushing)


def delays_outlive_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delays of a state that has moved on stay, and can only lose."""
    _after_init(monkeypatch, lambda batch: setattr(batch, "_delays", None))


def puts_drop_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The alarm of a state is gone once the state has moved on."""
    every = replaced(delays.DROP_ALL, f" AND rev <> {TIMER_REV}", "")
    monkeypatch.setattr(delays, "DROP_ALL", every)


def forgotten_states_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that was forgotten is still there, and its id cannot begin again."""
    monkeypatch.setattr(Batch, "_forget", lambda _self, _state: None)


def idle_states_have_no_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused state is not found in the flow that it is paused in."""
    due_in = writer._due_in

    def anywhere(state: State, start: int) -> tuple[int | None, str]:
        due, flow = due_in(state, start)
        return due, "" if due == FIRST else flow

    monkeypatch.setattr(writer, "_due_in", anywhere)


def time_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Revisions are stamped with what the clock says, also when it was put back."""

    def believe_the_clock(batch: Batch) -> None:
        batch._stamp, batch._committed_at = batch._now, from_micros(batch._now)

    _after_init(monkeypatch, believe_the_clock)


def deadlines_count_from_the_stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the clock was put back, what a crash leaves is recovered as much later."""
    _after_init(monkeypatch, lambda batch: setattr(batch, "_now", batch._stamp))


def data_of_delays_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay fires, and the data that it was stored with is gone."""
    insert = rows.insert

    def inserting(connection: sqlite3.Connection, table: str, *rest: Any) -> None:
        if table != "delay_reference":
            insert(connection, table, *rest)

    monkeypatch.setattr(delays, "insert", inserting)


def drops_need_no_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has lost a claim removes the delay under its new holder."""
    monkeypatch.setattr(delays, "DROP", "DELETE FROM delay WHERE id = ? AND ? NOTNULL")


def _after_init(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    original = Batch.__init__

    def init(self: Batch, *args: Any) -> None:
        original(self, *args)
        change(self)

    monkeypatch.setattr(Batch, "__init__", init)


def a_failed_commit_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that became durable before its COMMIT failed is said not to have happened."""
    monkeypatch.setattr(Batch, "is_stored", lambda _self, _connection: False)


def a_failed_commit_is_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit is acknowledged although its COMMIT has failed."""
    monkeypatch.setattr(Batch, "is_stored", lambda _self, _connection: True)


def deaf_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watches and delayers do not notice what other processes commit."""
    monkeypatch.setattr(FileSession, "poll", lambda _self, _interval, _news: None)


def every_claim_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes execute the same delay."""
    monkeypatch.setattr(Delays, "may_claim", lambda _self, _claim: True)


def old_heartbeats_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has lost a state keeps it from being recovered."""
    beat = liveness.beat

    def beating(
        connection: sqlite3.Connection, heartbeats: Sequence[Heartbeat], now: datetime
    ) -> list[bool]:
        revs = dict(connection.execute("SELECT id, rev FROM latest").fetchall())
        return beat(
            connection, [replace(each, rev=revs.get(each.id, 0)) for each in heartbeats], now
        )

    monkeypatch.setattr(liveness, "beat", beating)


def compaction_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader goes on behind a hole as if there were none."""
    original = reader.get_states

    def get_states(connection: sqlite3.Connection, query: StateQuery) -> States:
        return original(connection, replace(query, gaps_below=None))

    monkeypatch.setattr(reader, "get_states", get_states)


def compaction_takes_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that has not changed for long is gone."""
    doomed = replaced(compaction._DOOMED, "latest.rev = log.rev", "latest.rev < log.rev")
    monkeypatch.setattr(compaction, "_DOOMED", doomed)


def _bug(plant: Plant, *trials: Trial) -> Bug:
    name, doc = plant.__name__, plant.__doc__ or ""
    return Bug(f"sqlite-{name}", doc, "sqlite", trials, plant, "sqlite")


def _case(*names: str, limit: float = CASE_LIMIT) -> Trial:
    return Trial("conformance", names, limit=limit)


BUGS = (
    _bug(no_lock_between_processes, Trial("histories")),
    _bug(half_a_commit_is_kept, Trial("tests", FAILING_COMMITS)),
    _bug(latest_after_the_log, Trial("histories")),
    _bug(last_one_wins, _case("increments_are_never_lost")),
    _bug(labels_are_not_removed, _case("defect_10_removed_label_stays_removed")),
    _bug(delays_outlive_their_revision, _case("superseded_delays_vanish")),
    _bug(puts_drop_timers, _case("puts_keep_timers")),
    _bug(forgotten_states_stay, _case("forgotten_state_has_no_latest_revision")),
    _bug(idle_states_have_no_flow, _case("idle_states_of_some_flows")),
    _bug(time_goes_back, _case("time_never_goes_back")),
    _bug(a_failed_commit_is_a_failure, Trial("tests", FAILING_COMMITS)),
    _bug(a_failed_commit_is_a_success, Trial("tests", FAILING_COMMITS)),
    _bug(deaf_to_others, _case("commits_of_others_are_seen_soon", limit=3.0)),
    _bug(deadlines_count_from_the_stamp, _case("deadline_after_the_clock_went_back")),
    _bug(data_of_delays_is_not_kept, _case("compaction_leaves_data_of_delays")),
    _bug(every_claim_wins, _case("claim_has_one_holder")),
    _bug(drops_need_no_holder, _case("drop_is_for_the_holder")),
    _bug(old_heartbeats_count, _case("heartbeat_of_another_revision")),
    _bug(compaction_is_silent, _case("compacting_keeps_the_latest_revisions")),
    _bug(compaction_takes_the_latest, _case("compacting_keeps_the_latest_revisions")),
)
