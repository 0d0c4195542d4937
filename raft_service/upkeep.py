"""The leader's recurring work: silent workers, leases that ran out, records that nobody needs any more."""

from __future__ import annotations

import asyncio

from orchestrator_proto import ledger_pb2 as pb
from raft_service.driver import NotLeader, Overloaded
from raft_service.entry_batch import Done
from raft_service.leader import Leader, monotonic_ms, note_failure
from raft_service.scheduler.lease import Lease

# How often to look. A tenth of the shortest sensible lease, and nothing is walked when nothing is due.
INTERVAL_S = 0.1
# How often to look for records to forget.
FORGET_INTERVAL_MS = 5_000
# How long people may look at a lost worker.
LOST_WORKER_KEPT_MS = 60 * 60 * 1000


class Upkeep:
    """Runs as one task for as long as the leadership lasts."""

    def __init__(self, leader: Leader) -> None:
        """Does nothing until `run`."""
        self._leader = leader
        self._forgot_at_ms = monotonic_ms()
        self._under_way: dict[str, asyncio.Future[Done]] = {}

    async def run(self) -> None:
        """Looks every INTERVAL_S until leadership is lost."""
        looked_at_ms = monotonic_ms()
        while not self._leader.lost.is_set():
            await asyncio.sleep(INTERVAL_S)
            now_ms = monotonic_ms()
            if now_ms - looked_at_ms > self._leader.settings.election_timeout_min_ms + 1000 * INTERVAL_S:
                self._leader.liveness.paused(now_ms)
            looked_at_ms = now_ms
            try:
                await self._lose_silent_workers()
            except (NotLeader, Overloaded):
                continue  # without a quorum nobody is declared lost; the next look decides again
            self._expire_leases()
            if now_ms - self._forgot_at_ms >= FORGET_INTERVAL_MS:
                self._forgot_at_ms = now_ms
                self._forget()

    async def _lose_silent_workers(self) -> None:
        """Proposes LoseWorker for those past lease and grace, after hearing from a quorum."""
        leader = self._leader
        if not leader.liveness.expired(monotonic_ms()) and not leader.liveness.needs_quorum(monotonic_ms()):
            return
        await leader.driver.read_barrier()
        now_ms = monotonic_ms()
        leader.liveness.confirm_quorum(now_ms)
        for worker_id, incarnation in leader.liveness.expired(now_ms):
            silent_s = leader.liveness.heartbeat_age_ms(worker_id, now_ms) / 1000
            leader.lose_worker(worker_id, incarnation, f"no heartbeat for {silent_s:.1f} s")

    def _expire_leases(self) -> None:
        """Proposes the end of named leases, but not right after an election: nobody could renew them meanwhile."""
        leader = self._leader
        if monotonic_ms() - leader.since_ms < leader.settings.worker_lease_ms:
            return
        for lease in leader.ledger.expired_leases(leader.batch.leader_time_ms()):
            self._propose_once(f"lease {lease.name}", _expire(lease))

    def _forget(self) -> None:
        leader = self._leader
        now_ms = leader.batch.leader_time_ms()
        task_ids = leader.planner.to_forget(now_ms)
        if task_ids:
            self._propose_once("tasks", pb.Command(forget_tasks=pb.ForgetTasksCommand(task_ids=task_ids)))
        for worker in leader.ledger.workers():
            if worker.state == pb.WORKER_STATE_LOST and now_ms - worker.lost_at_ms > LOST_WORKER_KEPT_MS:
                forget = pb.ForgetWorkerCommand(worker_id=worker.worker_id)
                self._propose_once(f"worker {worker.worker_id}", pb.Command(forget_worker=forget))

    def _propose_once(self, what: str, command: pb.Command) -> None:
        """Proposes unless the same is on its way."""
        if what in self._under_way:
            return
        answer = self._under_way[what] = self._leader.change(command)
        answer.add_done_callback(note_failure)
        answer.add_done_callback(lambda _: self._under_way.pop(what, None))


def _expire(lease: Lease) -> pb.Command:
    return pb.Command(expire_lease=pb.ExpireLeaseCommand(name=lease.name, owner=lease.owner, token=lease.token))
