"""The log: storage in memory, the unstable tail, and the two as one."""

from __future__ import annotations

import pytest

from raft_service.raft.config import UNLIMITED
from raft_service.raft.errors import InvariantBroken, LogCompacted, LogUnavailable
from raft_service.raft.log import RaftLog
from raft_service.raft.log_storage import MemoryLogStorage
from raft_service.raft.messages import ENTRY_OVERHEAD_BYTES, ConfState, Entry, initial_snapshot
from raft_service.raft.unstable import Unstable


def entries(*terms: int, start: int = 1) -> list[Entry]:
    return [Entry(term, start + place) for place, term in enumerate(terms)]


def terms(log: RaftLog) -> list[int]:
    return [entry.term for entry in log.entries(log.first_index(), UNLIMITED)]


def make_log(*stable: int, unstable: tuple[int, ...] = ()) -> RaftLog:
    storage = MemoryLogStorage()
    storage.append(entries(*stable))
    log = RaftLog(storage, max_applying_bytes=UNLIMITED)
    if unstable:
        log.append(entries(*unstable, start=len(stable) + 1))
    return log


class TestMemoryLogStorage:
    def test_append_replaces_from_the_first_new_index(self) -> None:
        storage = MemoryLogStorage()
        storage.append(entries(1, 1, 1))
        storage.append(entries(2, start=2))
        assert [entry.term for entry in storage.entries(1, 3, UNLIMITED)] == [1, 2]
        assert storage.last_index() == 2

    def test_a_gap_is_refused(self) -> None:
        storage = MemoryLogStorage()
        with pytest.raises(InvariantBroken, match="gap"):
            storage.append(entries(1, start=3))

    def test_limits_never_starve(self) -> None:
        storage = MemoryLogStorage()
        storage.append(entries(1, 1, 1))
        assert len(storage.entries(1, 4, 0)) == 1
        assert len(storage.entries(1, 4, 2 * ENTRY_OVERHEAD_BYTES)) == 2

    def test_compaction_keeps_the_last_term(self) -> None:
        storage = MemoryLogStorage()
        storage.append(entries(1, 2, 3, 3))
        storage.compact(2)
        assert storage.first_index() == 3
        assert storage.term(2) == 2
        with pytest.raises(LogCompacted):
            storage.term(1)
        with pytest.raises(LogCompacted):
            storage.entries(2, 4, UNLIMITED)
        with pytest.raises(LogUnavailable):
            storage.entries(3, 6, UNLIMITED)
        with pytest.raises(LogCompacted):
            storage.compact(2)
        with pytest.raises(InvariantBroken):
            storage.compact(5)
        storage.append(entries(3, 4, start=2))
        assert [entry.term for entry in storage.entries(3, 4, UNLIMITED)] == [4]

    def test_snapshots(self) -> None:
        storage = MemoryLogStorage()
        storage.apply_snapshot(initial_snapshot((1, 2)))
        storage.append(entries(1, 2, start=2))
        made = storage.create_snapshot(3, None, b"state")
        assert (made.metadata.index, made.metadata.term, made.metadata.conf_state.voters) == (3, 2, (1, 2))
        assert storage.first_index() == 2
        with pytest.raises(InvariantBroken):
            storage.create_snapshot(2, ConfState(), b"")
        with pytest.raises(InvariantBroken):
            storage.apply_snapshot(initial_snapshot((1,)))


class TestUnstable:
    def test_entries_are_handed_out_once(self) -> None:
        unstable = Unstable(5)
        unstable.truncate_and_append(entries(1, 1, start=5))
        assert [entry.index for entry in unstable.next_entries()] == [5, 6]
        unstable.accept_in_progress()
        assert not unstable.has_next_entries()
        unstable.truncate_and_append(entries(1, start=7))
        assert [entry.index for entry in unstable.next_entries()] == [7]

    def test_replaced_entries_are_handed_out_again(self) -> None:
        unstable = Unstable(5)
        unstable.truncate_and_append(entries(1, 1, 1, start=5))
        unstable.accept_in_progress()
        unstable.truncate_and_append(entries(2, start=6))
        assert [(entry.term, entry.index) for entry in unstable.next_entries()] == [(2, 6)]
        unstable.truncate_and_append(entries(3, start=4))
        assert (unstable.offset, len(unstable.entries)) == (4, 1)

    def test_a_report_about_replaced_entries_is_ignored(self) -> None:
        unstable = Unstable(5)
        unstable.truncate_and_append(entries(1, 1, start=5))
        unstable.accept_in_progress()
        unstable.truncate_and_append(entries(2, 2, start=5))
        unstable.stable_to(index=6, term=1)
        assert len(unstable.entries) == 2
        unstable.accept_in_progress()
        unstable.stable_to(index=6, term=2)
        assert (unstable.entries, unstable.offset, unstable.in_progress) == ([], 7, 7)

    def test_a_snapshot_replaces_everything(self) -> None:
        unstable = Unstable(2)
        unstable.truncate_and_append(entries(1, start=2))
        unstable.restore(initial_snapshot((1,)))
        assert (unstable.first_index(), unstable.last_index(), unstable.term(1)) == (2, 1, 1)
        unstable.accept_in_progress()
        assert unstable.next_snapshot() is None
        unstable.stable_snapshot_to(1)
        assert unstable.snapshot is None

    def test_a_gap_is_refused(self) -> None:
        with pytest.raises(InvariantBroken, match="gap"):
            Unstable(5).truncate_and_append(entries(1, start=7))


