"""Snapshots on disk: one file each, in place whole or not at all, checked when read.

    "SNAP" + format (u32), length of the metadata (u32), length of the data (u64), CRC32C of all that follows (u32),
    metadata (serialized SnapshotMetadata), data (the state machine's own bytes)

A file alone means nothing: only snapshots that a mark in the log names are loaded, because only those lie at a place
where the log continues.
"""

from __future__ import annotations

import logging
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from orchestrator_proto import raft_pb2
from raft_service.storage.disk import Disk
from raft_service.storage.errors import DamagedLog

log = logging.getLogger(__name__)

# The newest, and the one before it in case the newest cannot be read.
SNAPSHOTS_KEPT = 2
_FORMAT = 1
_HEADER = struct.Struct("<4sIIQI")
_MAGIC = b"SNAP"
_NAME = re.compile(r"^([0-9a-f]{16})-([0-9a-f]{16})\.snap$")

Mark = tuple[int, int]


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot as kept on disk."""

    metadata: raft_pb2.SnapshotMetadata
    data: bytes


class SnapshotFiles:
    """The snapshot directory. Writing may happen beside the log's writer: the two share no file."""

    def __init__(self, directory: Path, *, disk: Disk) -> None:
        self._directory = directory
        self._disk = disk

    def write(self, metadata: raft_pb2.SnapshotMetadata, data: bytes) -> None:
        """Stores a snapshot durably. Raises OSError."""
        meta = metadata.SerializeToString()
        crc = google_crc32c.extend(google_crc32c.value(meta), data)
        header = _HEADER.pack(_MAGIC, _FORMAT, len(meta), len(data), crc)
        self._disk.replace_file(self._path((metadata.index, metadata.term)), b"".join((header, meta, data)))

    def read(self, mark: Mark) -> StoredSnapshot:
        """Loads a snapshot.

        Raises:
            DamagedLog: the file is missing, damaged or of another format.
        """
        path = self._path(mark)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedLog(f"Snapshot {path} cannot be read: {error.strerror}.") from None
        if len(content) < _HEADER.size:
            raise DamagedLog(f"Snapshot {path} is cut short.")
        magic, version, meta_bytes, data_bytes, crc = _HEADER.unpack_from(content)
        body = content[_HEADER.size :]
        if magic != _MAGIC or version != _FORMAT:
            raise DamagedLog(f"Snapshot {path} has format {version}, this program reads {_FORMAT}.")
        if len(body) != meta_bytes + data_bytes or google_crc32c.value(body) != crc:
            raise DamagedLog(f"Snapshot {path} is damaged: its checksum is wrong.")
        return StoredSnapshot(raft_pb2.SnapshotMetadata.FromString(body[:meta_bytes]), body[meta_bytes:])

    def remove_before(self, marks: Collection[Mark]) -> None:
        """Removes what is older than the newest mark and not marked. Newer files stay: one may be in the making."""
        newest = max(marks, default=(0, 0))
        for mark in self.list():
            if mark not in marks and mark < newest:
                self._disk.remove(self._path(mark))

    def remove_unmarked(self, marks: Collection[Mark]) -> None:
        """At start: removes what a crash left unfinished or unmarked."""
        kept = {self._path(mark) for mark in marks}
        for path in tuple(self._directory.iterdir()):
            if path not in kept:
                self._disk.remove(path)

    def list(self) -> list[Mark]:
        """Index and term of the snapshot files, marked or not."""
        matches = (_NAME.match(path.name) for path in self._directory.iterdir())
        return [(int(match[1], 16), int(match[2], 16)) for match in matches if match is not None]

    def _path(self, mark: Mark) -> Path:
        return self._directory / f"{mark[0]:016x}-{mark[1]:016x}.snap"
