"""The few calls that change the disk, behind one class, so that tests can fail any of them.

The duties are on both sides. Callers go through this class for everything that must survive a crash, and call the
sync methods before they acknowledge. An implementation must not return from a sync before the data are durable, and
must raise `OSError` when it cannot be sure of it.
"""

from __future__ import annotations

import os
from pathlib import Path


class Disk:
    """The real disk: thin wrappers around `os`. All methods raise OSError."""

    def create(self, path: Path) -> int:
        """Opens a new, empty file for reading and writing; an old one of that name is emptied."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        """Opens an existing file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def allocate(self, fd: int, *, start: int, length: int) -> None:
        """Reserves zeroed room on the disk, so that later writes into it cannot run out of space."""
        os.posix_fallocate(fd, start, length)

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        """Writes all of data at the offset, however many calls that takes."""
        view = memoryview(data)
        while view:
            written = os.pwrite(fd, view, offset)
            view = view[written:]
            offset += written

    def truncate(self, fd: int, length: int) -> None:
        """Cuts the file."""
        os.ftruncate(fd, length)

    def sync_data(self, fd: int) -> None:
        """Makes the written bytes durable; enough where the file's size does not change."""
        os.fdatasync(fd)

    def sync(self, fd: int) -> None:
        """Makes bytes and size durable."""
        os.fsync(fd)

    def close(self, fd: int) -> None:
        """Closes the descriptor."""
        os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Renames within a directory; durable only after `sync_directory`."""
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        """Removes a file that may be gone already."""
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Makes creations, renames and removals in a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace_file(self, path: Path, data: bytes) -> None:
        """Puts a whole file in place: afterwards readers see the old or the new content, also after a crash."""
        temporary = path.with_name(path.name + ".tmp")
        fd = self.create(temporary)
        try:
            self.write_at(fd, data, 0)
            self.sync(fd)
        finally:
            self.close(fd)
        self.rename(temporary, path)
        self.sync_directory(path.parent)
