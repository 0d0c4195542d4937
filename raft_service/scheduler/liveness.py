"""Which workers' leases have run out: the leader's memory, on its own monotonic clock.

Heartbeats never enter the log. The leader only remembers when it heard from whom, and *proposes* LoseWorker when a
lease and its grace have passed; without a quorum that proposal declares nothing. Deadlines err on the late side: a
new leader, and one whose own loop stood still, give every worker one fresh lease, because silence that the leader did
not listen to says nothing about the worker. When many workers fall silent at once, the likelier cause is the leader
itself, so it must hear from a quorum before it may declare them.

`expired` tells a level, not an edge: a worker is named again and again until it is heard or forgotten. The caller
keeps track of what it has proposed. All times are ms of one monotonic clock, passed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

# More than this share of the workers, and at least so many, must be silent at once to make the leader doubt itself.
MASS_PERCENT = 30
MASS_MIN = 3

# Fresh leases that pauses may give a worker in a row without a heartbeat in between, or a leader that stutters would
# keep a dead worker for ever.
PAUSES_IN_A_ROW_MAX = 2


@dataclass(slots=True)
class _Watch:
    incarnation: int
    # When the lease began that counts: a heartbeat's arrival, or the grant of a fresh one.
    since_ms: int
    pauses: int = 0


class Liveness:
    """Deadlines of all workers. Costs nothing per worker while time passes."""

    def __init__(self, lease_ms: int, grace_ms: int, now_ms: int) -> None:
        """Watches nobody yet.

        Args:
            lease_ms: how long a worker may act after a heartbeat.
            grace_ms: how much later it is declared lost.
            now_ms: the clock now.
        """
        self._lease_ms = lease_ms
        self._grace_ms = grace_ms
        self._now_ms = now_ms
        self._watches: dict[str, _Watch] = {}
        # (deadline, id), one for each watch that is not silent; a heartbeat leaves it, and it is corrected when due.
        self._due: list[tuple[int, str]] = []
        # Workers past their deadline, in that order; True: a quorum was confirmed since, so it is not the leader.
        self._silent: dict[str, bool] = {}

    def new_leader(self, workers: Iterable[tuple[str, int]], now_ms: int) -> None:
        """Begins to lead: each worker, as (id, incarnation), gets one fresh lease; all else is forgotten."""
        self._watches.clear()
        self._due.clear()
        self._silent.clear()
        for worker_id, incarnation in workers:
            self.heard(worker_id, incarnation, now_ms)

    def heard(self, worker_id: str, incarnation: int, now_ms: int) -> None:
        """Notes a heartbeat or a registration; one of an older incarnation than known is ignored."""
        now_ms = self._advance(now_ms)
        watch = self._watches.get(worker_id)
        if watch is not None and incarnation < watch.incarnation:
            return
        is_scheduled = watch is not None and worker_id not in self._silent
        self._watches[worker_id] = _Watch(incarnation=incarnation, since_ms=now_ms)
        self._silent.pop(worker_id, None)
        if not is_scheduled:
            heapq.heappush(self._due, (self._deadline(worker_id), worker_id))

    def forget(self, worker_id: str) -> None:
        """Stops watching a worker, because it is lost or gone."""
        if self._watches.pop(worker_id, None) is not None and worker_id not in self._silent:
            self._due = [item for item in self._due if item[1] != worker_id]
            heapq.heapify(self._due)
        self._silent.pop(worker_id, None)

    def expired(self, now_ms: int) -> list[tuple[str, int]]:
        """(id, incarnation) of the workers to declare lost, longest silent first.

        While too many are silent at once, only those are named for which a quorum was confirmed.
        """
        self._collect(self._advance(now_ms))
        is_doubtful = self._is_mass()
        return [
            (worker_id, self._watches[worker_id].incarnation)
            for worker_id, is_confirmed in self._silent.items()
            if is_confirmed or not is_doubtful
        ]

    def needs_quorum(self, now_ms: int) -> bool:
        """True when workers are held back until confirm_quorum()."""
        self._collect(self._advance(now_ms))
        return self._is_mass()

    def confirm_quorum(self, now_ms: int) -> None:
        """Notes that a quorum answered after the present silence was seen: those silent now may be declared lost."""
        self._collect(self._advance(now_ms))
        self._silent = dict.fromkeys(self._silent, True)

    def paused(self, now_ms: int) -> None:
        """Notes that this process stood still until now and heard nobody: each worker gets one fresh lease.

        A worker that has had PAUSES_IN_A_ROW_MAX of them since its last heartbeat gets no more.
        """
        now_ms = self._advance(now_ms)
        for worker_id, watch in self._watches.items():
            if watch.pauses < PAUSES_IN_A_ROW_MAX:
                watch.pauses += 1
                watch.since_ms = now_ms
                if worker_id in self._silent:
                    del self._silent[worker_id]
                    heapq.heappush(self._due, (self._deadline(worker_id), worker_id))

    def lease_left_ms(self, worker_id: str, now_ms: int) -> int:
        """What is left of a worker's lease, without the grace; zero when it ran out or is not known."""
        watch = self._watches.get(worker_id)
        if watch is None:
            return 0
        return max(0, watch.since_ms + self._lease_ms - self._advance(now_ms))

    def heartbeat_age_ms(self, worker_id: str, now_ms: int) -> int:
        """Time since the last heartbeat, or since the fresh lease if none came after it; zero when not known."""
        watch = self._watches.get(worker_id)
        return self._advance(now_ms) - watch.since_ms if watch is not None else 0

    def _advance(self, now_ms: int) -> int:
        self._now_ms = max(self._now_ms, now_ms)
        return self._now_ms

    def _deadline(self, worker_id: str) -> int:
        return self._watches[worker_id].since_ms + self._lease_ms + self._grace_ms

    def _collect(self, now_ms: int) -> None:
        """Moves those past their deadline to the silent ones."""
        while self._due and self._due[0][0] <= now_ms:
            worker_id = self._due[0][1]
            deadline_ms = self._deadline(worker_id)
            if deadline_ms > now_ms:
                heapq.heapreplace(self._due, (deadline_ms, worker_id))
            else:
                heapq.heappop(self._due)
                self._silent[worker_id] = False

    def _is_mass(self) -> bool:
        doubtful = sum(not is_confirmed for is_confirmed in self._silent.values())
        return doubtful >= MASS_MIN and doubtful * 100 > MASS_PERCENT * len(self._watches)
