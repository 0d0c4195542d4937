"""Which ended tasks may be forgotten: the leader's memory of when each ended.

An ended task is kept for a while for people, and for as long as its parent goes on, so that a repeated submit of it is
still answered with the first outcome. Memory stays bounded: the oldest go early when there are too many.
"""

from __future__ import annotations

from collections import deque

from .ledger import Ledger
from .task import Task

# How long people may look at an ended task.
KEEP_MS = 15 * 60 * 1000

# Ended tasks kept at most, whatever their age. At a few KiB each this stays in the tens of MiB.
KEPT_MAX = 20_000

# Tasks forgotten by one entry; the rest follows in the next.
FORGET_MAX = 1_000


class Retention:
    """Ended tasks in the order in which they may go."""

    def __init__(self, ledger: Ledger, *, keep_ms: int, kept_max: int) -> None:
        """Looks at every task once."""
        self._ledger = ledger
        self._keep_ms = keep_ms
        self._kept_max = kept_max
        # (time from which the age counts, id); times never fall from left to right.
        self._queue: deque[tuple[int, str]] = deque()
        # Ended tasks that wait for their parent's end, by parent.
        self._held: dict[str, list[str]] = {}
        ended = [task for task in ledger.tasks() if task.is_ended]
        for task in sorted(ended, key=lambda task: (task.ended_at_ms, task.task_id)):
            self.note_ended(task)

    def note_ended(self, task: Task) -> None:
        """Takes in a task that has just ended, and its children that waited for that."""
        parent = self._ledger.task(task.spec.parent_task_id)
        if parent is not None and not parent.is_ended:
            self._held.setdefault(parent.task_id, []).append(task.task_id)
        else:
            self._queue.append((task.ended_at_ms, task.task_id))
        for task_id in self._held.pop(task.task_id, ()):
            self._queue.append((task.ended_at_ms, task_id))

    def to_forget(self, now_ms: int) -> list[str]:
        """At most FORGET_MAX tasks that may go now, oldest first; the same ones again until they are gone.

        Args:
            now_ms: leader time.
        """
        while self._queue and self._ledger.task(self._queue[0][1]) is None:
            self._queue.popleft()
        surplus = len(self._queue) - self._kept_max
        found: list[str] = []
        for place, (ended_at_ms, task_id) in enumerate(self._queue):
            is_due = ended_at_ms + self._keep_ms <= now_ms or place < surplus
            if not is_due or len(found) == FORGET_MAX:
                break
            if self._ledger.task(task_id) is not None:
                found.append(task_id)
        return found
