"""One record of the log: how it is framed, and how a torn write is told from damage.

    bytes    0..1   magic
             2      type
             3      zero
             4..7   length of the payload
             8..15  durable: how many bytes of this segment were known to be on the disk when this was written
            16..19  CRC32C of the payload
            20..23  CRC32C of bytes 0..19
            24..    payload, one trailer byte that is never zero, zeros up to a multiple of 8

A crash may leave any part of what was written since the last fsync: a whole group of records may be missing, or its
second page may be there and its first not. All that is legal, because nobody was told that it is stored; such a tail
is cut. The same bytes in an older place mean that the disk lost what it had promised to keep; then the node must not
start, for it may have acknowledged what is gone.

The two look alike at first sight: a record that does not read. They are told apart by two facts. New segments are
zeroed, so a write that did not arrive leaves a share of a 512-byte sector all zero, or a zero trailer; a record whose
every sector arrived and whose checksum is wrong was changed later. And a later record that reads well says in
`durable` what was synced before it was written; if the bad place lies below, it was durable once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import google_crc32c

_FIELDS = struct.Struct("<HBxIQI")
_CHECK = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECK.size
MAGIC = 0xB10C
_MAGIC_BYTES = MAGIC.to_bytes(2, "little")
_TRAILER = b"\xa5"
_ALIGNMENT = 8
# The unit that a disk writes whole or not at all.
_SECTOR_BYTES = 512
# A length beyond this is nonsense: segments are far smaller, and one proposal is at most a few MiB.
PAYLOAD_BYTES_MAX = 256 * 1024 * 1024


class RecordType(IntEnum):
    """What the payload is."""

    SEGMENT = 1  # first record of each file: JSON, see segment.py
    HARD_STATE = 2  # serialized HardState
    ENTRY = 3  # serialized Entry
    SNAPSHOT_MARK = 4  # index and term of a snapshot whose file is durable


@dataclass(frozen=True, slots=True)
class Record:
    """A record as read."""

    type: RecordType
    payload: bytes
    durable: int
    end: int


class BadRecord(Exception):
    """The bytes at an offset are no record. `is_torn`: they may be a write that a crash cut short."""

    def __init__(self, reason: str, *, is_torn: bool) -> None:
        super().__init__(reason)
        self.is_torn = is_torn


def size_of(payload_bytes: int) -> int:
    """Bytes that a record with such a payload takes in the file."""
    unpadded = HEADER_BYTES + payload_bytes + len(_TRAILER)
    return unpadded + -unpadded % _ALIGNMENT


def encode(record_type: RecordType, payload: bytes, *, durable: int) -> bytes:
    """Frames a payload."""
    fields = _FIELDS.pack(MAGIC, record_type, len(payload), durable, google_crc32c.value(payload))
    padding = bytes(size_of(len(payload)) - HEADER_BYTES - len(payload) - len(_TRAILER))
    return b"".join((fields, _CHECK.pack(google_crc32c.value(fields)), payload, _TRAILER, padding))


def decode(data: bytes, offset: int) -> Record | None:
    """Reads the record at an offset; None where the log ends (zeros, or the end of the file).

    Raises:
        BadRecord: something else stands there.
    """
    header = data[offset : offset + HEADER_BYTES]
    if not header.strip(b"\0"):
        return None
    if len(header) < HEADER_BYTES:
        raise BadRecord("the file ends inside a record", is_torn=True)
    start = offset + HEADER_BYTES
    fields = header[: _FIELDS.size]
    magic, record_type, length, durable, payload_crc = _FIELDS.unpack(fields)
    if google_crc32c.value(fields) != _CHECK.unpack(header[_FIELDS.size :])[0]:
        # A header cut short is followed by nothing: the end of its checksum and what would be payload are zero.
        is_cut = not data[start - 1 : start + _ALIGNMENT].strip(b"\0")
        raise BadRecord("the header's checksum is wrong", is_torn=is_cut or _has_hole(data, offset, HEADER_BYTES))
    if magic != MAGIC or length > PAYLOAD_BYTES_MAX or record_type not in RecordType.__members__.values():
        raise BadRecord(f"the header is not one of ours (type {record_type})", is_torn=False)
    payload, trailer = data[start : start + length], data[start + length : start + length + 1]
    if google_crc32c.value(payload) != payload_crc or trailer != _TRAILER:
        is_torn = trailer in (b"", b"\0") or _has_hole(data, offset, HEADER_BYTES + length + 1)
        raise BadRecord("the payload's checksum is wrong", is_torn=is_torn)
    return Record(RecordType(record_type), payload, durable, offset + size_of(length))


def proves_durable(data: bytes, offset: int) -> bool:
    """True when a readable record after the offset shows that the bytes at the offset were once on the disk."""
    position = offset
    while (position := data.find(_MAGIC_BYTES, position + 1)) != -1:
        if position % _ALIGNMENT:
            continue
        try:
            record = decode(data, position)
        except BadRecord:
            continue  # two bytes that happen to look like a start, or another piece of a torn group
        if record is not None and record.durable > offset:
            return True
    return False


def _has_hole(data: bytes, offset: int, length: int) -> bool:
    """True when the share of some sector, or of the last eight bytes, is all zero or beyond the file's end."""
    end = offset + length
    if end > len(data):
        return True
    position = offset
    while position < end:
        sector_end = min(end, (position // _SECTOR_BYTES + 1) * _SECTOR_BYTES)
        if not data[position:sector_end].strip(b"\0"):
            return True
        position = sector_end
    return False
