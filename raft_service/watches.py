"""Who watches which tasks: marks what changed, and hands it out in the reader's own time.

A watch holds the ids of changed tasks, not events: a client that reads slowly gets several changes of a task as one,
and its memory here is bounded by the number of tasks that it watches. Ids stand in the order of their last change, so
after any part of them the watch knows an index up to which everything was told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from orchestrator_proto import task_pb2
from raft_service.machine import AppliedEntry
from raft_service.scheduler.ledger import Ledger

# Changed tasks that may wait for one reader. The ledger of a busy cluster holds some ten thousand; a reader that far
# behind is told to come back, which it does by its index.
CHANGED_MAX = 100_000
# Watches of one node: some per client, and clients in the hundreds.
WATCHES_MAX = 10_000


class TaskWatch:
    """One watch. The session reads it with `take` after `on_change` was called."""

    def __init__(self, ledger: Ledger, prefix: str, from_index: int, *, on_change: Callable[[], None]) -> None:
        """Starts with all tasks that changed after from_index."""
        self.prefix = prefix
        self.is_overflown = False
        self._ledger = ledger
        self._on_change = on_change
        self._told_index = from_index
        # The first events are sent even when empty: they say that the watch is open.
        self._owes_first = True
        changed = [task for task in ledger.tasks_with_prefix(prefix) if task.changed_index > from_index]
        changed.sort(key=lambda task: (task.changed_index, task.task_id))
        self._changed: dict[str, None] = dict.fromkeys(task.task_id for task in changed)

    def mark(self, task_id: str) -> None:
        """Notes that a task changed."""
        self._changed.pop(task_id, None)
        self._changed[task_id] = None
        self.is_overflown = self.is_overflown or len(self._changed) > CHANGED_MAX
        self._on_change()

    def take(self, *, bytes_max: int) -> task_pb2.WatchEvents | None:
        """The next events, at most about bytes_max large, or None when there is nothing to tell."""
        if not self._changed and not self._owes_first:
            return None
        self._owes_first = False
        events = task_pb2.WatchEvents()
        size = 0
        while self._changed and size < bytes_max:
            task_id = next(iter(self._changed))
            del self._changed[task_id]
            task = self._ledger.task(task_id)
            if task is None:
                continue  # forgotten meanwhile: it had ended long before
            view = task.to_view(with_payload=True)
            view.spec.ClearField("payload")  # the watcher wants the result; the payload may be large
            events.tasks.append(view)
            size += view.ByteSize()
        self._told_index = max(self._told_index, self._index_told())
        events.index = self._told_index
        return events

    def _index_told(self) -> int:
        for task_id in self._changed:
            task = self._ledger.task(task_id)
            if task is not None:
                return task.changed_index - 1
        return self._ledger.applied_index


class Watches:
    """All watches of a node, found by the prefix of what changed."""

    def __init__(self, ledger: Ledger) -> None:
        """Starts with none."""
        self._ledger = ledger
        # Watches by prefix; dictionaries serve as sets that keep their order.
        self._by_prefix: dict[str, dict[TaskWatch, None]] = {}
        # How many prefixes there are of each length: few, for ids are made alike.
        self._lengths: Counter[int] = Counter()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def open(self, prefix: str, from_index: int, *, on_change: Callable[[], None]) -> TaskWatch | None:
        """A new watch, or None when there are WATCHES_MAX already."""
        if self._count >= WATCHES_MAX:
            return None
        watch = TaskWatch(self._ledger, prefix, from_index, on_change=on_change)
        if prefix not in self._by_prefix:
            self._by_prefix[prefix] = {}
            self._lengths[len(prefix)] += 1
        self._by_prefix[prefix][watch] = None
        self._count += 1
        return watch

    def close(self, watch: TaskWatch) -> None:
        """Ends a watch; ending it twice is allowed."""
        watches = self._by_prefix.get(watch.prefix, {})
        if watch not in watches:
            return
        del watches[watch]
        self._count -= 1
        if not watches:
            del self._by_prefix[watch.prefix]
            self._lengths[len(watch.prefix)] -= 1
            self._lengths = +self._lengths

    def applied(self, entry: AppliedEntry) -> None:
        """Marks what an entry changed."""
        for task_id in entry.changes.tasks:
            for length in self._lengths:
                for watch in self._by_prefix.get(task_id[:length], ()):
                    watch.mark(task_id)
