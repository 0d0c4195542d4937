"""WorkerService: workers register, renew their leases and receive work. On the leader only."""

from __future__ import annotations

import logging
from typing import Any

import grpc

from orchestrator_proto import ledger_pb2 as pb
from orchestrator_proto import worker_pb2, worker_pb2_grpc
from raft_service.assignment_feeds import is_in_service
from raft_service.driver import NotLeader, Overloaded, ProposalUnknown
from raft_service.leader import Leader
from raft_service.leadership import Leadership
from raft_service.rpc.channel import BATCH_BYTES_MAX
from raft_service.rpc.refusals import refuse_not_leader, require_leader
from raft_service.scheduler.admission import check_registration
from raft_service.scheduler.outcomes import WorkerOutcome

log = logging.getLogger(__name__)

# A feed with nothing to tell sends an empty batch so often; workers give a stream up after three missed ones.
SIGN_OF_LIFE_S = 2.0


class WorkerService(worker_pb2_grpc.WorkerServiceServicer):
    """What workers call."""

    def __init__(self, leadership: Leadership) -> None:
        """Serves whenever `leadership` says so."""
        self._leadership = leadership

    async def RegisterWorker(
        self, request: worker_pb2.RegisterWorkerRequest, context: Any
    ) -> worker_pb2.RegisterWorkerResponse:
        """Enters a worker process in the ledger."""
        leader = await require_leader(self._leadership, context)
        registration = pb.RegisterWorkerCommand(
            worker_id=request.worker_id,
            incarnation=request.incarnation,
            address=request.address,
            labels=request.labels,
            capacity=request.capacity,
        )
        problem = check_registration(registration) or _label_problem(request)
        if problem:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        try:
            done = await leader.change(pb.Command(register_worker=registration))
        except (NotLeader, Overloaded, ProposalUnknown) as error:
            await self._refuse(error, context)
        outcome = done.outcome
        assert isinstance(outcome, WorkerOutcome)
        if not outcome.known:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Not registered, for {outcome.reason}.")
        log.info("worker registered; worker=%s incarnation=%d", request.worker_id, request.incarnation)
        settings = leader.settings
        return worker_pb2.RegisterWorkerResponse(
            lease_ms=settings.worker_lease_ms,
            heartbeat_interval_ms=round(settings.worker_heartbeat_interval_s * 1000),
            leader=settings.node_name,
            index=done.index,
        )

    async def Heartbeat(self, request: worker_pb2.HeartbeatRequest, context: Any) -> worker_pb2.HeartbeatResponse:
        """Renews a lease, once a quorum stands behind this leader."""
        leader = await require_leader(self._leadership, context)
        try:
            return await leader.heartbeat(request)
        except (NotLeader, Overloaded) as error:
            await self._refuse(error, context)
            raise

    async def Assignments(self, request: worker_pb2.AssignmentsRequest, context: Any) -> None:
        """Pushes work until the worker, its registration or the leadership goes."""
        leader = await require_leader(self._leadership, context)
        try:
            await leader.driver.read_barrier()
        except (NotLeader, Overloaded) as error:
            await self._refuse(error, context)
        if not is_in_service(leader.ledger, request.worker_id, request.incarnation):
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Worker {request.worker_id} is not registered with incarnation {request.incarnation}, or was lost; "
                "register again.",
            )
        await self._push(leader, request, context)
        await refuse_not_leader(self._leadership.elsewhere(), context)

    async def _push(self, leader: Leader, request: worker_pb2.AssignmentsRequest, context: Any) -> None:
        feed = leader.feeds.open(request.worker_id, request.incarnation)
        try:
            while not feed.is_closed and not leader.lost.is_set():
                await context.write(await feed.next(timeout_s=SIGN_OF_LIFE_S, bytes_max=BATCH_BYTES_MAX))
        finally:
            leader.feeds.close(feed)

    async def _refuse(self, error: Exception, context: Any) -> None:
        if isinstance(error, Overloaded):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        await refuse_not_leader(self._leadership.elsewhere(), context)


def _label_problem(request: worker_pb2.RegisterWorkerRequest) -> str:
    missing = [label for label in ("cloud", "worker") if not request.labels.get(label)]
    if missing:
        return f"Worker {request.worker_id} lacks the label {missing[0]!r}; set WORKER_CLOUD_TAG and WORKER_NAME."
    return ""
