"""An object as a seekable file, for libraries that read parts of a large file, such as pyarrow."""

from __future__ import annotations

import io
from typing import Any

from orchestrator_pkg.store.base import BlockStore


class ObjectFile(io.RawIOBase):
    """Reads ranges of an object on demand. Ranges are not checksummed; Parquet pages may carry their own.

    Raises ObjectMissing on construction.
    """

    def __init__(self, store: BlockStore, key: str) -> None:
        super().__init__()
        self._store = store
        self._key = key
        self._size = store.head(key).size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._position + size, self._size)
        if stop <= self._position:
            return b""
        data = self._store.get(self._key, (self._position, stop))
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(memoryview(buffer).nbytes)
        memoryview(buffer).cast("B")[: len(data)] = data
        return len(data)
