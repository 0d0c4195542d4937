"""Where the core reads the stable part of the log from, and an implementation in memory.

The core only reads; the caller writes what a Ready carries. Methods with names of the past or imperatives
(`append`, `compact`) are the caller's, not part of the protocol.
"""

from __future__ import annotations

from typing import Protocol

from .errors import InvariantBroken, LogCompacted, LogUnavailable
from .messages import ConfState, Entry, HardState, Snapshot, SnapshotMetadata, limit_bytes


class LogStorage(Protocol):
    """The stable log as the core sees it. Indexes are those of the log; the first one follows the last compaction."""

    def initial_state(self) -> tuple[HardState, ConfState]:
        """What was stored before this start."""

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries in [low, high), at most `max_bytes` but at least one. Raises LogCompacted or LogUnavailable."""

    def term(self, index: int) -> int:
        """Term at `index`, from first_index() - 1 on. Raises LogCompacted or LogUnavailable."""

    def first_index(self) -> int:
        """Index of the first entry that is still there, or would be there if the log had one."""

    def last_index(self) -> int:
        """Index of the last entry, or of the snapshot when there is none after it."""

    def snapshot(self) -> Snapshot:
        """The latest snapshot. Raises SnapshotUnavailable when one is still being made."""


class MemoryLogStorage:
    """A log in memory. A node that keeps its log on disk too uses this one for reading.

    `_entries[0]` is no entry: it holds index and term of the last compacted one, so that an append can be matched
    against it.
    """

    __slots__ = ("_conf_state", "_entries", "_hard_state", "_snapshot")

    def __init__(self) -> None:
        self._hard_state = HardState()
        self._conf_state = ConfState()
        self._snapshot = Snapshot()
        self._entries: list[Entry] = [Entry()]

    # What the core reads.

    def initial_state(self) -> tuple[HardState, ConfState]:
        """The stored hard state, and the members of the latest snapshot."""
        return self._hard_state, self._snapshot.metadata.conf_state

    def entries(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries in [low, high), at most `max_bytes` but at least one. Raises LogCompacted or LogUnavailable."""
        offset = self._entries[0].index
        if low <= offset:
            raise LogCompacted(f"entry {low} is compacted; the log starts after {offset}")
        if high > offset + len(self._entries):
            raise LogUnavailable(f"entries up to {high - 1} were asked for; the log ends at {self.last_index()}")
        return limit_bytes(self._entries[low - offset : high - offset], max_bytes)

    def term(self, index: int) -> int:
        """Term at `index`. Raises LogCompacted or LogUnavailable."""
        position = index - self._entries[0].index
        if position < 0:
            raise LogCompacted(f"entry {index} is compacted")
        if position >= len(self._entries):
            raise LogUnavailable(f"entry {index} is past the end of the log")
        return self._entries[position].term

    def first_index(self) -> int:
        """Index after the last compacted entry."""
        return self._entries[0].index + 1

    def last_index(self) -> int:
        """Index of the last entry."""
        return self._entries[0].index + len(self._entries) - 1

    def snapshot(self) -> Snapshot:
        """The latest snapshot; index 0 when there was none."""
        return self._snapshot

    # What the caller writes.

    def set_hard_state(self, hard_state: HardState) -> None:
        """Store the hard state."""
        self._hard_state = hard_state

    def append(self, entries: list[Entry]) -> None:
        """Store entries; from the first new index on they replace what is there. Raises InvariantBroken on a gap."""
        if not entries:
            return
        first = self.first_index()
        if entries[-1].index < first:
            return
        if entries[0].index < first:
            entries = entries[first - entries[0].index :]
        position = entries[0].index - self._entries[0].index
        if position > len(self._entries):
            raise InvariantBroken(f"a gap in the log: it ends at {self.last_index()}, next is {entries[0].index}")
        self._entries[position:] = entries

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Replace the whole log by a snapshot. Raises InvariantBroken for one older than what is there."""
        metadata = snapshot.metadata
        if metadata.index <= self._snapshot.metadata.index:
            raise InvariantBroken(f"snapshot {metadata.index} is not newer than {self._snapshot.metadata.index}")
        self._snapshot = snapshot
        self._entries = [Entry(metadata.term, metadata.index)]

    def create_snapshot(self, index: int, conf_state: ConfState | None, data: bytes) -> Snapshot:
        """Keep a snapshot of the state machine as of `index`, to be handed to followers; the log stays as it is.

        `conf_state` None keeps the members of the snapshot before. Raises InvariantBroken for an index that is older
        than the last snapshot or not in the log.
        """
        if not self._snapshot.metadata.index < index <= self.last_index():
            raise InvariantBroken(
                f"no snapshot can be made at {index}: the last one is at {self._snapshot.metadata.index}, "
                f"the log ends at {self.last_index()}"
            )
        members = self._snapshot.metadata.conf_state if conf_state is None else conf_state
        self._snapshot = Snapshot(SnapshotMetadata(members, index, self.term(index)), data)
        return self._snapshot

    def compact(self, index: int) -> None:
        """Forget the entries up to `index`. Raises LogCompacted when they are gone, InvariantBroken past the end."""
        offset = self._entries[0].index
        if index <= offset:
            raise LogCompacted(f"the log is compacted up to {offset} already")
        if index > self.last_index():
            raise InvariantBroken(f"the log cannot be compacted to {index}: it ends at {self.last_index()}")
        kept = self._entries[index - offset :]
        kept[0] = Entry(kept[0].term, index)
        self._entries = kept
