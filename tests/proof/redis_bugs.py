"""Bugs to plant in the Redis driver."""

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from flowstate.driver import StateQuery, States, Verdict, Writes
from flowstate.drivers.redis import reader, session
from flowstate.drivers.redis.session import Session
from flowstate.errors import StoreUnavailableError
from tests.proof.bug import CASE_LIMIT, Bug, Plant, Trial
from tests.proof.fragments import in_lua

__all__ = ["BUGS"]

LOST_REPLIES = ("tests/redis/test_lost_replies.py",)


def revisions_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one to write wins."""
    in_lua(monkeypatch, "commit", ("if latest(item[1]).current ~= item[2] then", "if false then"))


def batches_are_judged_by_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two commits of one batch go on from the same revision."""
    in_lua(monkeypatch, "commit", ("if latest(item[1]).current ~=", "if latest(item[1]).rev ~="))


def tokens_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that is sent again is refused, although it has happened."""
    in_lua(monkeypatch, "commit", ("'t', commit[1],", "'t', '',"))


def refused_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose reply was lost is tried again, meets itself, and is called refused."""

    async def with_replays(
        self: Session, commits: Sequence[Writes], verdicts: list[Verdict], perhaps_written: bool
    ) -> list[Verdict]:
        return verdicts

    monkeypatch.setattr(Session, "_with_replays", with_replays)


def unknown_is_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit of which nobody can tell is said not to have happened."""

    def failed(_token: str) -> StoreUnavailableError:
        return StoreUnavailableError("the connection is lost")

    monkeypatch.setattr(session, "CommitUnknownError", failed)


def labels_are_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is found among the latest by labels that it had before."""
    in_lua(monkeypatch, "commit", ("redis.call('ZREM', key(name), id)", "-- left"))


def statuses_are_not_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is found among the latest by a status that it had before."""
    removal = "redis.call('ZREM', key('latest_status:' .. state.status), id)"
    in_lua(monkeypatch, "commit", (removal, "-- left"))


def delays_outlive_their_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delays of a state that has moved on stay, and can only lose."""
    in_lua(monkeypatch, "commit", ("        drop_delays(id, state)\n", ""))


def no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delayers do not notice the delays that other processes store."""
    in_lua(monkeypatch, "commit", ("            alarm = true\n", ""))


def every_claim_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes execute the same delay."""
    in_lua(monkeypatch, "claim", ("if due ~= ARGV[2] then", "if false then"))


def old_heartbeats_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has lost a state keeps it from being recovered."""
    in_lua(monkeypatch, "beat", ("latest_of(latest[place]).rev == rev", "true"))


def heartbeats_make_states_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paused state that somebody sends heartbeats for is recovered."""
    in_lua(
        monkeypatch,
        "beat",
        ("call_with('ZADD', 'stalls', stalls, 'XX')", "call_with('ZADD', 'stalls', stalls)"),
    )


def needs_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state refers to data that is no longer stored."""
    in_lua(monkeypatch, "commit", ("redis.call('EXISTS', key('data:' .. sum)) == 0", "false"))


def referred_data_is_an_orphan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction takes data that states refer to."""
    in_lua(monkeypatch, "commit", ("redis.call('ZREM', key('orphans'), sum)", "-- left"))


def compaction_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader goes on behind a hole as if there were none."""
    original = reader.page_of

    def page_of(query: StateQuery, answer: bytes) -> States:
        return original(replace(query, gaps_below=None), answer)

    monkeypatch.setattr(reader, "page_of", page_of)


def _bug(plant: Plant, *trials: Trial) -> Bug:
    name, doc = plant.__name__, plant.__doc__ or ""
    return Bug(f"redis-{name}", doc, "redis", trials, plant, "redis")


def _case(*names: str, limit: float = CASE_LIMIT) -> Trial:
    return Trial("conformance", names, limit=limit)


BUGS = (
    _bug(revisions_are_not_compared, _case("increments_are_never_lost")),
    _bug(batches_are_judged_by_the_store, _case("batch_is_judged_in_order")),
    _bug(tokens_are_not_stored, _case("token_is_applied_once")),
    _bug(refused_is_refused, _case("token_is_applied_once")),
    _bug(unknown_is_failed, Trial("tests", LOST_REPLIES)),
    _bug(labels_are_not_removed, _case("defect_10_removed_label_stays_removed")),
    _bug(statuses_are_not_removed, Trial("programs", seconds=90.0)),
    _bug(delays_outlive_their_revision, _case("superseded_delays_vanish")),
    _bug(no_alarm, _case("delay_of_another_process_is_noticed", limit=5.0)),
    _bug(every_claim_wins, _case("delay_is_claimed_once")),
    _bug(old_heartbeats_count, _case("heartbeat_of_another_revision")),
    _bug(heartbeats_make_states_stall, _case("heartbeat_for_what_never_stalls")),
    _bug(needs_are_not_looked_at, _case("missing_data")),
    _bug(
        referred_data_is_an_orphan,
        _case("compaction_leaves_data_that_was_stored_before_its_state"),
    ),
    _bug(compaction_is_silent, _case("compacting_keeps_the_latest_revisions")),
)
