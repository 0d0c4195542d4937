"""Reading the whole log back at start: which entries, which hard state, from which snapshot on."""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator_proto import raft_pb2
from raft_service.storage.errors import REJOIN, DamagedLog, ForeignData
from raft_service.storage.record import Record, RecordType
from raft_service.storage.segment import SegmentHeader, SegmentName, SegmentReader
from raft_service.storage.snapshot_files import SNAPSHOTS_KEPT, Mark, SnapshotFiles, StoredSnapshot

log = logging.getLogger(__name__)

_MARK = struct.Struct("<QQ")


def encode_mark(mark: Mark) -> bytes:
    """The payload of a SNAPSHOT_MARK record."""
    return _MARK.pack(*mark)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the disk holds. A new node has none of it."""

    hard_state: raft_pb2.HardState | None
    entries: list[raft_pb2.Entry]
    snapshot: StoredSnapshot | None

    @property
    def is_empty(self) -> bool:
        """True for a node that never ran."""
        return self.hard_state is None and not self.entries and self.snapshot is None


@dataclass(slots=True)
class Replay:
    """Takes records in the order in which they were written, and keeps what the last of them left standing.

    An entry replaces one of the same index and everything behind it, as in the log of a follower whose leader changed.
    A mark beyond the log's end (a snapshot that came from the leader) replaces the whole log.
    """

    cluster_id: str
    node_id: int
    hard_state: raft_pb2.HardState | None = None
    entries: list[raft_pb2.Entry] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    last_index: int = 0

    def segment(self, name: SegmentName, path: Path, *, is_first: bool, is_last: bool) -> SegmentReader:
        """Reads one segment to its end.

        Raises:
            DamagedLog: what was durable does not read, or does not fit together.
            ForeignData: another node, cluster or format wrote it.
        """
        if is_first:
            self.last_index = name.first_index - 1
        reader = SegmentReader(path, is_last=is_last)
        records = iter(reader)
        self._header(next(records, None), path)
        for found in records:
            self._take(found, path)
        return reader

    def _header(self, first: Record | None, path: Path) -> None:
        if first is None or first.type is not RecordType.SEGMENT:
            raise DamagedLog(f"{path} has no segment header. Restore a backup, or {REJOIN}.")
        header = SegmentHeader.decode(first.payload, path)
        if (header.cluster_id, header.node_id) != (self.cluster_id, self.node_id):
            raise ForeignData(
                f"{path} belongs to node {header.node_id} of cluster {header.cluster_id!r}, this is node "
                f"{self.node_id} of {self.cluster_id!r}; correct RAFT_DATA_DIR, RAFT_CLUSTER_ID or RAFT_PEERS."
            )
        self.marks = list(header.marks)

    def _take(self, found: Record, path: Path) -> None:
        if found.type is RecordType.ENTRY:
            self._entry(raft_pb2.Entry.FromString(found.payload), path)
        elif found.type is RecordType.HARD_STATE:
            self.hard_state = raft_pb2.HardState.FromString(found.payload)
        elif found.type is RecordType.SNAPSHOT_MARK:
            index, term = _MARK.unpack(found.payload)
            self._mark((index, term))
        else:
            raise DamagedLog(f"{path} has a second segment header. Restore a backup, or {REJOIN}.")

    def _entry(self, entry: raft_pb2.Entry, path: Path) -> None:
        if entry.index > self.last_index + 1:
            raise DamagedLog(
                f"{path} jumps from entry {self.last_index} to {entry.index}. Restore a backup, or {REJOIN}."
            )
        if self.entries and entry.index <= self.last_index:
            del self.entries[max(0, entry.index - self.entries[0].index) :]
        self.entries.append(entry)
        self.last_index = entry.index

    def _mark(self, mark: Mark) -> None:
        self.marks = [*self.marks, mark][-SNAPSHOTS_KEPT:]
        index, term = mark
        if self.term_at(index) not in (None, term) or index > self.last_index:
            self.entries.clear()
            self.last_index = index

    def term_at(self, index: int) -> int | None:
        """Term of a replayed entry; None when it is not among them."""
        if not self.entries or not self.entries[0].index <= index <= self.last_index:
            return None
        return self.entries[index - self.entries[0].index].term

    def choose_snapshot(self, files: SnapshotFiles) -> StoredSnapshot | None:
        """The newest marked snapshot that reads and that the log continues.

        Raises:
            DamagedLog: there is none, though the log begins after one or a newer one is unreadable.
        """
        reasons = []
        needed = 0  # the log must reach this far: the node had applied all of it
        for mark in sorted(self.marks, reverse=True):
            try:
                snapshot = files.read(mark)
            except DamagedLog as error:
                log.warning("snapshot not usable, trying an older one; reason=%s", error)
                reasons.append(str(error))
                needed = max(needed, mark[0])
                continue
            self._check_reach(mark[0], needed=needed, reasons=reasons)
            return snapshot
        self._check_reach(0, needed=needed, reasons=reasons)
        return None

    def _check_reach(self, snapshot_index: int, *, needed: int, reasons: list[str]) -> None:
        first = self.entries[0].index if self.entries else self.last_index + 1
        is_gap = bool(self.entries) and first > snapshot_index + 1
        is_short = needed > snapshot_index and (not self.entries or self.last_index < needed)
        if is_gap or is_short:
            raise DamagedLog(
                f"The log begins at entry {first} and no usable snapshot leads up to it. {' '.join(reasons)} Restore "
                f"a backup, or {REJOIN}."
            )
