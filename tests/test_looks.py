"""When a leader looks for stalled states, and from when on."""

from datetime import UTC, datetime, timedelta

from flowstate.recovery.looks import FULL_LOOK_EVERY, OVERLAP, Looks

BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGINNING + timedelta(seconds=seconds)


def look(looks: Looks, now: float, *, is_done: bool = True) -> datetime | None:
    since = looks.since(now)
    looks.done(now, now, at(now), is_done=is_done)
    return since


def test_looks_at_everything_first_and_every_minute() -> None:
    looks = Looks(1.0, 0.0)
    assert look(looks, 0.0) is None
    assert look(looks, 30.0) == at(0.0) - OVERLAP
    assert looks.pause(30.0) == FULL_LOOK_EVERY - 30.0
    assert look(looks, 60.0) == at(30.0) - OVERLAP
    assert look(looks, 61.0) is None
    assert look(looks, 62.0) == at(61.0) - OVERLAP


def test_what_was_refused_is_looked_at_again_later_and_later_however_often_others_are() -> None:
    looks = Looks(1.0, 0.0)
    look(looks, 0.0)
    look(looks, 20.0, is_done=False)
    assert looks.pause(20.0) == 1.0
    assert look(looks, 20.5) == at(20.0) - OVERLAP  # Others have committed.
    assert look(looks, 21.0, is_done=False) == at(0.0) - OVERLAP
    assert looks.pause(21.0) == 2.0
    assert look(looks, 22.0, is_done=False) == at(21.0) - OVERLAP  # That is looked at anew, too.
    assert looks.pause(22.0) == 1.0
    assert look(looks, 23.0) == at(0.0) - OVERLAP
    assert looks.pause(23.0) == FULL_LOOK_EVERY - 23.0
    look(looks, 24.0, is_done=False)
    assert looks.pause(24.0) == 1.0  # It begins anew.


def test_the_pause_between_looks_in_vain_is_bounded() -> None:
    looks, now = Looks(1.0, 0.0), 0.0
    for _ in range(20):
        look(looks, now, is_done=False)
        now += 100.0
    assert looks.pause(now - 100.0) <= FULL_LOOK_EVERY
