"""What only the leader has: the plan, the workers' leases, the open watches and feeds. Made anew with each leadership.

All of it is memory and may be lost at any time, for the ledger alone counts: a new leader builds its own from it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from orchestrator_proto import ledger_pb2 as pb
from orchestrator_proto import worker_pb2
from raft_service.assignment_feeds import AssignmentFeeds, is_in_service, order_for
from raft_service.config import NodeSettings
from raft_service.driver import NotLeader, Overloaded, ProposalUnknown, RaftDriver
from raft_service.entry_batch import Done, EntryBatch
from raft_service.machine import AppliedEntry, LedgerMachine
from raft_service.metrics import Metrics
from raft_service.scheduler.liveness import Liveness
from raft_service.scheduler.planner import Planner
from raft_service.start_deadlines import StartDeadlines
from raft_service.watches import Watches

log = logging.getLogger(__name__)

# How much later than its lease ends a worker is declared lost, in parts of the lease: room for a heartbeat that was
# sent in time and waits in a queue.
GRACE_PART = 0.2


def monotonic_ms() -> int:
    """The clock of leases: ms, never goes back."""
    return time.monotonic_ns() // 1_000_000


class Leader:
    """One leadership. `lost` is set when it is over; after that nothing here is used any more."""

    def __init__(self, *, settings: NodeSettings, driver: RaftDriver, machine: LedgerMachine, metrics: Metrics) -> None:
        """Builds everything from the ledger, and gives each worker one fresh lease."""
        self.settings = settings
        self.driver = driver
        self.ledger = machine.ledger
        self.metrics = metrics
        self.lost = asyncio.Event()
        self.since_ms = monotonic_ms()
        self.planner = Planner(self.ledger)
        grace_ms = round(settings.worker_lease_ms * GRACE_PART)
        self.liveness = Liveness(settings.worker_lease_ms, grace_ms, self.since_ms)
        self.liveness.new_leader(self.ledger.live_workers(), self.since_ms)
        self.watches = Watches(self.ledger)
        self.feeds = AssignmentFeeds(self.ledger)
        self.starts = StartDeadlines()
        self.batch = EntryBatch(driver=driver, ledger=self.ledger, planner=self.planner, metrics=metrics)
        # Proposals of LoseWorker on their way, by (worker, incarnation): such a worker gets no acknowledgement.
        self._losing: dict[tuple[str, int], asyncio.Future[Done]] = {}
        # The workers whose leases are watched, with their incarnation.
        self._watched = dict(self.ledger.live_workers())
        self._unsubscribe = machine.subscribe(self._applied)
        self.batch.schedule()  # place what the former leader left

    def close(self) -> None:
        """Leadership is gone."""
        self._unsubscribe()
        self.batch.close()
        self.lost.set()

    def change(self, command: pb.Command) -> asyncio.Future[Done]:
        """Proposes a command together with the others of this loop turn; see EntryBatch.add for the errors."""
        return self.batch.add(command)

    def _applied(self, entry: AppliedEntry) -> None:
        self.planner.settle(entry.changes)
        for worker_id in entry.changes.workers:
            self._follow_worker(worker_id)
        self.feeds.applied(entry)
        self.watches.applied(entry)
        if self.planner.has_work:
            self.batch.schedule()

    def _follow_worker(self, worker_id: str) -> None:
        """Begins to watch the lease of a worker process that is new, and ends it for one that is gone."""
        worker = self.ledger.worker(worker_id)
        if worker is None or worker.state == pb.WORKER_STATE_LOST:
            self.liveness.forget(worker_id)
            self.starts.forget(worker_id)
            self._watched.pop(worker_id, None)
        elif self._watched.get(worker_id) != worker.incarnation:
            self._watched[worker_id] = worker.incarnation
            self.liveness.heard(worker_id, worker.incarnation, monotonic_ms())

    # ------------------------------------------------------------------------------------------ losing workers

    def lose_worker(self, worker_id: str, incarnation: int, reason: str) -> None:
        """Proposes that a worker is lost, unless that is on its way already."""
        key = (worker_id, incarnation)
        if key in self._losing:
            return
        log.warning("worker is silent, declaring it lost; worker=%s reason=%s", worker_id, reason)
        command = pb.LoseWorkerCommand(worker_id=worker_id, incarnation=incarnation, reason=reason)
        answer = self._losing[key] = self.change(pb.Command(lose_worker=command))
        answer.add_done_callback(lambda done: self._lose_landed(key, done))

    def _lose_landed(self, key: tuple[str, int], done: asyncio.Future[Done]) -> None:
        del self._losing[key]
        error = None if done.cancelled() else done.exception()
        if error is None:
            self.metrics.workers_lost.inc()
        else:
            log.info("worker not declared lost; worker=%s reason=%s", key[0], error)

    # ------------------------------------------------------------------------------------------ heartbeats

    async def heartbeat(self, request: worker_pb2.HeartbeatRequest) -> worker_pb2.HeartbeatResponse:
        """Renews a lease and judges what the worker has at hand.

        Raises:
            NotLeader, Overloaded: no quorum stands behind us; the worker must ask elsewhere.
        """
        key = (request.worker_id, request.incarnation)
        while True:
            if key in self._losing:
                await asyncio.wait([self._losing[key]])
            await self.driver.read_barrier()
            if key not in self._losing:
                break
        if self.lost.is_set():
            raise NotLeader(self.driver.leader)
        self.metrics.heartbeats.inc()
        response = worker_pb2.HeartbeatResponse(
            sequence=request.sequence,
            is_known=is_in_service(self.ledger, *key),
            lease_ms=self.settings.worker_lease_ms,
            heartbeat_interval_ms=round(self.settings.worker_heartbeat_interval_s * 1000),
        )
        if response.is_known:
            self._take_heartbeat(request)
        for attempt in request.attempts:
            self._judge(attempt, response)
        return response

    def _take_heartbeat(self, request: worker_pb2.HeartbeatRequest) -> None:
        now_ms = monotonic_ms()
        self.liveness.heard(request.worker_id, request.incarnation, now_ms)
        self.planner.warm(request.worker_id, request.code_keys)
        worker = self.ledger.worker(request.worker_id)
        if request.is_draining and worker is not None and worker.state == pb.WORKER_STATE_ACTIVE:
            drain = pb.DrainWorkerCommand(worker_id=request.worker_id)
            self.change(pb.Command(drain_worker=drain)).add_done_callback(note_failure)
        valid = self.ledger.valid_attempts(request.worker_id)
        for task, late in self.starts.overdue(request, valid, now_ms):
            reason = f"it did not start in time on {request.worker_id}"
            lose = pb.LoseAttemptCommand(task_id=task.task_id, token=late.token, reason=reason)
            self.change(pb.Command(lose_attempt=lose)).add_done_callback(note_failure)

    def _judge(self, running: worker_pb2.RunningAttempt, response: worker_pb2.HeartbeatResponse) -> None:
        """Go on, or an order to stop. One whose result was accepted goes on: it has its last events to write."""
        task = self.ledger.task(running.task_id)
        attempt = task.find_attempt(running.token) if task is not None else None
        state = attempt.state if attempt is not None else pb.ATTEMPT_STATE_UNSPECIFIED
        is_good = state == pb.ATTEMPT_STATE_FINISHED or (state == pb.ATTEMPT_STATE_PLACED and response.is_known)
        if is_good:
            response.go_on.append(running.token)
            return
        reason = attempt.reason if attempt is not None else "the ledger does not know it"
        response.orders.append(order_for(state, task_id=running.task_id, token=running.token, reason=reason))


def note_failure(done: asyncio.Future[Done]) -> None:
    """For proposals that nobody waits for: what caused them is still there and causes them again."""
    error = None if done.cancelled() else done.exception()
    if error is not None and not isinstance(error, NotLeader | Overloaded | ProposalUnknown):
        log.error("proposal failed; reason=%s", error)
