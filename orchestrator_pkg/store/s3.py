"""A store in an S3 bucket, on a boto3 client: checksums both ways, parallel ranges, conditional writes.

Every object carries the CRC32C of all its bytes twice: as S3's own full-object checksum, which the server verifies
before it accepts the object, and as metadata, which any server gives back, so that a read is verified even where the
server knows no checksums. CRC32C, for it is in hardware, AWS, Ceph, MinIO and Google know it, and it needs no library
beyond the one the control plane's log already uses.

boto3's transfer manager is not used at all: on GPU machines it may choose the CRT client, which sends the traffic of a
custom endpoint to AWS (boto3 issue 4839). Ranges read straight into the caller's buffer, too, cost less.
"""

from __future__ import annotations

import base64
import io
import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError

from orchestrator_pkg.store.base import (
    BlockStore,
    ChecksumMismatch,
    Data,
    Listed,
    PreconditionFailed,
    Stored,
    StoreUnsuitable,
    check_key,
    crc32c_of,
    parts_of,
    require_crc,
)
from orchestrator_pkg.store.s3_errors import Place, bucket_missing, s3_errors

T = TypeVar("T")

# AWS advises ranges of 8 or 16 MiB; larger ones take fewer requests.
PART_BYTES = 16 * 1024 * 1024
# Ranges of one object in flight. A link that eight streams do not fill is filled by several readers.
PARALLEL_MAX = 8
# Objects up to this size are written by one request, which is atomic without completing parts.
SINGLE_PUT_BYTES_MAX = 64 * 1024 * 1024
# S3's limit of parts; PART_BYTES grows when an object would need more.
PARTS_MAX = 10_000
# A connection that breaks in the middle of a body three times in a row is no accident.
BODY_TRIES_MAX = 3
BROKEN_BODY = (HTTPClientError, IncompleteReadError)
CRC_METADATA = "crc32c"
# What servers answer that do not know the checksum's header.
_UNKNOWN_CHECKSUM = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest", "MalformedHeader"})

_pools: dict[int, ThreadPoolExecutor] = {}
_pools_lock = threading.Lock()


def _pool() -> ThreadPoolExecutor:
    """Threads for ranges, shared by all stores of a process (a fork gets its own)."""
    with _pools_lock:
        return _pools.setdefault(os.getpid(), ThreadPoolExecutor(PARALLEL_MAX, thread_name_prefix="s3-range"))


class BufferChain(io.RawIOBase):
    """A readable file over several pieces of memory, so that boto3 sends them without a joined copy."""

    def __init__(self, parts: tuple[memoryview, ...]) -> None:
        super().__init__()
        self._parts = parts
        self._size = sum(part.nbytes for part in parts)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def __len__(self) -> int:
        return self._size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = min(max(base + offset, 0), self._size)
        return self._position

    def readinto(self, buffer: Any) -> int:
        target, start = memoryview(buffer).cast("B"), self._position
        begin = 0
        for part in self._parts:
            end = begin + part.nbytes
            if begin <= start < end:
                count = min(end - start, target.nbytes)
                target[:count] = part[start - begin : start - begin + count]
                self._position += count
                return count
            begin = end
        return 0

    def slice(self, start: int, stop: int) -> tuple[memoryview, ...]:
        """The memory from start up to stop, not copied."""
        found, begin = [], 0
        for part in self._parts:
            low, high = max(start - begin, 0), min(stop - begin, part.nbytes)
            if low < high:
                found.append(part[low:high])
            begin += part.nbytes
        return tuple(found)


