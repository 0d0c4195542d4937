"""AdminService: what people and pages ask a node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from orchestrator_proto import admin_pb2, admin_pb2_grpc
from orchestrator_proto import ledger_pb2 as pb
from raft_service.config import Member
from raft_service.driver import NotLeader, Overloaded, ProposalUnknown, RaftDriver
from raft_service.leader import Leader, monotonic_ms
from raft_service.leadership import Leadership
from raft_service.rpc.refusals import refuse_not_leader, require_leader
from raft_service.scheduler.outcomes import WorkerOutcome


def worker_views(leader: Leader) -> list[admin_pb2.WorkerView]:
    """All workers with what the leader remembers of them."""
    now_ms = monotonic_ms()
    return [
        admin_pb2.WorkerView(
            record=worker.to_record(),
            used=leader.ledger.used(worker.worker_id),
            heartbeat_age_ms=leader.liveness.heartbeat_age_ms(worker.worker_id, now_ms),
            lease_left_ms=leader.liveness.lease_left_ms(worker.worker_id, now_ms),
            task_ids=sorted(worker.task_ids),
        )
        for worker in leader.ledger.workers()
    ]


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """What the command line calls."""

    def __init__(
        self,
        *,
        leadership: Leadership,
        driver: RaftDriver,
        members: tuple[Member, ...],
        status: Callable[[], admin_pb2.StatusResponse],
    ) -> None:
        """`status` makes the node's answer about itself."""
        self._leadership = leadership
        self._driver = driver
        self._members = members
        self._status = status

    async def Status(self, request: admin_pb2.StatusRequest, context: Any) -> admin_pb2.StatusResponse:
        """Any node answers for itself, whatever the others do."""
        return self._status()

    async def ListWorkers(self, request: admin_pb2.ListWorkersRequest, context: Any) -> admin_pb2.ListWorkersResponse:
        """All workers, linearizably."""
        leader = await require_leader(self._leadership, context)
        try:
            await self._driver.read_barrier()
        except (NotLeader, Overloaded) as error:
            await self._refuse(error, context)
        return admin_pb2.ListWorkersResponse(workers=worker_views(leader), index=leader.ledger.applied_index)

    async def DrainWorker(self, request: admin_pb2.DrainWorkerRequest, context: Any) -> admin_pb2.DrainWorkerResponse:
        """Takes a worker out of service for new work, or back."""
        leader = await require_leader(self._leadership, context)
        drain = pb.DrainWorkerCommand(worker_id=request.worker_id, undo=request.undo)
        try:
            done = await leader.change(pb.Command(drain_worker=drain))
        except (NotLeader, Overloaded, ProposalUnknown) as error:
            await self._refuse(error, context)
        outcome = done.outcome
        assert isinstance(outcome, WorkerOutcome)
        if not outcome.known:
            known = ", ".join(worker.worker_id for worker in leader.ledger.workers()) or "none"
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"Cannot drain, for {outcome.reason}; known workers: {known}."
            )
        return admin_pb2.DrainWorkerResponse(state=outcome.state)

    async def TransferLeader(
        self, request: admin_pb2.TransferLeaderRequest, context: Any
    ) -> admin_pb2.TransferLeaderResponse:
        """Moves leadership and says who has it."""
        await require_leader(self._leadership, context)
        target = next((member.node_id for member in self._members if member.name == request.to), None)
        if request.to and target is None:
            names = ", ".join(member.name for member in self._members)
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"No member is called {request.to!r}; members are {names}."
            )
        try:
            await self._driver.transfer_leader(target)
        except (NotLeader, Overloaded) as error:
            await self._refuse(error, context)
        leader = self._driver.leader
        return admin_pb2.TransferLeaderResponse(leader_name=leader.name if leader is not None else "")

    async def ChangeMembers(
        self, request: admin_pb2.ChangeMembersRequest, context: Any
    ) -> admin_pb2.ChangeMembersResponse:
        """Not in this version."""
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "This version cannot change the members of a running cluster; stop all nodes, change RAFT_PEERS, and start "
            "a new cluster with empty data directories.",
        )
        raise AssertionError("abort raises")

    async def SaveSnapshot(self, request: admin_pb2.SaveSnapshotRequest, context: Any) -> None:
        """Not in this version."""
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "This version writes no backups; copy the RAFT_DATA_DIR of a stopped node instead.",
        )

    async def _refuse(self, error: Exception, context: Any) -> None:
        if isinstance(error, Overloaded):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        await refuse_not_leader(self._leadership.elsewhere(), context)
