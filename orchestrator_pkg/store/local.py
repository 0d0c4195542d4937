"""A store in a local folder: atomic by temporary file, fsync and rename; compare and swap under a file lock.

A checksum stands beside each object in `.checksums/`, with the size and time of the file that it belongs to. It is
written before the object is renamed into place, so a reader sees either a matching pair, or (for a moment, or after a
crash in between) a checksum of another version, which it recognises by size and time and does not use. A file that
somebody put into the folder by hand simply has none.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from orchestrator_pkg.store.base import (
    AccessDenied,
    BlockStore,
    BucketMissing,
    ChecksumMismatch,
    Data,
    Listed,
    ObjectMissing,
    PreconditionFailed,
    Stored,
    StoreUnreachable,
    check_key,
    crc32c_of,
    parts_of,
    require_crc,
)

# Writers of different keys seldom meet with 64 locks, and the folder never holds more lock files.
LOCKS = 64
# A read that meets an overwrite tries again; more often than this, something else is wrong.
READ_TRIES_MAX = 5
# Temporary files of a process that died are older than any write takes.
TEMPORARY_AGE_MAX_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class _Version:
    """Size and time of a file, which together with its checksum name a version."""

    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Version:
        return cls(status.st_size, status.st_mtime_ns)

    def etag(self, crc32c: int | None) -> str:
        return f'"{self.mtime_ns:x}-{self.size_bytes:x}-{0 if crc32c is None else crc32c:08x}"'


class LocalStore(BlockStore):
    """Objects as files below a folder, which is created by the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._is_swept = False

    @property
    def root(self) -> Path:
        """The folder."""
        return self._root

    # ------------------------------------------------------------------------------------------------ write

    def put(self, key: str, data: Data, *, if_absent: bool = False, if_match: str | None = None) -> Stored:
        target = self._root / check_key(key)
        with self._in_words(key):
            self.ensure()
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._write_temporary(data)
            try:
                with self._lock(key):
                    return self._move_into_place(key, temporary, crc32c_of(data), if_absent, if_match)
            finally:
                temporary.unlink(missing_ok=True)

    def _write_temporary(self, data: Data) -> Path:
        descriptor, name = tempfile.mkstemp(dir=self._root / ".tmp")
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for part in parts_of(data):
                    _write_all(file, part)
                os.fsync(file.fileno())
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return Path(name)

    def _move_into_place(self, key: str, temporary: Path, crc32c: int, if_absent: bool, if_match: str | None) -> Stored:
        target = self._root / key
        old = self._head_or_none(key)
        if if_absent and old is not None:
            raise PreconditionFailed(f"{key} exists already; another writer was first, so read what it wrote.")
        if if_match is not None and (old is None or old.etag != if_match):
            raise PreconditionFailed(f"{key} was replaced by another writer; read it again before writing.")
        # Two writes within one tick of the clock must not get the same version.
        before_ns = target.stat().st_mtime_ns if old is not None else 0
        os.utime(temporary, ns=(mtime_ns := max(time.time_ns(), before_ns + 1), mtime_ns))
        version = _Version.of(temporary.stat())
        self._write_checksum(key, version, crc32c)
        temporary.chmod(0o644)
        temporary.replace(target)
        _sync_folder(target.parent)
        return Stored(version.etag(crc32c), version.size_bytes, crc32c)

    def _write_checksum(self, key: str, version: _Version, crc32c: int) -> None:
        target = self._checksum_path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"size": version.size_bytes, "mtime_ns": version.mtime_ns, "crc32c": crc32c})
        self._write_temporary(text.encode()).replace(target)
        _sync_folder(target.parent)

    def delete(self, key: str) -> None:
        with self._in_words(key), self._lock(check_key(key)):
            (self._root / key).unlink(missing_ok=True)
            self._checksum_path(key).unlink(missing_ok=True)

    def ensure(self) -> None:
        if self._is_swept:
            return
        try:
            for name in (".tmp", ".locks", ".checksums"):
                (self._root / name).mkdir(parents=True, exist_ok=True)
            self._sweep()
        except (FileExistsError, NotADirectoryError):
            raise BucketMissing(
                f"{self._root} is no folder, so it cannot keep blocks; set STORE_DIR to a folder."
            ) from None
        except OSError as error:
            raise _in_words_of_os(error, str(self._root)) from None
        self._is_swept = True

    def _sweep(self) -> None:
        limit_s = time.time() - TEMPORARY_AGE_MAX_S
        for path in (self._root / ".tmp").iterdir():
            try:
                if path.stat().st_mtime < limit_s:
                    path.unlink()
            except FileNotFoundError:
                pass  # another process swept it

    # ------------------------------------------------------------------------------------------------- read

    def head(self, key: str) -> Stored:
        with self._in_words(key):
            found = self._head_or_none(check_key(key))
        if found is None:
            raise _missing(key, self._root)
        return found

    def _head_or_none(self, key: str) -> Stored | None:
        try:
            version = _Version.of((self._root / key).stat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        crc32c = self._checksum(key, version)
        return Stored(version.etag(crc32c), version.size_bytes, crc32c)

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes:
        if byte_range is None:
            return self.read(key)[0]
        with self._in_words(key), (self._root / check_key(key)).open("rb") as file:
            file.seek(byte_range[0])
            return file.read(byte_range[1] - byte_range[0])

    def read(self, key: str) -> tuple[bytes, Stored]:
        with self._in_words(key), self._open(check_key(key)) as (file, stored):
            data = bytearray(stored.size_bytes)
            _read_all(file, memoryview(data), key)
        require_crc(key, found=crc32c_of(data), wanted=stored.crc32c)
        return bytes(data), stored

    def get_into(self, key: str, buffer: memoryview) -> Stored:
        with self._in_words(key), self._open(check_key(key)) as (file, stored):
            if stored.size_bytes != buffer.nbytes:
                raise _wrong_size(key, stored.size_bytes, buffer.nbytes)
            _read_all(file, buffer, key)
        require_crc(key, found=crc32c_of(buffer), wanted=stored.crc32c)
        return stored

    @contextmanager
    def _open(self, key: str) -> Iterator[tuple[BinaryIO, Stored]]:
        """The open file and what belongs to exactly this file, also while a writer replaces it."""
        for _ in range(READ_TRIES_MAX):
            with (self._root / key).open("rb", buffering=0) as file:
                version = _Version.of(os.fstat(file.fileno()))
                crc32c = self._checksum(key, version)
                is_current = _Version.of((self._root / key).stat()) == version
                if crc32c is not None or is_current:
                    yield file, Stored(version.etag(crc32c), version.size_bytes, crc32c)
                    return
        raise StoreUnreachable(f"{key} is replaced faster than it can be read; try again when its writers rest.")

    def _checksum(self, key: str, version: _Version) -> int | None:
        try:
            known = json.loads(self._checksum_path(key).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None
        is_same = (known["size"], known["mtime_ns"]) == (version.size_bytes, version.mtime_ns)
        return int(known["crc32c"]) if is_same else None

    def list(self, prefix: str = "") -> Iterator[Listed]:
        if not self._root.is_dir():
            return
        found = sorted(self._keys_below(self._root, prefix))
        for key in found:
            stored = self._head_or_none(key)
            if stored is not None:
                modified_s = (self._root / key).stat().st_mtime
                yield Listed(key, stored.etag, stored.size_bytes, modified_s)

    def _keys_below(self, folder: Path, prefix: str) -> Iterator[str]:
        for path in folder.iterdir():
            key = path.relative_to(self._root).as_posix()
            if path.name.startswith("."):
                continue
            if path.is_dir() and (key + "/").startswith(prefix[: len(key) + 1]):
                yield from self._keys_below(path, prefix)
            elif path.is_file() and key.startswith(prefix):
                yield key

    def describe(self) -> dict[str, str]:
        return {"kind": "local", "root": str(self._root)}

    # ------------------------------------------------------------------------------------------------ helpers

    def _checksum_path(self, key: str) -> Path:
        return self._root / ".checksums" / f"{key}.json"

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        self.ensure()
        number = zlib.crc32(key.encode()) % LOCKS
        with (self._root / ".locks" / f"{number:02d}").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # released by closing
            yield

    @contextmanager
    def _in_words(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise _missing(key, self._root) from None
        except OSError as error:
            raise _in_words_of_os(error, str(self._root / key)) from None


def _write_all(file: BinaryIO, part: memoryview) -> None:
    while part:
        part = part[file.write(part) :]


def _read_all(file: BinaryIO, buffer: memoryview, key: str) -> None:
    rest = buffer
    while rest:
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise _wrong_size(key, buffer.nbytes - rest.nbytes, buffer.nbytes)
        rest = rest[count:]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing(key: str, root: Path) -> ObjectMissing:
    return ObjectMissing(f"{key} is not in {root}; materialize the asset that writes it, or correct STORE_DIR.")


def _wrong_size(key: str, found: int, wanted: int) -> ChecksumMismatch:
    return ChecksumMismatch(
        f"{key} has {found} bytes where {wanted} were written; materialize its asset again, and check the disk."
    )


def _in_words_of_os(error: OSError, path: str) -> AccessDenied | BucketMissing | StoreUnreachable:
    if isinstance(error, PermissionError):
        return AccessDenied(f"{path} may not be read or written by this user; change its owner or STORE_DIR.")
    if isinstance(error, NotADirectoryError | IsADirectoryError | FileExistsError):
        return BucketMissing(f"{path} has a file where a folder is needed, or the reverse; remove it or rename it.")
    return StoreUnreachable(f"{path} cannot be used ({error.strerror}); make room or repair the disk, then try again.")
