"""One file of the log: its name, its first records, appending to it and reading it back."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raft_service.storage import record
from raft_service.storage.disk import Disk
from raft_service.storage.errors import REJOIN, DamagedLog, DiskFull, ForeignData
from raft_service.storage.record import BadRecord, Record, RecordType

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
TEMPORARY_NAME = "next.tmp"
_NAME = re.compile(r"^([0-9a-f]{16})-([0-9a-f]{16})\.wal$")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, order=True)
class SegmentName:
    """Where a segment stands: its number, and one more than the last entry index of the log when it was begun."""

    sequence: int
    first_index: int

    def file_name(self) -> str:
        """The name on disk; sorts by sequence."""
        return f"{self.sequence:016x}-{self.first_index:016x}.wal"


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """First record of each segment: whose it is, and what older segments said that must outlive them.

    Attributes:
        marks: (index, term) of the snapshots that may be loaded, oldest first.
    """

    cluster_id: str
    node_id: int
    marks: tuple[tuple[int, int], ...] = ()
    format: int = field(default=FORMAT_VERSION)

    def encode(self) -> bytes:
        """As JSON, so that a person can read it with `strings`."""
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decode(cls, payload: bytes, path: Path) -> SegmentHeader:
        """Raises ForeignData when a newer program wrote it."""
        values = json.loads(payload)
        if values.get("format") != FORMAT_VERSION:
            raise ForeignData(
                f"{path} has log format {values.get('format')}, this program reads {FORMAT_VERSION}; run the version "
                f"that wrote it, or {REJOIN}."
            )
        marks = tuple((int(index), int(term)) for index, term in values["marks"])
        return cls(cluster_id=values["cluster_id"], node_id=values["node_id"], marks=marks)


class Segment:
    """An open segment at the end of the log. Not thread-safe: one writer."""

    def __init__(self, disk: Disk, path: Path, fd: int, *, size: int, end: int) -> None:
        self.path = path
        self.size = size  # bytes reserved on disk
        self.end = end  # where the next record goes
        self.durable = end  # everything below is on the disk
        self._disk = disk
        self._fd = fd

    @classmethod
    def create(
        cls, disk: Disk, directory: Path, name: SegmentName, first: Sequence[tuple[RecordType, bytes]], *, size: int
    ) -> Segment:
        """Makes a durable, preallocated segment that begins with the given records.

        Raises:
            DiskFull: no room for it; nothing is left behind.
            OSError: the disk failed in any other way.
        """
        temporary, path = directory / TEMPORARY_NAME, directory / name.file_name()
        data = b"".join(record.encode(kind, payload, durable=0) for kind, payload in first)
        fd = _create_allocated(disk, temporary, size=size)
        try:
            disk.write_at(fd, data, 0)
            disk.sync(fd)
            disk.rename(temporary, path)
            disk.sync_directory(directory)
        except BaseException:
            disk.close(fd)
            raise
        return cls(disk, path, fd, size=size, end=len(data))

    @classmethod
    def reopen(cls, disk: Disk, path: Path, *, end: int, has_tail: bool, size: int) -> Segment:
        """Opens the last segment after a restart, to append at `end`.

        Args:
            has_tail: something unreadable follows `end`. It is zeroed: a later record of a torn group must not come
                back to life behind a new one.

        Raises:
            DiskFull: no room to reserve the rest again.
        """
        fd = disk.open(path)
        try:
            if has_tail:
                disk.truncate(fd, end)
            size = max(size, end)
            _allocate(disk, fd, path, size=size)
            disk.sync(fd)
        except BaseException:
            disk.close(fd)
            raise
        return cls(disk, path, fd, size=size, end=end)

    @property
    def room(self) -> int:
        """Bytes left."""
        return self.size - self.end

    def append(self, records: Sequence[tuple[RecordType, bytes]]) -> None:
        """Writes records, in one call; durable only after `sync`. The caller has checked the room."""
        durable = self.durable
        data = b"".join(record.encode(kind, payload, durable=durable) for kind, payload in records)
        assert len(data) <= self.room, "the caller begins a new segment first"
        self._disk.write_at(self._fd, data, self.end)
        self.end += len(data)

    def sync(self) -> None:
        """Makes everything appended so far durable."""
        self._disk.sync_data(self._fd)
        self.durable = self.end

    def close(self) -> None:
        """Closes the file without syncing it."""
        self._disk.close(self._fd)


def _create_allocated(disk: Disk, path: Path, *, size: int) -> int:
    try:
        fd = disk.create(path)
    except OSError as error:
        raise _full_or(error, path) from error
    try:
        _allocate(disk, fd, path, size=size)
    except BaseException:
        disk.close(fd)
        disk.remove(path)
        raise
    return fd


def _allocate(disk: Disk, fd: int, path: Path, *, size: int) -> None:
    try:
        disk.allocate(fd, start=0, length=size)
    except OSError as error:
        raise _full_or(error, path) from error


def _full_or(error: OSError, path: Path) -> Exception:
    if error.errno not in _NO_SPACE:
        return error
    return DiskFull(
        f"The disk of {path.parent} is full: no room for the next log segment. Free some space; "
        "the node goes on by itself."
    )


def list_segments(directory: Path) -> list[tuple[SegmentName, Path]]:
    """The segments of a directory, oldest first.

    Raises:
        DamagedLog: one is missing in between.
    """
    found = []
    for path in directory.iterdir():
        if match := _NAME.match(path.name):
            found.append((SegmentName(int(match[1], 16), int(match[2], 16)), path))
    found.sort()
    for (older, _), (newer, path) in itertools.pairwise(found):
        if newer.sequence != older.sequence + 1:
            raise DamagedLog(
                f"Log segment number {older.sequence + 1} is missing before {path}; put the file back, or {REJOIN}."
            )
    return found


@dataclass(slots=True)
class SegmentReader:
    """Reads a segment; iterate it, then `end` and `has_tail` say where appending may go on.

    Raises (while iterating):
        DamagedLog: bytes that were durable do not read.
    """

    path: Path
    is_last: bool
    end: int = 0
    has_tail: bool = False

    def __iter__(self) -> Iterator[Record]:
        data = self.path.read_bytes()
        while (found := self._next(data)) is not None:
            self.end = found.end
            yield found
        self._judge_rest(data)

    def _next(self, data: bytes) -> Record | None:
        try:
            return record.decode(data, self.end)
        except BadRecord as bad:
            if not (bad.is_torn and self.is_last):
                raise self._damaged(str(bad)) from None
            return None

    def _judge_rest(self, data: bytes) -> None:
        """After the last good record: clean zeros, the remains of a crash, or a hole in what was durable."""
        self.has_tail = bool(data[self.end :].strip(b"\0"))
        if not self.has_tail:
            return
        if not self.is_last or record.proves_durable(data, self.end):
            raise self._damaged("records that were durable are missing")
        log.warning("cut a write that a crash left unfinished; file=%s offset=%d", self.path, self.end)

    def _damaged(self, reason: str) -> DamagedLog:
        return DamagedLog(
            f"{self.path} is damaged at byte {self.end} ({reason}); acknowledged work may be missing, so this "
            f"node does not start on it. Check the disk, then restore a backup, or {REJOIN}."
        )
