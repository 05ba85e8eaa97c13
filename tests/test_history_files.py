"""Files of histories: of several processes, torn by a crash or a full disk, and of another kind."""

import os
from pathlib import Path

import pytest

from flowstate.testing.histories.checker import check
from flowstate.testing.histories.files import HistoryFile, read_history
from tests.planted_histories import good, one_commit
from tests.simulated_histories import simulate


def test_files_of_several_processes_are_one_history(tmp_path: Path) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    with HistoryFile(paths[0]) as one, HistoryFile(paths[1]) as two:
        for record in good():
            (one if getattr(record, "op", 0) % 2 else two).append(record)

    history = read_history(paths)

    assert history.torn == 0
    assert len(history.log) == 6
    assert check(history) == []


def test_a_record_that_a_full_disk_has_torn_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, text: write(file, text[:10]))
    with HistoryFile(tmp_path / "history") as file, pytest.raises(OSError, match="torn"):
        file.append(simulate(1, 1)[0])


def test_torn_lines_are_records_that_were_never_written(tmp_path: Path) -> None:
    path = tmp_path / "history"
    records = one_commit(200, happened=True)
    with HistoryFile(path) as file:
        for record in records[:2]:
            file.append(record)
    whole = path.read_bytes()
    start = whole.index(b"\n", 1)
    for length in range(start + 2, len(whole)):
        path.write_bytes(whole[:length])
        with HistoryFile(path) as file:  # Another process goes on with the same file.
            file.append(records[2])

        history = read_history([path])

        assert history.torn == 1
        assert history.attempts[0].outcome is None
        assert check(history) == []


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text('\n["something", 1]')

    with pytest.raises(ValueError, match="something"):
        read_history([path])