class TestRaftLog:
    def test_up_to_date_compares_the_last_term_then_the_length(self) -> None:
        log = make_log(1, 2, 2)
        assert log.is_up_to_date(index=1, term=3)
        assert log.is_up_to_date(index=3, term=2)
        assert not log.is_up_to_date(index=2, term=2)
        assert not log.is_up_to_date(index=9, term=1)

    def test_an_append_that_does_not_meet_is_rejected(self) -> None:
        log = make_log(1, 1)
        assert log.maybe_append(prev_index=3, prev_term=1, entries=[], commit=0) is None
        assert log.maybe_append(prev_index=2, prev_term=2, entries=[], commit=0) is None

    def test_only_a_conflict_cuts_the_log(self) -> None:
        log = make_log(1, 1, unstable=(2, 2))
        assert log.maybe_append(prev_index=1, prev_term=1, entries=entries(1, start=2), commit=0) == 2
        assert terms(log) == [1, 1, 2, 2]
        assert log.maybe_append(prev_index=1, prev_term=1, entries=entries(1, 3, start=2), commit=0) == 3
        assert terms(log) == [1, 1, 3]

    def test_a_late_append_does_not_commit_what_it_does_not_know(self) -> None:
        log = make_log(1, 1, 1)
        log.maybe_append(prev_index=1, prev_term=1, entries=entries(1, start=2), commit=3)
        assert log.committed == 2

    def test_committed_entries_are_never_replaced(self) -> None:
        log = make_log(1, 1, unstable=(1,))
        log.commit_to(2)
        with pytest.raises(InvariantBroken):
            log.maybe_append(prev_index=1, prev_term=1, entries=entries(2, start=2), commit=2)
        with pytest.raises(InvariantBroken):
            log.append(entries(2, start=2))

    def test_committing_past_the_end_means_loss(self) -> None:
        with pytest.raises(InvariantBroken, match="lost"):
            make_log(1).commit_to(2)

    @pytest.mark.parametrize(
        ("index", "term", "found"),
        [
            (6, 5, (6, 5)),
            (6, 4, (4, 4)),
            (6, 3, (2, 2)),
            (3, 9, (3, 4)),
            (6, 1, (1, 1)),
            (6, 0, (0, 0)),
            (9, 4, (9, 0)),
        ],
    )
    def test_conflict_hint_skips_whole_terms(self, index: int, term: int, found: tuple[int, int]) -> None:
        assert make_log(1, 2, 4, unstable=(4, 5, 5)).find_conflict_by_term(index, term) == found

    def test_slices_span_both_parts_within_the_limit(self) -> None:
        log = make_log(1, 1, unstable=(2, 2))
        size = ENTRY_OVERHEAD_BYTES
        assert [entry.index for entry in log.slice(1, 5, UNLIMITED)] == [1, 2, 3, 4]
        assert [entry.index for entry in log.slice(1, 5, 3 * size)] == [1, 2, 3]
        assert [entry.index for entry in log.slice(2, 5, size)] == [2]
        assert [entry.index for entry in log.slice(2, 5, 0)] == [2]
        assert [entry.index for entry in log.slice(3, 5, 0)] == [3]

    def test_application_is_handed_out_within_the_limit(self) -> None:
        storage = MemoryLogStorage()
        storage.append(entries(1, 1, 1))
        log = RaftLog(storage, max_applying_bytes=2 * ENTRY_OVERHEAD_BYTES)
        log.commit_to(3)
        assert [entry.index for entry in log.next_committed_entries()] == [1, 2]
        log.accept_applying(2, 2 * ENTRY_OVERHEAD_BYTES)
        assert not log.has_next_committed_entries()
        log.applied_to(2, 2 * ENTRY_OVERHEAD_BYTES)
        assert [entry.index for entry in log.next_committed_entries()] == [3]
        with pytest.raises(InvariantBroken):
            log.applied_to(4, 0)
