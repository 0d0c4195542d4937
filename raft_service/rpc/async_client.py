"""The client of the control plane, for asyncio: used by the worker's agent and beneath the blocking client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import grpc
import grpc.aio

from orchestrator_proto import admin_pb2, task_pb2, worker_pb2
from orchestrator_proto import ledger_pb2 as pb
from raft_service.config import TlsFiles
from raft_service.rpc.channel import BATCH_BYTES_MAX, open_channel
from raft_service.rpc.errors import ControlPlaneUnavailable, in_words
from raft_service.rpc.leader_calls import LeaderCalls
from raft_service.rpc.session_link import SessionLink
from raft_service.rpc.stubs import AdminServiceStub, WorkerServiceStub
from raft_service.rpc.watch import Watch

# Tasks in one SubmitTasks, as the protocol says; more are split.
SUBMIT_TASKS_MAX = 1_000
# How long one node may take to say how it is, before it counts as unreachable.
STATUS_TIMEOUT_S = 2.0
# The leader sends something on an assignment stream every 2 s; after three of them missed the stream is given up.
ASSIGNMENTS_SILENCE_S = 6.0


class AsyncClient:
    """All requests of one client. Belongs to one event loop; connects on first use.

    Every change may be repeated: it takes effect once. Methods raise ControlPlaneUnavailable when nobody that leads
    answered within `deadline_s`, and RequestRefused when the request itself is wrong.
    """

    def __init__(
        self, endpoints: Sequence[str], *, name: str, tls: TlsFiles | None = None, deadline_s: float = 30.0
    ) -> None:
        """Does no network.

        Args:
            endpoints: host:port or unix:path of the nodes, in the order to try.
            name: of this client, for the nodes' logs.
            tls: our certificate, or None for plain text.
            deadline_s: how long a request may look for a leader.

        Raises:
            ControlPlaneUnavailable: endpoints is empty.
        """
        self._endpoints = tuple(endpoints)
        self._tls = tls
        self._deadline_s = deadline_s
        self._link = SessionLink(endpoints, name=name, tls=tls)
        self._calls = LeaderCalls(endpoints, tls=tls)
        self._heartbeats = LeaderCalls(endpoints, tls=tls)
        self._assignments = LeaderCalls(endpoints, tls=tls)

    async def close(self) -> None:
        """Ends all connections."""
        await self._link.close()
        for calls in (self._calls, self._heartbeats, self._assignments):
            await calls.close()

    async def _ask(self, request: task_pb2.Request) -> task_pb2.Response:
        return await self._link.call(request, deadline_s=self._deadline_s)

    # ------------------------------------------------------------------------------------------ tasks

    async def submit_tasks(self, specs: Iterable[pb.TaskSpec]) -> list[int]:
        """Queues tasks, durably once it returns; gives one TaskState each, of the first submit for a known id."""
        chunks = list(_chunks(list(specs)))
        requests = [task_pb2.Request(submit_tasks=task_pb2.SubmitTasks(tasks=chunk)) for chunk in chunks]
        responses = await asyncio.gather(*(self._ask(request) for request in requests))
        return [state for response in responses for state in response.submit_tasks.states]

    async def task_status(
        self, task_ids: Sequence[str] = (), prefix: str = "", limit: int = 0, with_payload: bool = False
    ) -> list[pb.TaskView]:
        """Reads tasks, linearizably: those named (unknown ones as UNSPECIFIED), or those whose id starts so.

        Args:
            limit: at most so many; zero: 1,000.
            with_payload: also payloads of specs and results.
        """
        question = task_pb2.TaskStatus(task_ids=task_ids, prefix=prefix, limit=limit, with_payload=with_payload)
        response = await self._ask(task_pb2.Request(task_status=question))
        return list(response.task_status.tasks)

    def open_watch(self, prefix: str, from_index: int = 0) -> Watch:
        """Opens a watch at once; end it with close_watch."""
        return self._link.watch(prefix, from_index)

    def close_watch(self, watch: Watch) -> None:
        """Ends a watch."""
        self._link.unwatch(watch)

    async def watch_tasks(self, prefix: str, from_index: int = 0) -> AsyncIterator[task_pb2.WatchEvents]:
        """Tells every change of the tasks whose id starts so, beginning with the state of those changed since.

        It resumes by index when the leader changes and skips nothing; while no node leads it waits, for ever. The
        first events may be empty: then nothing had changed since from_index.
        """
        watch = self.open_watch(prefix, from_index)
        try:
            while (events := await watch.next()) is not None:
                yield events
        finally:
            self.close_watch(watch)

    async def cancel_tasks(self, task_ids: Sequence[str] = (), prefix: str = "", reason: str = "") -> int:
        """Ends tasks that have not ended; returns how many this request canceled, children included."""
        question = task_pb2.CancelTasks(task_ids=task_ids, prefix=prefix, reason=reason)
        return (await self._ask(task_pb2.Request(cancel_tasks=question))).cancel_tasks.canceled

    async def report_result(self, task_id: str, token: pb.Token, result: pb.TaskResult) -> task_pb2.ReportReply:
        """Reports the outcome of an attempt; accepted tells whether it is the one that counts."""
        report = task_pb2.ReportResult(task_id=task_id, token=token, result=result)
        return (await self._ask(task_pb2.Request(report_result=report))).report

    async def report_loss(
        self, task_id: str, token: pb.Token, reason: str, is_returned: bool = False
    ) -> task_pb2.ReportReply:
        """Reports that an attempt died without an outcome, or (is_returned) is handed back untouched."""
        report = task_pb2.ReportLoss(task_id=task_id, token=token, reason=reason, is_returned=is_returned)
        return (await self._ask(task_pb2.Request(report_loss=report))).report

    async def hold_lease(self, name: str, owner: str, ttl_ms: int) -> task_pb2.LeaseReply:
        """Takes or renews a named lease for ttl_ms from now."""
        question = task_pb2.HoldLease(name=name, owner=owner, ttl_ms=ttl_ms)
        return (await self._ask(task_pb2.Request(hold_lease=question))).lease

    async def release_lease(self, name: str, owner: str) -> task_pb2.LeaseReply:
        """Gives a named lease up; its unfinished tasks are canceled."""
        question = task_pb2.ReleaseLease(name=name, owner=owner)
        return (await self._ask(task_pb2.Request(release_lease=question))).lease

    async def forget_tasks(self, task_ids: Sequence[str] = (), prefix: str = "") -> int:
        """Lets the ledger drop ended tasks now; returns how many it dropped."""
        question = task_pb2.ForgetTasks(task_ids=task_ids, prefix=prefix)
        return (await self._ask(task_pb2.Request(forget_tasks=question))).forget_tasks.forgotten

    # ------------------------------------------------------------------------------------------ a worker's part

    async def register_worker(self, request: worker_pb2.RegisterWorkerRequest) -> worker_pb2.RegisterWorkerResponse:
        """Enters a worker process in the ledger."""
        answer: worker_pb2.RegisterWorkerResponse = await self._calls.unary(
            lambda channel, timeout: WorkerServiceStub(channel).RegisterWorker(request, timeout=timeout),
            deadline_s=self._deadline_s,
        )
        return answer

    async def heartbeat(self, request: worker_pb2.HeartbeatRequest, timeout_s: float) -> worker_pb2.HeartbeatResponse:
        """Renews the worker's lease, on a connection of its own."""
        answer: worker_pb2.HeartbeatResponse = await self._heartbeats.unary(
            lambda channel, timeout: WorkerServiceStub(channel).Heartbeat(request, timeout=timeout),
            deadline_s=timeout_s,
        )
        return answer

    async def assignments(self, worker_id: str, incarnation: int) -> AsyncIterator[worker_pb2.AssignmentBatch]:
        """Receives work: first all valid attempts of this worker, then each new one and orders.

        Some batches are empty: they are signs of life. It never ends well; call it again after an error.

        Raises:
            RequestRefused: the ledger does not know this incarnation; register again.
            ControlPlaneUnavailable: no leader found within deadline_s, or the stream broke.
        """
        request = worker_pb2.AssignmentsRequest(worker_id=worker_id, incarnation=incarnation)
        deadline = asyncio.get_running_loop().time() + self._deadline_s
        stream = None
        try:
            while stream is None:
                stream = WorkerServiceStub(self._assignments.channel()).Assignments(request)
                try:
                    batch = await _read_in_time(stream)
                except grpc.aio.AioRpcError as error:
                    pause_s = await self._assignments.failed(error)
                    if asyncio.get_running_loop().time() + pause_s > deadline:
                        raise ControlPlaneUnavailable(f"No leader sends assignments ({in_words(error)}).") from None
                    await asyncio.sleep(pause_s)
                    stream = None
            self._assignments.succeeded()
            while True:
                yield batch
                batch = await _read_in_time(stream)
        except grpc.aio.AioRpcError as error:
            raise ControlPlaneUnavailable(f"The assignment stream broke ({in_words(error)}); open it again.") from None
        finally:
            if stream is not None:
                stream.cancel()

    # ------------------------------------------------------------------------------------------ people's part

    async def statuses(self) -> list[tuple[str, admin_pb2.StatusResponse | str]]:
        """Asks every endpoint how it is; gives (endpoint, answer or the error in words)."""
        answers = await asyncio.gather(*(self._status_of(endpoint) for endpoint in self._endpoints))
        return list(zip(self._endpoints, answers, strict=True))

    async def _status_of(self, endpoint: str) -> admin_pb2.StatusResponse | str:
        timeout_s = min(STATUS_TIMEOUT_S, self._deadline_s)
        channel = open_channel(endpoint, self._tls)
        try:
            answer: admin_pb2.StatusResponse = await AdminServiceStub(channel).Status(
                admin_pb2.StatusRequest(), timeout=timeout_s
            )
            return answer
        except grpc.aio.AioRpcError as error:
            return in_words(error)
        finally:
            await channel.close()

    async def list_workers(self) -> list[admin_pb2.WorkerView]:
        """All workers as the leader sees them."""
        answer = await self._calls.unary(
            lambda channel, timeout: AdminServiceStub(channel).ListWorkers(
                admin_pb2.ListWorkersRequest(), timeout=timeout
            ),
            deadline_s=self._deadline_s,
        )
        return list(answer.workers)

    async def drain_worker(self, worker_id: str, undo: bool = False) -> int:
        """Gives a worker nothing new, or (undo) takes it back into service; returns its WorkerState."""
        answer: admin_pb2.DrainWorkerResponse = await self._calls.unary(
            lambda channel, timeout: AdminServiceStub(channel).DrainWorker(
                admin_pb2.DrainWorkerRequest(worker_id=worker_id, undo=undo), timeout=timeout
            ),
            deadline_s=self._deadline_s,
        )
        return answer.state

    async def transfer_leader(self, to: str = "") -> str:
        """Moves leadership to the node of that name, or to the one that is furthest; returns who leads now."""
        answer: admin_pb2.TransferLeaderResponse = await self._calls.unary(
            lambda channel, timeout: AdminServiceStub(channel).TransferLeader(
                admin_pb2.TransferLeaderRequest(to=to), timeout=self._deadline_s
            ),
            deadline_s=self._deadline_s,
        )
        return answer.leader_name


async def _read_in_time(stream: Any) -> worker_pb2.AssignmentBatch:
    try:
        async with asyncio.timeout(ASSIGNMENTS_SILENCE_S):
            batch: Any = await stream.read()
    except TimeoutError:
        raise ControlPlaneUnavailable(
            f"The assignment stream was silent for {ASSIGNMENTS_SILENCE_S:g} s; open it again."
        ) from None
    if batch is grpc.aio.EOF:
        raise ControlPlaneUnavailable("The node ended the assignment stream; open it again.")
    assert isinstance(batch, worker_pb2.AssignmentBatch)
    return batch


def _chunks(specs: list[pb.TaskSpec]) -> Iterator[list[pb.TaskSpec]]:
    """Cuts a submit into requests that respect the limits of the protocol."""
    chunk: list[pb.TaskSpec] = []
    size = 0
    for spec in specs:
        spec_size = spec.ByteSize()
        if chunk and (len(chunk) >= SUBMIT_TASKS_MAX or size + spec_size > BATCH_BYTES_MAX):
            yield chunk
            chunk, size = [], 0
        chunk.append(spec)
        size += spec_size
    if chunk:
        yield chunk
