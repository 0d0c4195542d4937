"""Short ways to make and read logs in tests."""

from __future__ import annotations

from pathlib import Path

from orchestrator_proto import raft_pb2
from raft_service.storage.disk import Disk
from raft_service.storage.replay import Recovered
from raft_service.storage.wal import EncodedEntry, Wal

SMALL_SEGMENT = 1024


def open_wal(
    directory: Path,
    *,
    disk: Disk | None = None,
    node_id: int = 1,
    cluster_id: str = "c",
    segment_bytes: int = SMALL_SEGMENT,
) -> tuple[Wal, Recovered]:
    """Opens a log with small segments."""
    return Wal.open(directory, cluster_id=cluster_id, node_id=node_id, disk=disk, segment_bytes=segment_bytes)


def entry(index: int, *, term: int = 1, data: bytes = b"data") -> EncodedEntry:
    """An entry as the driver would encode it."""
    wire = raft_pb2.Entry(index=index, term=term, data=data)
    return EncodedEntry(index=index, term=term, data=wire.SerializeToString())


def state(*, term: int = 1, vote: int = 0, commit: int = 0) -> raft_pb2.HardState:
    """A hard state."""
    return raft_pb2.HardState(term=term, vote=vote, commit=commit)


def metadata(index: int, *, term: int = 1) -> raft_pb2.SnapshotMetadata:
    """What a snapshot covers."""
    return raft_pb2.SnapshotMetadata(index=index, term=term, conf_state=raft_pb2.ConfState(voters=[1, 2, 3]))


def fill(wal: Wal, first: int, last: int, *, term: int = 1) -> None:
    """Appends entries one by one, each synced."""
    for index in range(first, last + 1):
        wal.save(hard_state=state(term=term, commit=index - 1), entries=[entry(index, term=term)], must_sync=True)


def placed(recovered: Recovered) -> list[tuple[int, int]]:
    """(index, term) of the recovered entries."""
    return [(one.index, one.term) for one in recovered.entries]


def segments(directory: Path) -> list[Path]:
    """The segment files, oldest first."""
    return sorted((directory / "wal").glob("*.wal"))
