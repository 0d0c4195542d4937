"""The one interface of all stores of blocks: objects by key, replaced atomically, compared, swapped, checksummed.

Both sides have duties. A store never shows a half-written object, verifies what it reads against the checksum that was
written, and honours `if_absent` and `if_match` when several writers race. A caller keeps objects immutable, but for the
small pointers that it replaces with `compare_and_swap`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import google_crc32c
import numpy as np

# Bytes, or anything that shows its memory; a sequence of them is written one after the other, without joining.
Buffer: TypeAlias = bytes | bytearray | memoryview
Data: TypeAlias = Buffer | Sequence[Buffer]

# S3 allows 1024 bytes; the rest is left for a prefix.
KEY_BYTES_MAX = 900
_SEGMENT = re.compile(r"[^/\x00-\x1f\\]+")


class StoreError(Exception):
    """Base of all errors of a store; the message is one sentence with the cure."""


class StoreUnreachable(StoreError):
    """Nobody answers at the store's address, or it answers that it cannot serve."""


class BucketMissing(StoreError):
    """The bucket, or the folder in its place, does not exist."""


class AccessDenied(StoreError):
    """The store refuses these credentials, or what they ask for."""


class ObjectMissing(StoreError):
    """No object has this key."""


class PreconditionFailed(StoreError):
    """Another writer was first: the object exists already, or is no longer the one that was read."""


class ChecksumMismatch(StoreError):
    """The bytes are not those that were written."""


class StoreUnsuitable(StoreError):
    """The server ignores conditional writes, so two writers could both believe that they won."""


class BadKey(StoreError):
    """A key that no store accepts."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store knows about one object. `etag` names its version; `crc32c` is None where nothing recorded it."""

    etag: str
    size_bytes: int
    crc32c: int | None


@dataclass(frozen=True, slots=True)
class Listed:
    """One object of a listing; `modified_s` in seconds since 1970."""

    key: str
    etag: str
    size_bytes: int
    modified_s: float


def parts_of(data: Data) -> tuple[memoryview, ...]:
    """The memory of the data, as flat views of bytes; nothing is copied."""
    given = (data,) if isinstance(data, bytes | bytearray | memoryview) else tuple(data)
    return tuple(memoryview(part).cast("B") for part in given if memoryview(part).nbytes)


def crc32c_of(data: Data, start: int = 0) -> int:
    """CRC32C (Castagnoli) of the data, going on from `start`."""
    value = start
    for part in parts_of(data):
        # The C library takes read-only memory only; NumPy's view of the same bytes passes.
        value = google_crc32c.extend(value, np.frombuffer(part, dtype=np.uint8))
    return value


def require_crc(what: str, *, found: int, wanted: int | None) -> None:
    """Raises ChecksumMismatch unless both agree; None means that nothing is known to compare with."""
    if wanted is not None and found != wanted:
        raise ChecksumMismatch(
            f"{what} is damaged: its CRC32C is {found:08x}, written was {wanted:08x}; "
            "materialize its asset again, and check the disk or server that keeps it."
        )


def check_key(key: str) -> str:
    """Returns the key. Raises BadKey for one that could leave the store's folder or that S3 refuses."""
    segments = key.split("/")
    is_fine = all(_SEGMENT.fullmatch(part) and not part.startswith(".") for part in segments)
    if not is_fine or len(key.encode()) > KEY_BYTES_MAX:
        raise BadKey(
            f"{key!r} is no key; write names separated by single slashes, none starting with a dot, "
            f"{KEY_BYTES_MAX} bytes at most."
        )
    return key


class BlockStore(ABC):
    """Objects by key. All methods may be called from several threads, and raise StoreError."""

    @abstractmethod
    def put(self, key: str, data: Data, *, if_absent: bool = False, if_match: str | None = None) -> Stored:
        """Writes an object whole or not at all.

        Args:
            key: names separated by slashes.
            data: the bytes; a sequence is written in order without being joined first.
            if_absent: only when no object has the key.
            if_match: only when the object's etag still is this one.

        Raises:
            PreconditionFailed: a condition does not hold; nothing was written.
        """

    @abstractmethod
    def head(self, key: str) -> Stored:
        """What is known about an object, without its bytes. Raises ObjectMissing."""

    @abstractmethod
    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes:
        """The bytes of an object, or those from `byte_range[0]` up to, not including, `byte_range[1]`.

        A whole object is checked against its checksum; a range cannot be.
        """

    @abstractmethod
    def read(self, key: str) -> tuple[bytes, Stored]:
        """The whole object, checked, together with the version that it is; for compare and swap."""

    @abstractmethod
    def get_into(self, key: str, buffer: memoryview) -> Stored:
        """Reads a whole object of exactly the buffer's size into it, checked; large ones by parallel ranges.

        Raises:
            ChecksumMismatch: also when the sizes differ.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Listed]:
        """Objects whose key starts with prefix, ordered by key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes an object; one that does not exist is no error."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Where this store is, for `open_described`; never holds a secret."""

    @abstractmethod
    def ensure(self) -> None:
        """Creates the bucket or folder when it is missing, and makes sure that conditional writes work."""

    def compare_and_swap(self, key: str, data: Data, *, expected_etag: str | None) -> Stored:
        """Replaces the version that was read, or creates the object when `expected_etag` is None.

        Raises:
            PreconditionFailed: somebody else wrote in between; read again and decide anew.
        """
        if expected_etag is None:
            return self.put(key, data, if_absent=True)
        return self.put(key, data, if_match=expected_etag)

    def exists(self, key: str) -> bool:
        """True when an object has the key."""
        try:
            self.head(key)
        except ObjectMissing:
            return False
        return True
