"""One process at a time in a data directory: an advisory lock that the kernel drops when the process ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from raft_service.storage.errors import DataDirLocked

LOCK_FILE = "LOCK"


class DirectoryLock:
    """Holds the lock from construction to `release`. The file itself stays; only the lock on it counts."""

    def __init__(self, directory: Path) -> None:
        """Takes the lock. Raises DataDirLocked when another process (or another node in this one) has it."""
        path = directory / LOCK_FILE
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise DataDirLocked(
                f"Data directory {directory} is in use by process {holder}; stop that node, or set RAFT_DATA_DIR to a "
                "directory of this node's own."
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Gives the lock back; calling it again does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
