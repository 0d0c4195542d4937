"""What a crash may leave is cut; what a crash cannot leave is refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from wal_cases import entry, fill, open_wal, placed, segments

from raft_service.storage import record
from raft_service.storage.errors import DamagedLog


@pytest.fixture
def three_entries(tmp_path: Path) -> tuple[Path, int, int]:
    """A log of entries 1 to 3, each synced; where the last one's records start and end in the file."""
    wal, _ = open_wal(tmp_path, segment_bytes=4096)
    fill(wal, 1, 2)
    start = wal.info().bytes_used
    wal.save(entries=[entry(3, data=b"the last one")], must_sync=True)
    end = wal.info().bytes_used
    wal.close()
    return tmp_path, start, end


def test_torn_tail_is_cut_at_every_byte(three_entries: tuple[Path, int, int], caplog: pytest.LogCaptureFixture) -> None:
    directory, start, end = three_entries
    path = segments(directory)[0]
    whole = path.read_bytes()
    last_used = len(whole.rstrip(b"\0"))
    for cut in range(start, last_used):
        for torn in (whole[:cut], whole[:cut] + bytes(len(whole) - cut)):
            path.write_bytes(torn)
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                wal, recovered = open_wal(directory, segment_bytes=4096)
            assert placed(recovered) == [(1, 1), (2, 1)], f"cut at byte {cut - start} of the record"
            has_rest = bool(torn[start:].strip(b"\0"))
            assert has_rest == ("unfinished" in caplog.text), f"cut at byte {cut - start}"
            wal.save(entries=[entry(3, term=2)], must_sync=True)
            wal.close()
            wal, recovered = open_wal(directory, segment_bytes=4096)
            assert placed(recovered) == [(1, 1), (2, 1), (3, 2)]
            wal.close()
    assert last_used <= end


def test_flipped_bit_anywhere_in_durable_records_is_refused(three_entries: tuple[Path, int, int]) -> None:
    directory, _, end = three_entries
    path = segments(directory)[0]
    whole = path.read_bytes()
    wal, recovered = open_wal(directory, segment_bytes=4096)
    wal.close()
    for position in range(end):
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        path.write_bytes(flipped)
        try:
            wal, again = open_wal(directory, segment_bytes=4096)
        except DamagedLog:
            continue
        wal.close()
        assert again == recovered, f"byte {position} changed what the log says, and nobody noticed"


def test_lost_sector_before_durable_records_is_refused(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path, segment_bytes=8192)
    fill(wal, 1, 40)
    wal.close()
    path = segments(tmp_path)[0]
    whole = path.read_bytes()
    for sector in range(1, len(whole.rstrip(b"\0")) // 512):
        path.write_bytes(whole[: 512 * sector] + bytes(512) + whole[512 * (sector + 1) :])
        with pytest.raises(DamagedLog):
            open_wal(tmp_path, segment_bytes=8192)


def test_second_part_of_a_torn_group_does_not_come_back(tmp_path: Path) -> None:
    """The sector with entry 3 did not arrive, the next with entry 4 did; then a new entry 3 ends just before it."""
    wal, _ = open_wal(tmp_path, segment_bytes=8192)
    fill(wal, 1, 2)
    start = wal.info().bytes_used
    hole = 1024 - start
    third = next(one for one in (entry(3, data=bytes(n)) for n in range(1024)) if record.size_of(len(one.data)) == hole)
    wal.save(entries=[third, entry(4), entry(5)], must_sync=False)
    wal.close()
    path = segments(tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + bytes(hole) + whole[1024:])
    wal, recovered = open_wal(tmp_path, segment_bytes=8192)
    assert placed(recovered) == [(1, 1), (2, 1)]
    wal.save(entries=[third], must_sync=True)
    wal.close()
    wal, recovered = open_wal(tmp_path, segment_bytes=8192)
    assert placed(recovered) == [(1, 1), (2, 1), (3, 1)]
    wal.close()


def test_damage_in_an_older_segment_is_refused(tmp_path: Path) -> None:
    wal, _ = open_wal(tmp_path)
    fill(wal, 1, 60)
    wal.close()
    path = segments(tmp_path)[1]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedLog, match=r"damaged at byte .* empty its RAFT_DATA_DIR"):
        open_wal(tmp_path)


def test_record_says_what_it_holds() -> None:
    for size in (0, 1, 7, 8, 1000):
        payload = bytes(range(256)) * 4
        data = record.encode(record.RecordType.ENTRY, payload[:size], durable=77)
        assert len(data) == record.size_of(size)
        assert len(data) % 8 == 0
        found = record.decode(data, 0)
        assert found == record.Record(record.RecordType.ENTRY, payload[:size], 77, len(data))
        assert record.decode(data, len(data)) is None
