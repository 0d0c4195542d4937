"""Fail every single call to the disk, one run each, then lose power: what was acknowledged must be there."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faulty_disk import FaultyDisk

from orchestrator_proto import raft_pb2
from raft_service.storage.disk import Disk
from raft_service.storage.errors import DiskFailed, DiskFull
from raft_service.storage.wal import EncodedEntry, Wal


def open_wal(directory: Path, disk: Disk) -> tuple[Wal, dict[int, int], int, int]:
    """Opens a log; returns it with {index: term} of all it knows, its snapshot's index and its stored term."""
    wal, recovered = Wal.open(directory, cluster_id="c", node_id=1, disk=disk, segment_bytes=1024)
    known = {one.index: one.term for one in recovered.entries}
    floor = recovered.snapshot.metadata.index if recovered.snapshot else 0
    return wal, known, floor, recovered.hard_state.term if recovered.hard_state else 0


@dataclass
class Told:
    """What a caller was told is stored."""

    entries: dict[int, int] = field(default_factory=dict)
    snapshot: int = 0
    term: int = 0
    # Written or attempted, and not acknowledged: may be there or not, and may have replaced acknowledged entries.
    attempted: dict[int, int] = field(default_factory=dict)


def script(wal: Wal, told: Told) -> None:
    """Two terms with replaced entries, rotation, snapshots; `told` learns each thing only after the call returned."""
    for index in range(1, 31):
        _save(wal, told, index, term=1)
    wal.save_snapshot(raft_pb2.SnapshotMetadata(index=10, term=1), b"ten")
    told.snapshot = 10
    for index in range(25, 45):
        _save(wal, told, index, term=2)
    wal.save_snapshot(raft_pb2.SnapshotMetadata(index=40, term=2), b"forty")
    told.snapshot = 40
    for index in range(45, 60):
        _save(wal, told, index, term=2)


def _save(wal: Wal, told: Told, index: int, *, term: int) -> None:
    wire = raft_pb2.Entry(index=index, term=term, data=bytes([index]) * index)
    entry = EncodedEntry(index, term, wire.SerializeToString())
    told.attempted = {index: term}
    wal.save(hard_state=raft_pb2.HardState(term=term, commit=index - 1), entries=[entry], must_sync=True)
    told.entries = {old: told.entries[old] for old in told.entries if old < index} | {index: term}
    told.term = term


def check(told: Told, known: dict[int, int], floor: int, term: int) -> None:
    """Nothing acknowledged is missing, nothing is there that nobody wrote."""
    assert floor >= told.snapshot
    assert term >= told.term
    for index, entry_term in told.entries.items():
        if index > floor and not any(index >= start for start in told.attempted):
            assert known.get(index) == entry_term, f"entry {index} was acknowledged"
    for index, entry_term in known.items():
        assert entry_term in (told.entries.get(index), told.attempted.get(index))


def run_until_failure(directory: Path, disk: FaultyDisk) -> Told:
    told = Told()
    wal = None
    try:
        wal = open_wal(directory, disk)[0]
        script(wal, told)
    except (DiskFailed, DiskFull):
        pass  # the injected one; what matters is what was told before
    if wal is not None:
        wal.close()
    return told


def calls_of_script(directory: Path) -> int:
    disk = FaultyDisk()
    told = run_until_failure(directory, disk)
    assert max(told.entries) == 59
    return disk.calls


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_every_call_may_fail(tmp_path: Path, error: int) -> None:
    total = calls_of_script(tmp_path / "whole")
    assert total > 150
    for number in range(total):
        directory = tmp_path / str(number)
        disk = FaultyDisk(fail_at=number, error=error)
        told = run_until_failure(directory, disk)
        disk.crash(random.Random(number))
        try:
            wal, known, floor, term = open_wal(directory, Disk())
            check(told, known, floor, term)
        except BaseException:
            print(f"failed call number {number} with errno {error}")
            raise
        wal.save(entries=[], must_sync=True)
        wal.close()


def test_power_may_go_at_any_time(tmp_path: Path) -> None:
    for seed in range(60):
        rng = random.Random(seed)
        directory = tmp_path / str(seed)
        disk = FaultyDisk()
        told = Told()
        wal = open_wal(directory, disk)[0]
        script(wal, told)
        for index in range(60, 60 + rng.randrange(1, 8)):
            wire = raft_pb2.Entry(index=index, term=3, data=rng.randbytes(rng.randrange(1200)))
            wal.save(entries=[EncodedEntry(index, 3, wire.SerializeToString())], must_sync=False)
            told.attempted[index] = 3
        wal.close()
        disk.crash(rng)
        wal, known, floor, term = open_wal(directory, Disk())
        check(told, known, floor, term)
        wal.close()


def test_nothing_is_written_after_a_failed_sync(tmp_path: Path) -> None:
    disk = FaultyDisk(only="sync_data", fail_at=3)
    wal = open_wal(tmp_path, disk)[0]
    told = Told()
    with pytest.raises(DiskFailed, match="the node stops"):
        script(wal, told)
    disk.heal()
    with pytest.raises(DiskFailed, match="the node stops"):
        wal.save(entries=[], must_sync=True)
    assert max(told.entries) == 3


def test_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    disk = FaultyDisk(only="allocate", fail_at=2, error=errno.ENOSPC)
    wal = open_wal(tmp_path, disk)[0]
    told = Told()
    with pytest.raises(DiskFull, match="Free some space"):
        script(wal, told)
    stuck = max(told.entries) + 1
    assert not (tmp_path / "wal" / "next.tmp").exists()
    for index in range(stuck, stuck + 30):  # space is back: the same log goes on
        _save(wal, told, index, term=2)
    wal.close()
    wal, known, floor, term = open_wal(tmp_path, Disk())
    told.attempted = {}
    check(told, known, floor, term)
    assert len(known) == stuck + 29
    wal.close()
