"""A disk that fails one chosen call, and that forgets at a crash what was not synced, sector by sector."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

from raft_service.storage.disk import Disk

_SECTOR_BYTES = 512


class FaultyDisk(Disk):
    """Counts the calls that change something.

    Args:
        fail_at: which of them fails, from 0; None: none.
        error: with which errno. A write fails halfway.
        only: count calls of this name only; empty: all.
    """

    def __init__(self, *, fail_at: int | None = None, error: int = errno.EIO, only: str = "") -> None:
        self.calls = 0
        self._fail_at = fail_at
        self._error = error
        self._only = only
        self._old_bytes: dict[int, list[tuple[int, bytes]]] = {}
        self._renames: list[tuple[Path, Path]] = []
        self._paths: dict[int, Path] = {}

    def heal(self) -> None:
        """From now on nothing fails."""
        self._fail_at = None

    def crash(self, rng: random.Random) -> None:
        """The machine loses power: of everything that was not synced, some sectors and some renames are gone."""
        for fd, writes in self._old_bytes.items():
            path = self._paths[fd]
            if not path.exists():
                continue
            with path.open("r+b") as file:
                for offset, old in reversed(writes):
                    if rng.random() < 0.5:
                        file.seek(offset)
                        file.write(old)
        for source, target in reversed(self._renames):
            if target.exists() and rng.random() < 0.5:
                os.rename(target, source)

    def create(self, path: Path) -> int:
        self._count("create")
        fd = super().create(path)
        self._opened(fd, path)
        return fd

    def open(self, path: Path) -> int:
        fd = super().open(path)
        self._opened(fd, path)
        return fd

    def allocate(self, fd: int, *, start: int, length: int) -> None:
        self._count("allocate")
        super().allocate(fd, start=start, length=length)

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        for start, part in _by_sector(data, offset):
            old = os.pread(fd, len(part), start)
            self._old_bytes[fd].append((start, old + bytes(len(part) - len(old))))
        try:
            self._count("write_at")
        except OSError:
            super().write_at(fd, data[: len(data) // 2], offset)
            raise
        super().write_at(fd, data, offset)

    def truncate(self, fd: int, length: int) -> None:
        self._count("truncate")
        super().truncate(fd, length)

    def sync_data(self, fd: int) -> None:
        self._count("sync_data")
        super().sync_data(fd)
        self._old_bytes[fd].clear()

    def sync(self, fd: int) -> None:
        self._count("sync")
        super().sync(fd)
        self._old_bytes[fd].clear()

    def rename(self, source: Path, target: Path) -> None:
        self._count("rename")
        super().rename(source, target)
        self._renames.append((source, target))
        for fd, path in self._paths.items():
            if path == source:
                self._paths[fd] = target

    def remove(self, path: Path) -> None:
        self._count("remove")
        super().remove(path)

    def sync_directory(self, path: Path) -> None:
        self._count("sync_directory")
        super().sync_directory(path)
        self._renames = [pair for pair in self._renames if pair[1].parent != path]

    def _opened(self, fd: int, path: Path) -> None:
        self._paths = {other: known for other, known in self._paths.items() if other != fd}
        self._paths[fd] = path
        self._old_bytes[fd] = []

    def _count(self, name: str) -> None:
        if self._only and name != self._only:
            return
        number, self.calls = self.calls, self.calls + 1
        if number == self._fail_at:
            raise OSError(self._error, f"injected into {name}")


def _by_sector(data: bytes, offset: int) -> list[tuple[int, bytes]]:
    parts = []
    start = 0
    while start < len(data):
        size = min(len(data) - start, _SECTOR_BYTES - (offset + start) % _SECTOR_BYTES)
        parts.append((offset + start, data[start : start + size]))
        start += size
    return parts
