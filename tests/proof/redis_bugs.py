"""Bugs to plant in the Redis driver."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate.driver import StateQuery, States, Writes
from flowstate.drivers.kit import resolving
from flowstate.drivers.kit.records import Row, page_of
from flowstate.drivers.redis import reader
from flowstate.drivers.redis.commits import CommitResolver
from flowstate.errors import StoreUnavailableError
from tests.proof.bug import CASE_LIMIT, Bug, Plant, Trial
from tests.proof.fragments import in_lua

__all__ = ["BUGS"]

LOST_REPLIES = ("tests/redis/test_lost_replies.py",)


def revisions_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one to write wins."""
    in_lua(monkeypatch, "commit", ("if latest(id).current ~= expected then", "if false then"))


def batches_are_judged_by_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commits of one batch go on from the same revision."""
    in_lua(monkeypatch, "commit", ("if latest(id).current ~=", "if latest(id).rev ~="))


def tokens_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that is sent again is refused, although it has happened."""
    in_lua(monkeypatch, "commit", ("'t', token,", "'t', '',"))


def refused_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose reply was lost is tried again, meets itself, and is called refused."""

    async def find_replays(self: CommitResolver, commits: Sequence[Writes]) -> list[None]:
        return [None] * len(commits)

    monkeypatch.setattr(CommitResolver, "find_replays", find_replays)


def unknown_is_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose outcome cannot be found out is said not to have happened."""

    def failed(_token: str) -> StoreUnavailableError:
        return StoreUnavailableError("the connection is lost")

    monkeypatch.setattr(resolving, "CommitUnknownError", failed)


def labels_are_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is found among the latest by labels that it had before."""
    in_lua(monkeypatch, "commit", ("    if state.labelled then", "    if false then"))


def statuses_are_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is found among the latest by a status that it had before."""
    removal = "collect(removals, 'ZREM', 'latest_status:' .. state.status, id)"
    in_lua(monkeypatch, "commit", (removal, "-- left"))


def delays_outlive_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delays of a state that has moved on stay, and can only lose."""
    in_lua(monkeypatch, "commit", ("delays.leave_all(id, own)", "-- left"))


def no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delayers do not notice the delays that other processes store."""
    in_lua(monkeypatch, "commit", ("is_news or delay.body or", "false and"))


def every_claim_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes execute the same delay."""
    refusal = "if not delay or delay.due > later(0, 0) and delay.holder ~= claim[2] then"
    in_lua(monkeypatch, "commit", (refusal, "if not delay then"))


def drops_need_no_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has lost a claim removes the delay under its new holder."""
    in_lua(monkeypatch, "commit", ("if delay and delay.holder == holder then", "if delay then"))


def data_of_delays_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay fires, and the data that it was stored with is gone."""
    in_lua(monkeypatch, "commit", ("refer(delay.references, 1)", "-- left"))


def old_heartbeats_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has lost a state keeps it from being recovered."""
    in_lua(monkeypatch, "beat", ("rev > 0 and state.rev == rev", "true"))


def heartbeats_make_states_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused state that an engine sends heartbeats for is recovered."""
    in_lua(
        monkeypatch,
        "beat",
        ("if micros and state.kind == 'stall' then", "if micros then"),
        ("state.labelled, state.after,", "state.labelled, state.after or '1',"),
    )


def needs_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state refers to data that is no longer stored."""
    in_lua(monkeypatch, "commit", ("redis.call('EXISTS', prefix .. 'data:' .. sum) == 0", "false"))


def referred_data_is_an_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction takes data that states refer to."""
    in_lua(monkeypatch, "commit", ("redis.call('ZREM', orphans, sum)", "-- left"))


def timers_go_with_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A put removes the timers of its state, as if they were delays."""
    in_lua(monkeypatch, "commit", ("delay.rev == -1 and 'timers_of:' or", "false or"))


