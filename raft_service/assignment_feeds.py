"""What waits to be pushed to each connected worker: attempts to start and orders, as they are committed."""

from __future__ import annotations

import asyncio
from collections import deque

from orchestrator_proto import ledger_pb2 as pb
from orchestrator_proto import worker_pb2
from raft_service.machine import AppliedEntry
from raft_service.scheduler.ledger import Ledger
from raft_service.scheduler.outcomes import EndedAttempt

# Attempts and orders that may wait for one worker. Slots bound the attempts, so this many orders means that the worker
# does not read; its stream ends, and it is told everything again on the next.
WAITING_MAX = 10_000


def order_for(state: pb.AttemptState, *, task_id: str, token: pb.Token, reason: str) -> worker_pb2.Order:
    """What a worker shall do with an attempt that is not valid any more."""
    is_canceled = state == pb.ATTEMPT_STATE_CANCELED
    kind = worker_pb2.ORDER_KIND_CANCEL if is_canceled else worker_pb2.ORDER_KIND_DISCARD
    return worker_pb2.Order(kind=kind, task_id=task_id, token=token, reason=reason)


class AssignmentFeed:
    """One worker's stream. Begins with all its valid attempts."""

    def __init__(self, ledger: Ledger, worker_id: str, incarnation: int) -> None:
        """Looks at the ledger once; after that it is told."""
        self.worker_id = worker_id
        self.incarnation = incarnation
        self.is_closed = False
        self._ledger = ledger
        self._starts: deque[tuple[str, pb.Token]] = deque(
            (task.task_id, attempt.token) for task, attempt in ledger.valid_attempts(worker_id)
        )
        self._orders: deque[worker_pb2.Order] = deque()
        self._told_index = 0
        self._wake = asyncio.Event()
        self._wake.set()

    def start(self, task_id: str, token: pb.Token) -> None:
        """Adds a new attempt."""
        self._starts.append((task_id, token))
        self._note()

    def order(self, ended: EndedAttempt) -> None:
        """Adds the order to stop an attempt."""
        self._orders.append(order_for(ended.state, task_id=ended.task_id, token=ended.token, reason=ended.reason))
        self._note()

    def _note(self) -> None:
        if len(self._starts) + len(self._orders) > WAITING_MAX:
            self.close()
        self._wake.set()

    def close(self) -> None:
        """Ends the stream."""
        self.is_closed = True
        self._wake.set()

    async def next(self, *, timeout_s: float, bytes_max: int) -> worker_pb2.AssignmentBatch:
        """The next batch; an empty one when nothing came within timeout_s."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            # Nothing to tell: an empty batch is the sign of life that the worker waits for.
            return worker_pb2.AssignmentBatch(index=self._told_index)
        batch = worker_pb2.AssignmentBatch(orders=self._orders)
        self._orders.clear()
        size = 0
        while self._starts and size < bytes_max:
            task_id, token = self._starts.popleft()
            size += self._add(batch, task_id, token)
        if not self._starts:
            self._told_index = self._ledger.applied_index
            if not self.is_closed:
                self._wake.clear()
        batch.index = self._told_index
        return batch

    def _add(self, batch: worker_pb2.AssignmentBatch, task_id: str, token: pb.Token) -> int:
        """Adds an attempt unless it ended meanwhile; returns its size in bytes."""
        task = self._ledger.task(task_id)
        attempt = task.find_attempt(token) if task is not None else None
        if task is None or attempt is None or attempt.state != pb.ATTEMPT_STATE_PLACED:
            return 0
        batch.start.add(spec=task.spec, token=token, attempt_number=attempt.number)
        return task.spec.ByteSize()


class AssignmentFeeds:
    """The feeds of all connected workers; one each, a newer one ends the former."""

    def __init__(self, ledger: Ledger) -> None:
        """Starts with none."""
        self._ledger = ledger
        self._feeds: dict[str, AssignmentFeed] = {}

    def open(self, worker_id: str, incarnation: int) -> AssignmentFeed:
        """A new feed of a worker that the ledger knows."""
        former = self._feeds.get(worker_id)
        if former is not None:
            former.close()
        feed = self._feeds[worker_id] = AssignmentFeed(self._ledger, worker_id, incarnation)
        return feed

    def close(self, feed: AssignmentFeed) -> None:
        """Ends a feed; ending it twice is allowed."""
        feed.close()
        if self._feeds.get(feed.worker_id) is feed:
            del self._feeds[feed.worker_id]

    def applied(self, entry: AppliedEntry) -> None:
        """Passes on what an entry placed and ended, and ends the feeds of workers that are gone."""
        for placed in entry.changes.placed:
            feed = self._feeds.get(placed.worker_id)
            if feed is not None and feed.incarnation == placed.incarnation:
                feed.start(placed.task_id, placed.token)
        for ended in entry.changes.ended:
            feed = self._feeds.get(ended.worker_id)
            if feed is not None and feed.incarnation == ended.incarnation:
                feed.order(ended)
        for worker_id in entry.changes.workers:
            feed = self._feeds.get(worker_id)
            if feed is not None and not is_in_service(self._ledger, worker_id, feed.incarnation):
                self.close(feed)


def is_in_service(ledger: Ledger, worker_id: str, incarnation: int) -> bool:
    """True when the ledger knows this start of the worker and has not declared it lost."""
    worker = ledger.worker(worker_id)
    return worker is not None and worker.incarnation == incarnation and worker.state != pb.WORKER_STATE_LOST
