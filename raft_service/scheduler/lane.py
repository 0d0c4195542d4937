"""One line of waiting tasks that are alike in priority, fair share and demand: first come, first served."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from orchestrator_proto import ledger_pb2 as pb

from .demand import Demand
from .wishes import Wishes

# Who shares with whom: runs with runs and steps with steps, for they do not compete for the same slots.
ShareKey = tuple[pb.TaskKind, str]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that waits for a worker, with all that placing it needs."""

    task_id: str
    arrival: int
    priority: int
    share_key: ShareKey
    demand: Demand
    wishes: Wishes
    # Workers that lost or returned an attempt of it: others are tried first.
    avoid: frozenset[str] = frozenset()


# A heap may hold this many removed entries more than live ones before it is rebuilt.
_STALE_MAX = 64


class Lane:
    """Waiting tasks by arrival. Removal is lazy: a removed task's entry is dropped when it comes to the front."""

    def __init__(self) -> None:
        """An empty lane."""
        self._members: dict[str, Waiting] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._members)

    def add(self, waiting: Waiting) -> None:
        """Enters a task at its place by arrival."""
        self._members[waiting.task_id] = waiting
        heapq.heappush(self._heap, (waiting.arrival, waiting.task_id))

    def remove(self, task_id: str) -> None:
        """Takes a member out."""
        del self._members[task_id]
        if len(self._heap) > 2 * len(self._members) + _STALE_MAX:
            self._heap = [(waiting.arrival, waiting.task_id) for waiting in self._members.values()]
            heapq.heapify(self._heap)

    def head(self) -> Waiting | None:
        """The member that arrived first, or None when the lane is empty."""
        while self._heap:
            arrival, task_id = self._heap[0]
            waiting = self._members.get(task_id)
            if waiting is not None and waiting.arrival == arrival:
                return waiting
            heapq.heappop(self._heap)
        return None
