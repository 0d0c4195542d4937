"""The log of one node: the stable part in the storage and the unstable tail as one, with the indexes that mark it.

    compacted | ........ applied ........ applying ........ committed ........ last
              first

`applied <= applying <= committed`: entries up to `applying` were handed out in a Ready, those up to `applied` were
reported applied. The commit index never goes back, and an entry at or below it is never replaced: both are checked
here, also under `python -O`, because a break means lost data.
"""

from __future__ import annotations

from collections.abc import Callable

from .errors import InvariantBroken, LogCompacted, LogUnavailable
from .log_storage import LogStorage
from .messages import Entry, Snapshot, entries_bytes, limit_bytes
from .unstable import Unstable


class RaftLog:
    """The whole log, as the core works with it."""

    __slots__ = (
        "_applying_bytes",
        "_is_applying_paused",
        "_max_applying_bytes",
        "_trace",
        "applied",
        "applying",
        "committed",
        "storage",
        "unstable",
    )

    def __init__(
        self, storage: LogStorage, *, max_applying_bytes: int, trace: Callable[[str], None] | None = None
    ) -> None:
        """`max_applying_bytes` bounds the committed entries that are handed out and not yet applied."""
        self.storage = storage
        self.unstable = Unstable(storage.last_index() + 1)
        self.committed = self.applying = self.applied = storage.first_index() - 1
        self._max_applying_bytes = max_applying_bytes
        self._applying_bytes = 0
        self._is_applying_paused = False
        self._trace = trace

    # Where the log begins and ends.

    def first_index(self) -> int:
        """Index of the first entry that is not compacted."""
        index = self.unstable.first_index()
        return self.storage.first_index() if index is None else index

    def last_index(self) -> int:
        """Index of the last entry, stable or not."""
        index = self.unstable.last_index()
        return self.storage.last_index() if index is None else index

    def last_term(self) -> int:
        """Term of the last entry."""
        return self.term(self.last_index())

    def term(self, index: int) -> int:
        """Term at `index`, from first_index() - 1 on. Raises LogCompacted or LogUnavailable."""
        term = self.unstable.term(index)
        if term is not None:
            return term
        if index + 1 < self.first_index():
            raise LogCompacted(f"entry {index} is compacted")
        if index > self.last_index():
            raise LogUnavailable(f"entry {index} is past the end of the log")
        return self.storage.term(index)

    def term_or_zero(self, index: int) -> int:
        """Term at `index`; 0 when it is compacted or past the end."""
        try:
            return self.term(index)
        except (LogCompacted, LogUnavailable):
            # Both mean "not known here", which no real term equals.
            return 0

    def matches(self, index: int, term: int) -> bool:
        """True when the entry at `index` is there and has `term`."""
        try:
            return self.term(index) == term
        except (LogCompacted, LogUnavailable):
            # An entry that is not there matches nothing.
            return False

    def is_up_to_date(self, *, index: int, term: int) -> bool:
        """True when a log that ends so is at least as complete as this one (Raft paper, 5.4.1)."""
        last_term = self.last_term()
        return term > last_term or (term == last_term and index >= self.last_index())

    # Appending.

    def append(self, entries: list[Entry]) -> int:
        """Append, replacing what is there from the first new index on; returns the last index.

        Raises InvariantBroken when a committed entry would be replaced.
        """
        if entries:
            if entries[0].index <= self.committed:
                raise InvariantBroken(f"entry {entries[0].index} is committed (up to {self.committed})")
            self.unstable.truncate_and_append(entries)
        return self.last_index()

    def maybe_append(self, *, prev_index: int, prev_term: int, entries: list[Entry], commit: int) -> int | None:
        """A leader's append: returns the last index that now matches, or None when the logs do not meet."""
        if not self.matches(prev_index, prev_term):
            return None
        last_new = prev_index + len(entries)
        conflict = self._find_conflict(entries)
        if conflict is not None:
            if conflict <= self.committed:
                raise InvariantBroken(f"entry {conflict} conflicts with a committed entry (up to {self.committed})")
            self.append(entries[conflict - prev_index - 1 :])
        self.commit_to(min(commit, last_new))
        return last_new

    def _find_conflict(self, entries: list[Entry]) -> int | None:
        """Index of the first entry that is not in the log like this; None when all are.

        Only a real conflict may cut the log: an old append that arrives late must not drop entries that came after.
        """
        for entry in entries:
            if not self.matches(entry.index, entry.term):
                if self._trace is not None and entry.index <= self.last_index():
                    self._trace(f"entry {entry.index} of term {entry.term} replaces another from there on")
                return entry.index
        return None

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The last (index, term) at or before `index` whose term is at most `term`: where two logs may still meet.

        The term is 0 where it is not known (compacted or past the end); that index is returned as a guess.
        """
        while index > 0:
            try:
                own = self.term(index)
            except (LogCompacted, LogUnavailable):
                # Not known here, so a match cannot be excluded.
                return index, 0
            if own <= term:
                return index, own
            index -= 1
        return 0, 0

    def restore(self, snapshot: Snapshot) -> None:
        """Replace the log by a snapshot."""
        self.committed = snapshot.metadata.index
        self.unstable.restore(snapshot)

    # Committing and applying.

    def commit_to(self, index: int) -> None:
        """Move the commit index up to `index`. Raises InvariantBroken past the end of the log: entries were lost."""
        if index > self.committed:
            if index > self.last_index():
                raise InvariantBroken(
                    f"commit index {index} is past the last entry {self.last_index()}: was the log damaged or lost?"
                )
            self.committed = index

    def maybe_commit(self, *, index: int, term: int) -> bool:
        """Commit up to `index` if it is of `term`, the leader's own: older ones only follow (Raft paper, 5.4.2)."""
        if index > self.committed and term != 0 and self.term_or_zero(index) == term:
            self.commit_to(index)
            return True
        return False

    def next_committed_entries(self) -> list[Entry]:
        """Committed entries to hand out next, within the applying limit; none before a pending snapshot is applied."""
        if not self.has_next_committed_entries():
            return []
        return self.slice(self.applying + 1, self.committed + 1, self._max_applying_bytes - self._applying_bytes)

    def has_next_committed_entries(self) -> bool:
        """True when `next_committed_entries` is not empty."""
        return self.applying < self.committed and not self._is_applying_paused and self.unstable.snapshot is None

    def accept_applying(self, index: int, size: int) -> None:
        """Committed entries up to `index`, of `size` bytes, were handed out."""
        self.applying = index
        self._applying_bytes += size
        # Cut short by the limit: wait for the application, even if a few small entries would still fit.
        self._is_applying_paused = self._applying_bytes >= self._max_applying_bytes or index < self.committed

    def applied_to(self, index: int, size: int) -> None:
        """Entries up to `index`, of `size` bytes, were applied. Raises InvariantBroken when it goes back or too far."""
        if not self.applied <= index <= self.committed:
            raise InvariantBroken(f"applied {index} is not between {self.applied} and committed {self.committed}")
        self.applied = index
        self.applying = max(self.applying, index)
        self._applying_bytes = max(0, self._applying_bytes - size)
        self._is_applying_paused = self._applying_bytes >= self._max_applying_bytes

    # Reading.

    def entries(self, low: int, max_bytes: int) -> list[Entry]:
        """Entries from `low` on, at most `max_bytes` but at least one if there is one. Raises LogCompacted."""
        last = self.last_index()
        return [] if low > last else self.slice(low, last + 1, max_bytes)

    def slice(self, low: int, high: int, max_bytes: int) -> list[Entry]:
        """Entries in [low, high), at most `max_bytes` but at least one. Raises LogCompacted, InvariantBroken."""
        if low < self.first_index():
            raise LogCompacted(f"entry {low} is compacted")
        offset = self.unstable.offset
        if low >= offset:
            return limit_bytes(self.unstable.slice(low, high), max_bytes)
        cut = min(high, offset)
        stable = self.storage.entries(low, cut, max_bytes)
        if high <= offset or len(stable) < cut - low:
            return stable
        left = max_bytes - entries_bytes(stable)
        tail = self.unstable.slice(offset, high) if left > 0 else []
        tail = limit_bytes(tail, left)
        if len(tail) == 1 and entries_bytes(tail) > left:
            # The rule "at least one" holds for the whole answer, not for each half.
            return stable
        return stable + tail

    def snapshot(self) -> Snapshot:
        """The latest snapshot. Raises SnapshotUnavailable."""
        return self.storage.snapshot() if self.unstable.snapshot is None else self.unstable.snapshot