class S3Store(BlockStore):
    """Objects in a bucket, optionally below a prefix.

    Args:
        client: a boto3 S3 client, for instance of dagster-aws's S3Resource; it may be shared by threads.
        bucket: must exist; `ensure` creates it.
        prefix: goes before every key, without a slash at its end.
        single_put_bytes_max: larger objects are written in parts.
    """

    def __init__(
        self, client: Any, bucket: str, *, prefix: str = "", single_put_bytes_max: int = SINGLE_PUT_BYTES_MAX
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._single_put_bytes_max = single_put_bytes_max
        self._place = Place(client.meta.endpoint_url, bucket)
        # Becomes False when the server turns out not to know the checksum's header.
        self._sends_checksum = True

    # ------------------------------------------------------------------------------------------------ write

    def put(self, key: str, data: Data, *, if_absent: bool = False, if_match: str | None = None) -> Stored:
        condition: dict[str, str] = {"IfNoneMatch": "*"} if if_absent else {}
        if if_match is not None:
            condition["IfMatch"] = if_match
        body, crc32c = BufferChain(parts_of(data)), crc32c_of(data)
        with s3_errors(self._place, key):
            try:
                etag = self._put_checked(self._full_key(key), body, crc32c, condition)
            except ClientError as error:
                # If-Match on an object that is gone: S3 says 404, which here means that another writer was first.
                if if_match is not None and error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                    raise PreconditionFailed(f"{key} was removed by another writer; read again.") from None
                raise
        return Stored(etag, len(body), crc32c)

    def _put_checked(self, key: str, body: BufferChain, crc32c: int, condition: dict[str, str]) -> str:
        write = self._put_whole if len(body) <= self._single_put_bytes_max else self._put_parts
        try:
            return write(key, body, crc32c, condition)
        except ClientError as error:
            if not self._sends_checksum or error.response["Error"]["Code"] not in _UNKNOWN_CHECKSUM:
                raise
        # An older server: our own metadata still carries the checksum.
        self._sends_checksum = False
        return write(key, body, crc32c, condition)

    def _checksum(self, crc32c: int, *, algorithm: bool = True) -> dict[str, str]:
        if not self._sends_checksum:
            return {}
        # Both, for Ceph takes a checksum without its algorithm unverified.
        value = {"ChecksumCRC32C": base64.b64encode(crc32c.to_bytes(4, "big")).decode()}
        return value | {"ChecksumAlgorithm": "CRC32C"} if algorithm else value

    def _put_whole(self, key: str, body: BufferChain, crc32c: int, condition: dict[str, str]) -> str:
        body.seek(0)
        answer = self._client.put_object(
            Bucket=self._bucket,
            Key=key,
            Body=body,
            ContentLength=len(body),
            Metadata={CRC_METADATA: f"{crc32c:08x}"},
            **self._checksum(crc32c),
            **condition,
        )
        return str(answer["ETag"])

    def _put_parts(self, key: str, body: BufferChain, crc32c: int, condition: dict[str, str]) -> str:
        target = {"Bucket": self._bucket, "Key": key}
        kind = {"ChecksumAlgorithm": "CRC32C", "ChecksumType": "FULL_OBJECT"} if self._sends_checksum else {}
        upload_id = self._client.create_multipart_upload(**target, Metadata={CRC_METADATA: f"{crc32c:08x}"}, **kind)[
            "UploadId"
        ]
        target["UploadId"] = upload_id
        try:
            parts = self._upload_parts(target, body)
            full = self._checksum(crc32c, algorithm=False)
            if full:
                full["ChecksumType"] = "FULL_OBJECT"
            answer = self._client.complete_multipart_upload(
                **target, MultipartUpload={"Parts": parts}, **full, **condition
            )
        except BaseException:
            # Parts that nobody completes would be paid for without being seen.
            self._client.abort_multipart_upload(**target)
            raise
        return str(answer["ETag"])

    def _upload_parts(self, target: dict[str, str], body: BufferChain) -> list[dict[str, Any]]:
        size = max(PART_BYTES, -(-len(body) // PARTS_MAX))

        def upload(number: int) -> dict[str, Any]:
            views = body.slice((number - 1) * size, number * size)
            checksum = self._checksum(crc32c_of(views))
            answer = self._client.upload_part(**target, PartNumber=number, Body=BufferChain(views), **checksum)
            kept = {"ChecksumCRC32C": checksum["ChecksumCRC32C"]} if checksum else {}
            return {"PartNumber": number, "ETag": answer["ETag"], **kept}

        return _all_of([_pool().submit(upload, number) for number in range(1, -(-len(body) // size) + 1)])

    def delete(self, key: str) -> None:
        with s3_errors(self._place, key):
            self._client.delete_object(Bucket=self._bucket, Key=self._full_key(key))

    def ensure(self) -> None:
        with s3_errors(self._place):
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
                    raise
                self._create_bucket()
        self._probe_conditions()

    def _create_bucket(self) -> None:
        region = self._client.meta.region_name
        place = {} if region in (None, "us-east-1") else {"LocationConstraint": region}
        more = {"CreateBucketConfiguration": place} if place else {}
        try:
            self._client.create_bucket(Bucket=self._bucket, **more)
        except ClientError as error:
            # Another process was faster.
            if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                raise

    def _probe_conditions(self) -> None:
        """Some servers accept conditional writes and ignore the condition: refuse them before they lose data."""
        key = f"_probe/{uuid.uuid4()}"
        try:
            self.put(key, b"first", if_absent=True)
            self.put(key, b"second", if_absent=True)
        except PreconditionFailed:
            return
        finally:
            self.delete(key)
        raise StoreUnsuitable(
            f"{self._place.endpoint} ignores conditional writes, so two writers could both win; use a server that has "
            "them, such as MinIO, Ceph 20 or AWS."
        )

    # ------------------------------------------------------------------------------------------------- read

    def head(self, key: str) -> Stored:
        with s3_errors(self._place, key):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=self._full_key(key))
            except ClientError as error:
                if error.response["Error"]["Code"] == "404":
                    self._raise_if_bucket_missing()
                raise
        return _stored(answer)

    def _raise_if_bucket_missing(self) -> None:
        """A HEAD has no body that could tell a missing object from a missing bucket."""
        try:
            self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("404", "NoSuchBucket"):
                raise bucket_missing(self._place) from None
            raise

    def get(self, key: str, byte_range: tuple[int, int] | None = None) -> bytes:
        if byte_range is None:
            return self.read(key)[0]
        if byte_range[1] <= byte_range[0]:
            return b""
        buffer = bytearray(byte_range[1] - byte_range[0])
        with s3_errors(self._place, key):
            self._fetch(key, memoryview(buffer), Range=_range(*byte_range))
        return bytes(buffer)

    def read(self, key: str) -> tuple[bytes, Stored]:
        with s3_errors(self._place, key):
            buffer, stored = self._fetch_whole(key)
        require_crc(key, found=crc32c_of(buffer), wanted=stored.crc32c)
        return bytes(buffer), stored

    def get_into(self, key: str, buffer: memoryview) -> Stored:
        with s3_errors(self._place, key):
            stored = self._read_ranges(key, buffer) if buffer.nbytes > PART_BYTES else self._read_one(key, buffer)
        require_crc(key, found=crc32c_of(buffer), wanted=stored.crc32c)
        return stored

    def _read_one(self, key: str, buffer: memoryview) -> Stored:
        return _stored(self._fetch(key, buffer))

    def _read_ranges(self, key: str, buffer: memoryview) -> Stored:
        stored = self.head(key)
        _require_size(key, stored.size_bytes, buffer.nbytes)

        def fetch(start: int) -> None:
            stop = min(start + PART_BYTES, buffer.nbytes)
            # If-Match: all ranges must be of the same version.
            self._fetch(key, buffer[start:stop], Range=_range(start, stop), IfMatch=stored.etag)

        _all_of([_pool().submit(fetch, start) for start in range(0, buffer.nbytes, PART_BYTES)])
        return stored

    def _fetch(self, key: str, buffer: memoryview, **more: str) -> Any:
        """Fills the buffer from one answer. boto3 tries a request again, but not a body that broke off: we do."""
        for tries_left in reversed(range(BODY_TRIES_MAX)):
            answer = self._open(key, **more)
            _require_size(key, int(answer["ContentLength"]), buffer.nbytes)
            try:
                _fill(answer["Body"], buffer, key)
                return answer
            except BROKEN_BODY:
                if not tries_left:
                    raise
        raise AssertionError("the loop returns or raises")

    def _fetch_whole(self, key: str) -> tuple[bytearray, Stored]:
        """For small objects of unknown size, such as pointers and manifests."""
        for tries_left in reversed(range(BODY_TRIES_MAX)):
            answer = self._open(key)
            buffer = bytearray(int(answer["ContentLength"]))
            try:
                _fill(answer["Body"], memoryview(buffer), key)
                return buffer, _stored(answer)
            except BROKEN_BODY:
                if not tries_left:
                    raise
        raise AssertionError("the loop returns or raises")

    def _open(self, key: str, **more: str) -> Any:
        return self._client.get_object(Bucket=self._bucket, Key=self._full_key(key), **more)

    def list(self, prefix: str = "") -> Iterator[Listed]:
        pages = self._client.get_paginator("list_objects_v2")
        with s3_errors(self._place, prefix):
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix):
                for entry in page.get("Contents", ()):
                    key = str(entry["Key"])[len(self._prefix) :]
                    yield Listed(key, entry["ETag"], int(entry["Size"]), entry["LastModified"].timestamp())

    def describe(self) -> dict[str, str]:
        return {
            "kind": "s3",
            "endpoint": self._place.endpoint,
            "bucket": self._bucket,
            "prefix": self._prefix.rstrip("/"),
        }

    def _full_key(self, key: str) -> str:
        return self._prefix + check_key(key)


def _stored(answer: Any) -> Stored:
    crc = answer.get("Metadata", {}).get(CRC_METADATA)
    return Stored(str(answer["ETag"]), int(answer["ContentLength"]), int(crc, 16) if crc else None)


def _range(start: int, stop: int) -> str:
    return f"bytes={start}-{stop - 1}"


def _fill(body: Any, buffer: memoryview, key: str) -> None:
    rest = buffer
    while rest:
        count = body.readinto(rest)
        if not count:
            _require_size(key, buffer.nbytes - rest.nbytes, buffer.nbytes)
        rest = rest[count:]


def _require_size(key: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ChecksumMismatch(
            f"{key} has {found} bytes where {wanted} were written; materialize its asset again, check the server."
        )


def _all_of(futures: list[Any]) -> list[Any]:
    """All results in order; after the first failure nothing of the rest may still touch the caller's buffer."""
    failures = [error for future in futures if (error := future.exception()) is not None]
    if failures:
        raise failures[0]
    return [future.result() for future in futures]
