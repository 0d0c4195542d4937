"""The log against the plainest model: a list, a hard state and a set of snapshots."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from orchestrator_proto import raft_pb2
from raft_service.storage.wal import EncodedEntry, Wal


class WalMachine(RuleBasedStateMachine):
    """Saves, replaces, takes snapshots and restarts in any order; after each restart disk and model agree."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.terms: list[int] = []  # terms[i] is the term of entry base + i + 1
        self.base = 0
        self.base_term = 0
        self.hard_state: raft_pb2.HardState | None = None
        self.term = 1

    @property
    def last(self) -> int:
        return self.base + len(self.terms)

    @initialize()
    def open(self) -> None:
        self.wal, recovered = Wal.open(self.directory, cluster_id="c", node_id=1, segment_bytes=700)
        floor = recovered.snapshot.metadata.index if recovered.snapshot else 0
        assert floor == self.base
        assert [one.index for one in recovered.entries] == list(range(self.base + 1, self.last + 1))
        assert [one.term for one in recovered.entries] == self.terms
        assert recovered.hard_state == self.hard_state

    @rule(count=st.integers(1, 6), size=st.integers(0, 400), must_sync=st.booleans(), votes=st.booleans())
    def append(self, count: int, size: int, must_sync: bool, votes: bool) -> None:
        entries = [self._entry(self.last + 1 + offset, size) for offset in range(count)]
        if votes:
            self.hard_state = raft_pb2.HardState(term=self.term, vote=1, commit=self.base)
        self.wal.save(hard_state=self.hard_state if votes else None, entries=entries, must_sync=must_sync)
        self.terms += [self.term] * count

    @precondition(lambda self: self.terms)
    @rule(back=st.integers(0, 20))
    def replace(self, back: int) -> None:
        self.term += 1
        kept = max(0, len(self.terms) - 1 - back)
        self.wal.save(entries=[self._entry(self.base + kept + 1, 10)], must_sync=True)
        self.terms = [*self.terms[:kept], self.term]

    @precondition(lambda self: self.terms)
    @rule(part=st.floats(0, 1))
    def own_snapshot(self, part: float) -> None:
        covered = max(1, round(part * len(self.terms)))
        index, term = self.base + covered, self.terms[covered - 1]
        self.wal.save_snapshot(raft_pb2.SnapshotMetadata(index=index, term=term), b"own")
        self.base, self.base_term, self.terms = index, term, self.terms[covered:]

    @rule(ahead=st.integers(1, 50))
    def snapshot_of_leader(self, ahead: int) -> None:
        self.term += 1
        index = self.last + ahead
        self.wal.save_snapshot(raft_pb2.SnapshotMetadata(index=index, term=self.term), b"leader's")
        self.base, self.base_term, self.terms = index, self.term, []

    @rule()
    def restart(self) -> None:
        self.wal.close()
        self.open()

    @invariant()
    def files_are_bounded(self) -> None:
        assert len(list((self.directory / "snapshots").glob("*"))) <= 2

    def teardown(self) -> None:
        self.restart()
        self.wal.close()
        shutil.rmtree(self.directory)

    def _entry(self, index: int, size: int) -> EncodedEntry:
        wire = raft_pb2.Entry(index=index, term=self.term, data=bytes(size))
        return EncodedEntry(index, self.term, wire.SerializeToString())


TestWal = WalMachine.TestCase
TestWal.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
