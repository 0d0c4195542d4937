"""The write-ahead log: what a node has promised, in the order in which it promised it.

Hard state (term, vote, commit) and entries share one ordered log, for a vote must never become durable before the
entries that were written ahead of it. `save` takes a whole batch, writes it with one call and, when asked, makes it
durable with one fdatasync: all proposals that waited meanwhile share it.

    DIRECTORY/LOCK        one process at a time
    DIRECTORY/wal/        segments, preallocated, oldest removed behind the second newest snapshot
    DIRECTORY/snapshots/  see snapshot_files.py

Duties of the caller: one thread at a time; nothing is acknowledged before the `save` that covers it returned;
`DiskFailed` ends the process. After a failed fsync the kernel may have dropped the pages, so a second fsync that
succeeds says nothing. `DiskFull` is different: it comes from reserving a new segment, before anything was written.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator_proto import raft_pb2
from raft_service.storage import record
from raft_service.storage.disk import Disk
from raft_service.storage.errors import REJOIN, DamagedLog, DiskFailed, StorageError
from raft_service.storage.lock import DirectoryLock
from raft_service.storage.record import RecordType
from raft_service.storage.replay import Recovered, Replay, encode_mark
from raft_service.storage.segment import (
    TEMPORARY_NAME,
    Segment,
    SegmentHeader,
    SegmentName,
    list_segments,
)
from raft_service.storage.snapshot_files import SNAPSHOTS_KEPT, Mark, SnapshotFiles

log = logging.getLogger(__name__)

# Some 100,000 small entries: a snapshot comes first, so a node keeps two or three. Small enough for a laptop's disk.
SEGMENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class EncodedEntry:
    """An entry as it goes to disk and to the peers: `data` is the serialized raft_pb2.Entry."""

    index: int
    term: int
    data: bytes


@dataclass(frozen=True, slots=True)
class WalInfo:
    """For status and metrics.

    Attributes:
        last_sync_s: how long the last fdatasync took.
        syncs: how many there were since the start.
    """

    segments: int
    bytes_used: int
    last_index: int
    syncs: int
    last_sync_s: float


class Wal:
    """The open log of one node. Made by `open`."""

    def __init__(self, directory: Path, disk: Disk, lock: DirectoryLock, replay: Replay, *, segment_bytes: int) -> None:
        self.snapshots = SnapshotFiles(directory / "snapshots", disk=disk)
        self._directory = directory / "wal"
        self._disk = disk
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._identity = (replay.cluster_id, replay.node_id)
        self._marks: tuple[Mark, ...] = tuple(replay.marks)
        self._hard_state = replay.hard_state.SerializeToString() if replay.hard_state is not None else None
        self._last_index = replay.last_index
        self._names: list[SegmentName] = []
        self._current: Segment | None = None
        self._failed: str = ""
        self._syncs = 0
        self._last_sync_s = 0.0

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        cluster_id: str,
        node_id: int,
        disk: Disk | None = None,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> tuple[Wal, Recovered]:
        """Opens or creates the log of a node, and reads back what it holds.

        Raises:
            DataDirLocked, ForeignData, DamagedLog, DiskFull, DiskFailed: each says what to do.
        """
        disk = disk or Disk()
        try:
            for path in (directory, directory / "wal", directory / "snapshots"):
                path.mkdir(parents=True, exist_ok=True)
            disk.sync_directory(directory)
            lock = DirectoryLock(directory)
        except OSError as error:
            raise DiskFailed(f"Data directory {directory} cannot be used: {error}; correct RAFT_DATA_DIR.") from error
        try:
            replay = Replay(cluster_id=cluster_id, node_id=node_id)
            wal = cls(directory, disk, lock, replay, segment_bytes=segment_bytes)
            return wal, wal._start(replay)
        except OSError as error:
            lock.release()
            raise DiskFailed(f"The log in {directory} cannot be opened: {error}.") from error
        except StorageError:
            lock.release()
            raise

    def save(
        self,
        *,
        hard_state: raft_pb2.HardState | None = None,
        entries: Sequence[EncodedEntry] = (),
        must_sync: bool,
    ) -> None:
        """Appends a batch: the entries, then the hard state that came with them.

        Raises:
            DiskFull: nothing was written; the same call may be repeated later.
            DiskFailed: the process must end.
        """
        records = [(RecordType.ENTRY, entry.data) for entry in entries]
        if hard_state is not None:
            records.append((RecordType.HARD_STATE, hard_state.SerializeToString()))
        self._write(records, must_sync=must_sync)
        if hard_state is not None:
            self._hard_state = records[-1][1]
        if entries:
            self._last_index = entries[-1].index

    def save_snapshot(self, metadata: raft_pb2.SnapshotMetadata, data: bytes) -> None:
        """Stores a snapshot and marks it: file, then mark, then the old files go.

        Raises:
            DiskFull, DiskFailed: as in `save`.
        """
        self.write_snapshot_file(metadata, data)
        self.mark_snapshot(metadata)

    def write_snapshot_file(self, metadata: raft_pb2.SnapshotMetadata, data: bytes) -> None:
        """The slow half of `save_snapshot`: may run in another thread beside `save`. Raises DiskFailed."""
        try:
            self.snapshots.write(metadata, data)
        except OSError as error:
            raise DiskFailed(f"The snapshot at entry {metadata.index} could not be stored: {error}.") from error

    def mark_snapshot(self, metadata: raft_pb2.SnapshotMetadata) -> None:
        """The quick half: from here on a restart begins at this snapshot. Raises DiskFull, DiskFailed."""
        mark = (metadata.index, metadata.term)
        if self._marks and mark <= max(self._marks):
            return
        self._write([(RecordType.SNAPSHOT_MARK, encode_mark(mark))], must_sync=True)
        self._marks = (*self._marks, mark)[-SNAPSHOTS_KEPT:]
        self._last_index = max(self._last_index, metadata.index)
        self._guarded(self._remove_old)

    def info(self) -> WalInfo:
        """Numbers for status and metrics."""
        used = (len(self._names) - 1) * self._segment_bytes + (self._current.end if self._current else 0)
        return WalInfo(len(self._names), used, self._last_index, self._syncs, self._last_sync_s)

    def close(self) -> None:
        """Closes the files and gives the lock back; calling it again does nothing."""
        if self._current is not None:
            self._current.close()
            self._current = None
        self._lock.release()

    def _start(self, replay: Replay) -> Recovered:
        self._disk.remove(self._directory / TEMPORARY_NAME)
        found = list_segments(self._directory)
        if not found and any(self.snapshots.list()):
            raise DamagedLog(
                f"{self._directory} has no log, but there are snapshots beside it: this node forgot its votes. Put "
                f"the log back, or {REJOIN}."
            )
        reader = None
        for position, (name, path) in enumerate(found):
            is_last = position == len(found) - 1
            reader = replay.segment(name, path, is_first=position == 0, is_last=is_last)
        self._names = [name for name, _ in found]
        self._marks = tuple(replay.marks)
        self._last_index = replay.last_index
        if replay.hard_state is not None:
            self._hard_state = replay.hard_state.SerializeToString()
        snapshot = replay.choose_snapshot(self.snapshots)
        floor = snapshot.metadata.index if snapshot is not None else 0
        if reader is None:
            self._current = self._new_segment(size=self._segment_bytes)
        else:
            self._current = Segment.reopen(
                self._disk, reader.path, end=reader.end, has_tail=reader.has_tail, size=self._segment_bytes
            )
        self.snapshots.remove_unmarked(self._marks)
        entries = [entry for entry in replay.entries if entry.index > floor]
        return Recovered(replay.hard_state, entries, snapshot)

    def _write(self, records: Sequence[tuple[RecordType, bytes]], *, must_sync: bool) -> None:
        self._guarded(lambda: self._write_unguarded(records, must_sync=must_sync))

    def _write_unguarded(self, records: Sequence[tuple[RecordType, bytes]], *, must_sync: bool) -> None:
        current = self._current_segment()
        needed = sum(record.size_of(len(payload)) for _, payload in records)
        if needed > current.room:
            current = self._rotate(needed)
        if records:
            current.append(records)
        if must_sync:
            self._sync(current)

    def _rotate(self, needed: int) -> Segment:
        """Ends the current segment and begins the next; the old one is durable before the new one exists."""
        old = self._current_segment()
        self._sync(old)
        size = max(self._segment_bytes, needed + self._first_records_bytes())
        self._current = self._new_segment(size=size)
        old.close()
        return self._current

    def _new_segment(self, *, size: int) -> Segment:
        sequence = self._names[-1].sequence + 1 if self._names else 1
        name = SegmentName(sequence, self._last_index + 1)
        segment = Segment.create(self._disk, self._directory, name, self._first_records(), size=size)
        self._names.append(name)
        return segment

    def _first_records(self) -> list[tuple[RecordType, bytes]]:
        cluster_id, node_id = self._identity
        header = SegmentHeader(cluster_id=cluster_id, node_id=node_id, marks=self._marks)
        records = [(RecordType.SEGMENT, header.encode())]
        if self._hard_state is not None:
            records.append((RecordType.HARD_STATE, self._hard_state))
        return records

    def _first_records_bytes(self) -> int:
        return sum(record.size_of(len(payload)) for _, payload in self._first_records())

    def _sync(self, segment: Segment) -> None:
        started = time.perf_counter()
        segment.sync()
        self._last_sync_s = time.perf_counter() - started
        self._syncs += 1

    def _remove_old(self) -> None:
        """Removes segments that end before the older of the kept snapshots, and snapshots older than that."""
        floor = min(self._marks)[0] if len(self._marks) == SNAPSHOTS_KEPT else 0
        while len(self._names) > 1 and self._names[1].first_index <= floor + 1:
            name = self._names.pop(0)
            self._disk.remove(self._directory / name.file_name())
        self.snapshots.remove_before(self._marks)

    def _current_segment(self) -> Segment:
        if self._current is None:
            raise DiskFailed("The log is closed.")
        return self._current

    def _guarded(self, action: Callable[[], None]) -> None:
        """Turns the first OSError into DiskFailed, and refuses everything after it."""
        if self._failed:
            raise DiskFailed(self._failed)
        try:
            action()
        except OSError as error:
            self._failed = (
                f"The log in {self._directory} could not be written: {error}. What is on the disk is unknown now, so "
                "the node stops; check the disk, then start it again."
            )
            log.critical(self._failed)
            raise DiskFailed(self._failed) from error