def timers_keep_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer that is set again is also due when it was due before."""
    in_lua(monkeypatch, "commit", ("new.was = old and old.was or", "new.was ="))


def what_moves_on_stays_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is found among the idle ones of a flow that it has left."""
    in_lua(monkeypatch, "commit", ("if old.kind then", "if old.kind == 'stall' then"))


def forgotten_states_keep_their_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten state is found among the latest, and counted."""
    in_lua(monkeypatch, "commit", ("(is_forgotten or state.status ~= status)", "false"))


def forgotten_states_keep_their_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every state that was forgotten something stays for ever."""
    in_lua(monkeypatch, "compact", ("if state.last == entry.rev then", "if false then"))


def what_begins_again_begins_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of one state ends where it was forgotten before."""
    in_lua(monkeypatch, "commit", ("state.last or state.current", "state.current"))


def what_begins_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that begins a forgotten state again, and whose reply is lost, is called refused."""
    in_lua(monkeypatch, "traces", ("previous == expected or expected == 0", "previous == expected"))


def counts_count_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that answers two of several label filters counts twice."""
    in_lua(monkeypatch, "count", ("seen[each[2]] and left or left - 1", "left"))


def compaction_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader goes on behind a hole as if there were none."""

    def silent(query: StateQuery, rows: Sequence[Row], **bounds: Any) -> States:
        return page_of(replace(query, gaps_below=None), rows, **bounds)

    monkeypatch.setattr(reader, "page_of", silent)


def _bug(plant: Plant, *trials: Trial) -> Bug:
    name, doc = plant.__name__, plant.__doc__ or ""
    return Bug(f"redis-{name}", doc, "redis", trials, plant, "redis")


def _case(*names: str, limit: float = CASE_LIMIT) -> Trial:
    return Trial("conformance", names, limit=limit)


BUGS = (
    _bug(revisions_are_not_compared, _case("increments_are_never_lost")),
    _bug(batches_are_judged_by_the_store, _case("batch_is_judged_in_order")),
    _bug(tokens_are_not_stored, Trial("tests", LOST_REPLIES)),
    _bug(refused_is_refused, Trial("tests", LOST_REPLIES)),
    _bug(unknown_is_failed, Trial("tests", LOST_REPLIES)),
    _bug(labels_are_not_removed, _case("defect_10_removed_label_stays_removed")),
    _bug(statuses_are_not_removed, Trial("programs", seconds=90.0)),
    _bug(delays_outlive_their_revision, _case("superseded_delays_vanish")),
    _bug(no_alarm, _case("delay_of_another_process_is_noticed", limit=5.0)),
    _bug(every_claim_wins, _case("claim_has_one_holder")),
    _bug(drops_need_no_holder, _case("drop_is_for_the_holder")),
    _bug(data_of_delays_is_not_kept, _case("compaction_leaves_data_of_delays")),
    _bug(old_heartbeats_count, _case("heartbeat_of_another_revision")),
    _bug(heartbeats_make_states_stall, _case("heartbeat_for_what_never_stalls")),
    _bug(needs_are_not_looked_at, _case("missing_data")),
    _bug(
        referred_data_is_an_orphan,
        _case("compaction_leaves_data_that_was_stored_before_its_state"),
    ),
    _bug(timers_go_with_their_revision, _case("puts_keep_timers")),
    _bug(timers_keep_their_place, _case("timer_takes_the_place_of_another")),
    _bug(what_moves_on_stays_idle, _case("idle_states_that_move_on")),
    _bug(forgotten_states_keep_their_status, _case("forgotten_state_has_no_latest_revision")),
    _bug(forgotten_states_keep_their_row, Trial("tests", ("tests/redis/test_forgetting.py",))),
    _bug(what_begins_again_begins_a_chain, _case("forgotten_id_begins_again")),
    _bug(what_begins_again_is_refused, Trial("tests", LOST_REPLIES)),
    _bug(counts_count_twice, _case("counts_of_states")),
    _bug(compaction_is_silent, _case("compacting_keeps_the_latest_revisions")),
)
