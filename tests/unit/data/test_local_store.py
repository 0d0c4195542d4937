"""The local store: whole objects only, checked, and one winner when several write."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator_pkg.store import (
    AccessDenied,
    BadKey,
    BucketMissing,
    ChecksumMismatch,
    LocalStore,
    ObjectMissing,
    PreconditionFailed,
)
from orchestrator_pkg.store.base import crc32c_of
from orchestrator_pkg.store.file import ObjectFile

NOBODY = 65534


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_gives_back_what_was_put(store: LocalStore) -> None:
    stored = store.put("a/b.bin", [b"one", b"", memoryview(b"two")])
    assert store.get("a/b.bin") == b"onetwo"
    assert store.head("a/b.bin") == stored
    assert stored.crc32c == crc32c_of(b"onetwo")
    assert store.get("a/b.bin", (1, 4)) == b"net"


def test_crc32c_has_its_check_value() -> None:
    assert crc32c_of(b"123456789") == 0xE3069283
    assert crc32c_of([b"1234", b"56789"]) == 0xE3069283


def test_reads_into_a_buffer(store: LocalStore) -> None:
    store.put("k", b"12345678")
    buffer = bytearray(8)
    store.get_into("k", memoryview(buffer))
    assert bytes(buffer) == b"12345678"
    with pytest.raises(ChecksumMismatch, match="8 bytes where 9"):
        store.get_into("k", memoryview(bytearray(9)))


def test_finds_damage_that_keeps_size_and_time(store: LocalStore) -> None:
    store.put("k", b"12345678")
    path = store.root / "k"
    before = path.stat()
    path.write_bytes(b"1234567X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ChecksumMismatch, match="damaged"):
        store.get("k")
    with pytest.raises(ChecksumMismatch, match="damaged"):
        store.get_into("k", memoryview(bytearray(8)))


def test_a_file_put_by_hand_is_readable_without_checksum(store: LocalStore) -> None:
    store.put("raw/other", b"x")
    (store.root / "raw" / "mine.parquet").write_bytes(b"abc")
    assert store.get("raw/mine.parquet") == b"abc"
    assert store.head("raw/mine.parquet").crc32c is None


def test_missing_object_says_what_to_do(store: LocalStore) -> None:
    for call in (store.get, store.head):
        with pytest.raises(ObjectMissing, match="materialize the asset"):
            call("nowhere/k")
    assert not store.exists("nowhere/k")
    store.delete("nowhere/k")


def test_conditions(store: LocalStore) -> None:
    first = store.put("k", b"1", if_absent=True)
    with pytest.raises(PreconditionFailed, match="exists already"):
        store.put("k", b"2", if_absent=True)
    second = store.compare_and_swap("k", b"2", expected_etag=first.etag)
    with pytest.raises(PreconditionFailed, match="replaced by another"):
        store.compare_and_swap("k", b"3", expected_etag=first.etag)
    assert store.get("k") == b"2"
    assert second.etag != first.etag


def test_equal_bytes_written_at_once_are_still_two_versions(store: LocalStore) -> None:
    etags = {store.put("k", b"same").etag for _ in range(50)}
    assert len(etags) == 50


def test_one_of_many_swappers_wins(store: LocalStore) -> None:
    base = store.put("k", b"0")
    winners: list[int] = []

    def swap(number: int) -> None:
        try:
            store.compare_and_swap("k", str(number).encode(), expected_etag=base.etag)
            winners.append(number)
        except PreconditionFailed:
            pass  # what all but one must see

    threads = [threading.Thread(target=swap, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert store.get("k") == str(winners[0]).encode()


def test_readers_never_see_a_mixture(store: LocalStore) -> None:
    store.put("k", b"a" * 100_000)
    stop = threading.Event()

    def overwrite() -> None:
        for letter in b"bcdefghij" * 3:
            store.put("k", bytes([letter]) * 100_000)
        stop.set()

    writer = threading.Thread(target=overwrite)
    writer.start()
    while not stop.is_set():
        assert len(set(store.get("k"))) == 1
    writer.join()


def test_a_failed_write_leaves_nothing(store: LocalStore) -> None:
    store.put("k", b"old")

    class Unreadable:
        """A sequence whose second piece fails."""

        def __iter__(self):  # type: ignore[no-untyped-def]
            yield b"new"
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        store.put("k", Unreadable())  # type: ignore[arg-type]
    assert store.get("k") == b"old"
    assert list((store.root / ".tmp").iterdir()) == []


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/..", "a/.hidden", "a\nb", "x" * 901, "a/"])
def test_refuses_keys_that_leave_the_folder(store: LocalStore, key: str) -> None:
    with pytest.raises(BadKey):
        store.put(key, b"x")


def test_lists_by_prefix_in_order(store: LocalStore) -> None:
    for key in ("raw/b", "raw/a/x", "raw2/z", "other"):
        store.put(key, key.encode())
    assert [entry.key for entry in store.list("raw/")] == ["raw/a/x", "raw/b"]
    assert [entry.key for entry in store.list("raw")] == ["raw/a/x", "raw/b", "raw2/z"]
    assert [entry.key for entry in store.list()] == ["other", "raw/a/x", "raw/b", "raw2/z"]
    assert next(iter(store.list("other"))).etag == store.head("other").etag
    assert list(LocalStore(store.root / "none").list()) == []


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BucketMissing, match="STORE_DIR"):
        LocalStore(tmp_path / "file").put("k", b"x")


@pytest.fixture
def not_root() -> Iterator[None]:
    """Root may write anywhere, so for the test it becomes somebody who may not."""
    before = os.geteuid()
    os.seteuid(NOBODY if before == 0 else before)
    yield
    os.seteuid(before)


@pytest.mark.usefixtures("not_root")
def test_a_folder_of_somebody_else() -> None:
    with pytest.raises(AccessDenied, match="STORE_DIR"):
        LocalStore(Path("/") / "of-root").put("k", b"x")


def test_object_as_a_file(store: LocalStore) -> None:
    store.put("k", json.dumps({"a": 1}).encode())
    with ObjectFile(store, "k") as file:
        assert json.loads(file.read()) == {"a": 1}
        assert file.seek(-1, os.SEEK_END) == 7
        assert file.read(10) == b"}"
        assert file.read() == b""
    with pytest.raises(ObjectMissing):
        ObjectFile(store, "none")
