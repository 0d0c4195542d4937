"""The tail of the log, and perhaps a snapshot, that the storage does not hold yet.

`entries[i]` has index `offset + i`. Entries below `in_progress` were handed out in a Ready and are being written; the
rest were not. A new leader may replace entries that are already in the storage: then `offset` lies below the storage's
last index, and what is here wins.
"""

from __future__ import annotations

from .errors import InvariantBroken
from .messages import Entry, Snapshot


class Unstable:
    """Entries and snapshot on their way to the storage."""

    __slots__ = ("entries", "in_progress", "is_snapshot_in_progress", "offset", "snapshot")

    def __init__(self, offset: int) -> None:
        self.entries: list[Entry] = []
        self.offset = offset
        # Index of the first entry that no Ready has handed out.
        self.in_progress = offset
        self.snapshot: Snapshot | None = None
        self.is_snapshot_in_progress = False

    def first_index(self) -> int | None:
        """Index after the pending snapshot; None without one."""
        return None if self.snapshot is None else self.snapshot.metadata.index + 1

    def last_index(self) -> int | None:
        """Last index that is here; None when nothing is."""
        if self.entries:
            return self.offset + len(self.entries) - 1
        return None if self.snapshot is None else self.snapshot.metadata.index

    def term(self, index: int) -> int | None:
        """Term of the entry at `index`; None when it is not here."""
        position = index - self.offset
        if position >= 0:
            return self.entries[position].term if position < len(self.entries) else None
        if self.snapshot is not None and self.snapshot.metadata.index == index:
            return self.snapshot.metadata.term
        return None

    def next_entries(self) -> list[Entry]:
        """Entries that no Ready has handed out yet."""
        return self.entries[self.in_progress - self.offset :]

    def has_next_entries(self) -> bool:
        """True when `next_entries` is not empty."""
        return self.in_progress - self.offset < len(self.entries)

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot, if no Ready has handed it out yet."""
        return None if self.is_snapshot_in_progress else self.snapshot

    def accept_in_progress(self) -> None:
        """Note that everything here was handed out."""
        self.in_progress = self.offset + len(self.entries)
        if self.snapshot is not None:
            self.is_snapshot_in_progress = True

    def stable_to(self, *, index: int, term: int) -> None:
        """The storage holds everything up to `index`, whose term was `term`.

        A report about an entry that was replaced meanwhile (another term) or that is gone is ignored: the storage
        then holds the wrong entry and gets the right one with a later Ready.
        """
        if index < self.offset or self.term(index) != term:
            return
        del self.entries[: index + 1 - self.offset]
        self.offset = index + 1
        self.in_progress = max(self.in_progress, self.offset)

    def stable_snapshot_to(self, index: int) -> None:
        """The storage holds the snapshot of that index."""
        if self.snapshot is not None and self.snapshot.metadata.index == index:
            self.snapshot = None
            self.is_snapshot_in_progress = False

    def restore(self, snapshot: Snapshot) -> None:
        """Replace everything by a snapshot."""
        self.offset = snapshot.metadata.index + 1
        self.in_progress = self.offset
        self.entries = []
        self.snapshot = snapshot
        self.is_snapshot_in_progress = False

    def truncate_and_append(self, entries: list[Entry]) -> None:
        """Append, dropping whatever was here from the first new index on."""
        start = entries[0].index
        end = self.offset + len(self.entries)
        if start == end:
            self.entries.extend(entries)
        elif start <= self.offset:
            self.entries = list(entries)
            self.offset = start
            self.in_progress = start
        elif start < end:
            self.entries[start - self.offset :] = entries
            # What was being written from here on is void: the new entries must be handed out again.
            self.in_progress = min(self.in_progress, start)
        else:
            raise InvariantBroken(f"a gap in the log: entries end at {end - 1}, appended from {start}")

    def slice(self, low: int, high: int) -> list[Entry]:
        """Entries from `low` up to, but not including, `high`. Raises InvariantBroken when they are not here."""
        if not self.offset <= low <= high <= self.offset + len(self.entries):
            raise InvariantBroken(f"entries {low} to {high} are not in the unstable tail from {self.offset}")
        return self.entries[low - self.offset : high - self.offset]
