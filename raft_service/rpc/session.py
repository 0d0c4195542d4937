"""TaskService.Session: one stream for all requests of a client, answered in batches.

Requests that change something become commands of the entry that this loop turn proposes; reads share one round with
the quorum; whatever is answered in one turn leaves in one message. When leadership is lost the stream ends with a
redirect and unanswered requests stay unanswered: the client sends them again to the new leader, and a repeat is
answered with the first outcome.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import grpc.aio

from orchestrator_proto import task_pb2, task_pb2_grpc
from raft_service.driver import NotLeader, Overloaded, ProposalUnknown
from raft_service.entry_batch import Done
from raft_service.leader import Leader
from raft_service.leadership import Leadership
from raft_service.metrics import Metrics
from raft_service.rpc import session_requests
from raft_service.rpc.channel import BATCH_BYTES_MAX
from raft_service.rpc.session_requests import Invalid
from raft_service.watches import TaskWatch

log = logging.getLogger(__name__)

# Requests of one session between reading and answering. Beyond it the stream is not read, so the client's own queue
# fills instead of this node's memory.
UNANSWERED_MAX = 4_096
# Watch events in one message, so that answers to others on the stream do not wait behind a large one.
WATCH_EVENTS_BYTES_MAX = 1 << 20


class SessionService(task_pb2_grpc.TaskServiceServicer):
    """Admits clients to the leader."""

    def __init__(self, leadership: Leadership, metrics: Metrics, *, node_name: str) -> None:
        """Serves whenever `leadership` says so."""
        self._leadership = leadership
        self._metrics = metrics
        self._node_name = node_name

    async def Session(self, request_iterator: Any, context: Any) -> None:
        """Serves one client until it or the leadership goes."""
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        leader = await self._leadership.settled()
        if leader is not None:
            log.debug("session opened; client=%s", first.client)
            session = _Session(leader, context, self._metrics)
            self._metrics.sessions.inc()
            try:
                is_client_gone = await session.run(first)
            finally:
                session.close()
                self._metrics.sessions.dec()
            if is_client_gone:
                return
            await self._leadership.settled()  # so that the redirect names the new leader
        elsewhere = self._leadership.elsewhere()
        address = elsewhere.address if elsewhere is not None else ""
        redirect = task_pb2.Redirect(leader_address=address, answered_by=self._node_name)
        await context.write(task_pb2.SessionResponse(redirect=redirect))


class _Session:
    """One stream on the leader."""

    def __init__(self, leader: Leader, context: Any, metrics: Metrics) -> None:
        self._leader = leader
        self._context = context
        self._metrics = metrics
        self._unanswered = 0
        self._has_room = asyncio.Event()
        self._responses: deque[task_pb2.Response] = deque()
        self._has_output = asyncio.Event()
        self._is_over = asyncio.Event()
        self._watches: dict[int, TaskWatch] = {}
        self._changed_watches: dict[int, None] = {}
        self._reads: set[asyncio.Task[None]] = set()

    async def run(self, first: task_pb2.SessionRequest) -> bool:
        """Serves until the end; True when the client went, False when the leadership did."""
        reading = asyncio.create_task(self._read(first))
        writing = asyncio.create_task(self._write())
        lost = asyncio.create_task(self._leader.lost.wait())
        over = asyncio.create_task(self._is_over.wait())
        parts = (reading, writing, lost, over)
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        for part in (reading, writing):
            if not part.cancelled() and part.exception() is not None:
                log.info("session broke; reason=%s", part.exception())
        return not self._is_over.is_set() and not self._leader.lost.is_set()

    def close(self) -> None:
        """Lets go of everything."""
        for watch in self._watches.values():
            self._leader.watches.close(watch)
        for task in self._reads:
            task.cancel()

    # ------------------------------------------------------------------------------------------ in

    async def _read(self, first: task_pb2.SessionRequest) -> None:
        message: Any = first
        while message is not grpc.aio.EOF:
            for request in message.requests:
                self._begin(request)
            while self._unanswered >= UNANSWERED_MAX:
                self._has_room.clear()
                await self._has_room.wait()
            message = await self._context.read()

    def _begin(self, request: task_pb2.Request) -> None:
        """Starts a request; its answer comes later, or at once when the request is wrong."""
        kind = request.WhichOneof("request") or "unknown"
        self._metrics.requests.labels(kind=kind).inc()
        self._unanswered += 1
        try:
            if kind == "task_status":
                self._spawn(self._answer_status(request))
            elif kind == "watch_tasks":
                self._spawn(self._open_watch(request))
            elif kind == "unwatch":
                self._close_watch(request.unwatch.watch_id)
                self._answer(task_pb2.Response(id=request.id, unwatch=task_pb2.UnwatchReply()))
            else:
                self._propose(request, kind)
        except Invalid as error:
            self._fail(request.id, task_pb2.FAILURE_CODE_INVALID, str(error))

    def _propose(self, request: task_pb2.Request, kind: str) -> None:
        command = session_requests.command_of(request, kind, self._leader.ledger)
        answer = self._leader.change(command)
        answer.add_done_callback(lambda done: self._proposed(request.id, kind, done))

    def _proposed(self, request_id: int, kind: str, done: asyncio.Future[Done]) -> None:
        try:
            self._answer(session_requests.response_of(request_id, kind, done.result()))
        except Overloaded as error:
            self._fail(request_id, task_pb2.FAILURE_CODE_EXHAUSTED, str(error))
        except (NotLeader, ProposalUnknown):
            self._is_over.set()  # the redirect says it, and the client asks the next leader

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    async def _has_barrier(self, request_id: int) -> bool:
        """Waits until a quorum confirms us; answers the request itself when it cannot."""
        try:
            await self._leader.driver.read_barrier()
        except Overloaded as error:
            self._fail(request_id, task_pb2.FAILURE_CODE_EXHAUSTED, str(error))
            return False
        except NotLeader:
            self._is_over.set()
            return False
        return not self._leader.lost.is_set()

    async def _answer_status(self, request: task_pb2.Request) -> None:
        if not await self._has_barrier(request.id):
            return
        try:
            reply = session_requests.status_reply(request.task_status, self._leader)
        except Invalid as error:
            self._fail(request.id, task_pb2.FAILURE_CODE_INVALID, str(error))
            return
        self._answer(task_pb2.Response(id=request.id, task_status=reply))

    async def _open_watch(self, request: task_pb2.Request) -> None:
        watch_id, question = request.id, request.watch_tasks
        if not question.prefix:
            self._fail(watch_id, task_pb2.FAILURE_CODE_INVALID, "A watch needs a prefix, such as step/RUN_ID/.")
            return
        if not await self._has_barrier(watch_id):
            return
        watch = self._leader.watches.open(
            question.prefix, question.from_index, on_change=lambda: self._mark_watch(watch_id)
        )
        if watch is None:
            self._fail(watch_id, task_pb2.FAILURE_CODE_EXHAUSTED, "Too many watches are open; try again later.")
            return
        self._unanswered -= 1
        self._watches[watch_id] = watch
        self._mark_watch(watch_id)

    def _close_watch(self, watch_id: int) -> None:
        watch = self._watches.pop(watch_id, None)
        self._changed_watches.pop(watch_id, None)
        if watch is not None:
            self._leader.watches.close(watch)

    # ------------------------------------------------------------------------------------------ out

    def _answer(self, response: task_pb2.Response) -> None:
        self._responses.append(response)
        self._has_output.set()

    def _fail(self, request_id: int, code: task_pb2.FailureCode, message: str) -> None:
        failure = task_pb2.Failure(code=code, message=message)
        self._answer(task_pb2.Response(id=request_id, failure=failure))

    def _mark_watch(self, watch_id: int) -> None:
        self._changed_watches[watch_id] = None
        self._has_output.set()

    async def _write(self) -> None:
        while True:
            await self._has_output.wait()
            self._has_output.clear()
            while batch := self._take_batch():
                await self._context.write(task_pb2.SessionResponse(responses=batch))

    def _take_batch(self) -> list[task_pb2.Response]:
        """The next message: answers first, then what watches have to tell."""
        batch: list[task_pb2.Response] = []
        size = 0
        while self._responses and size < BATCH_BYTES_MAX:
            response = self._responses.popleft()
            batch.append(response)
            size += response.ByteSize()
            self._unanswered -= 1
        self._has_room.set()
        for watch_id in list(self._changed_watches):
            if size >= BATCH_BYTES_MAX:
                break
            events = self._take_events(watch_id)
            if events is not None:
                batch.append(events)
                size += events.ByteSize()
        return batch

    def _take_events(self, watch_id: int) -> task_pb2.Response | None:
        watch = self._watches[watch_id]
        if watch.is_overflown:
            self._close_watch(watch_id)
            message = "The watch was not read for too long; open it again from the last index."
            failure = task_pb2.Failure(code=task_pb2.FAILURE_CODE_EXHAUSTED, message=message)
            return task_pb2.Response(id=watch_id, failure=failure)
        events = watch.take(bytes_max=WATCH_EVENTS_BYTES_MAX)
        if events is None:
            del self._changed_watches[watch_id]
            return None
        return task_pb2.Response(id=watch_id, watch_events=events)
