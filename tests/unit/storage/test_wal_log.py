"""The log without accidents: what is saved is there after opening again."""

from __future__ import annotations

from pathlib import Path

import pytest
from wal_cases import entry, fill, metadata, open_wal, placed, segments, state

from raft_service.storage.errors import DamagedLog, DataDirLocked, DiskFailed, ForeignData


def test_new_log_is_empty(tmp_path: Path) -> None:
    wal, recovered = open_wal(tmp_path)
    assert recovered.is_empty
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert recovered.is_empty
    wal.close()


def test_entries_and_hard_state_come_back(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    wal.save(hard_state=state(term=3, vote=2), must_sync=True)
    wal.save(
        hard_state=state(term=3, vote=2, commit=1),
        entries=[entry(1, term=3, data=b"a"), entry(2, term=3)],
        must_sync=True,
    )
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert recovered.hard_state == state(term=3, vote=2, commit=1)
    assert [(one.index, one.term, one.data) for one in recovered.entries] == [(1, 3, b"a"), (2, 3, b"data")]
    wal.close()


def test_entry_replaces_its_like_and_all_behind(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 5)
    wal.save(entries=[entry(3, term=2)], must_sync=True)
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert placed(recovered) == [(1, 1), (2, 1), (3, 2)]
    wal.close()


def test_replacing_reaches_back_over_segments(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 40)
    assert len(segments(tmp_path)) > 2
    wal.save(hard_state=state(term=2), entries=[entry(2, term=2)], must_sync=True)
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert placed(recovered) == [(1, 1), (2, 2)]
    fill(wal, 3, 40, term=2)
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert placed(recovered) == [(1, 1)] + [(index, 2) for index in range(2, 41)]
    wal.close()


def test_rotation_keeps_everything(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 100)
    assert wal.info().segments == len(segments(tmp_path)) > 5
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert [index for index, _ in placed(recovered)] == list(range(1, 101))
    assert recovered.hard_state == state(commit=99)
    fill(wal, 101, 110)
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert len(recovered.entries) == 110
    wal.close()


def test_hard_state_alone_survives_rotation(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    wal.save(hard_state=state(term=9, vote=3), must_sync=True)
    for index in range(1, 60):
        wal.save(entries=[entry(index)], must_sync=True)
    for index in (40, 50):
        wal.save_snapshot(metadata(index), b"")
    assert segments(tmp_path)[0].name.split("-")[0] != f"{1:016x}", "the segment that held the vote is gone"
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert recovered.hard_state == state(term=9, vote=3)
    wal.close()


def test_batch_larger_than_a_segment_fits(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    wal.save(entries=[entry(1, data=bytes(10_000)), entry(2)], must_sync=True)
    fill(wal, 3, 5)
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert len(recovered.entries) == 5
    assert recovered.entries[0].data == bytes(10_000)
    wal.close()


def test_segments_are_preallocated(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path, segment_bytes=1 << 20)
    status = segments(tmp_path)[0].stat()
    assert status.st_size == 1 << 20
    assert status.st_blocks * 512 >= 1 << 20
    wal.close()


def test_restart_begins_at_the_newest_snapshot(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 60)
    wal.save_snapshot(metadata(20), b"twenty")
    wal.save_snapshot(metadata(40), b"forty")
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert recovered.snapshot is not None
    assert recovered.snapshot.data == b"forty"
    assert recovered.snapshot.metadata == metadata(40)
    assert [index for index, _ in placed(recovered)] == list(range(41, 61))
    wal.close()


def test_snapshots_let_old_files_go(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    sizes = []
    for round_ in range(10):
        fill(wal, 50 * round_ + 1, 50 * round_ + 50)
        wal.save_snapshot(metadata(50 * round_ + 50), b"x")
        sizes.append(len(segments(tmp_path)))
    assert max(sizes[2:]) <= sizes[1] + 1, sizes
    assert len(list((tmp_path / "snapshots").iterdir())) == 2
    wal.close()


def test_snapshot_of_the_leader_replaces_the_log(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 5)
    wal.save_snapshot(metadata(100, term=7), b"hundred")
    wal.save(hard_state=state(term=7, commit=101), entries=[entry(101, term=7)], must_sync=True)
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert recovered.snapshot is not None
    assert recovered.snapshot.metadata.index == 100
    assert placed(recovered) == [(101, 7)]
    wal.close()


def test_unreadable_newest_snapshot_falls_back_to_the_one_before(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 60)
    wal.save_snapshot(metadata(20), b"twenty")
    wal.save_snapshot(metadata(40), b"forty")
    wal.close()
    newest = max((tmp_path / "snapshots").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    wal, recovered = open_wal(tmp_path)
    assert recovered.snapshot is not None
    assert recovered.snapshot.data == b"twenty"
    assert [index for index, _ in placed(recovered)] == list(range(21, 61))
    wal.close()


def test_unreadable_snapshot_without_a_log_before_it_is_refused(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 5)
    wal.save_snapshot(metadata(100), b"hundred")
    wal.close()
    next((tmp_path / "snapshots").iterdir()).write_bytes(b"SNAP")
    with pytest.raises(DamagedLog, match="cut short"):
        open_wal(tmp_path)


def test_snapshot_file_without_a_mark_is_no_snapshot(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 5)
    wal.write_snapshot_file(metadata(100), b"hundred")
    wal.close()
    wal, recovered = open_wal(tmp_path)
    assert recovered.snapshot is None
    assert len(recovered.entries) == 5
    assert list((tmp_path / "snapshots").iterdir()) == []
    wal.close()


def test_second_process_is_refused(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    with pytest.raises(DataDirLocked, match="in use by process"):
        open_wal(tmp_path)
    wal.close()
    open_wal(tmp_path)[0].close()


@pytest.mark.parametrize("other", [{"node_id": 2}, {"cluster_id": "other"}])
def test_directory_of_another_node_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    open_wal(tmp_path)[0].close()
    with pytest.raises(ForeignData, match="correct RAFT_DATA_DIR"):
        open_wal(tmp_path, **other)
    open_wal(tmp_path)[0].close()  # and the lock is free again


def test_missing_segment_is_refused(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 60)
    wal.close()
    segments(tmp_path)[1].unlink()
    with pytest.raises(DamagedLog, match="missing"):
        open_wal(tmp_path)


def test_log_that_vanished_beside_its_snapshots_is_refused(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 5)
    wal.save_snapshot(metadata(5), b"")
    wal.close()
    for path in segments(tmp_path):
        path.unlink()
    with pytest.raises(DamagedLog, match="forgot its votes"):
        open_wal(tmp_path)


def test_closed_log_takes_nothing(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    wal.close()
    with pytest.raises(DiskFailed):
        wal.save(entries=[entry(1)], must_sync=True)
