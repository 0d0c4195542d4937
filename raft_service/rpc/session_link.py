"""The client's end of a Session: many requests on one stream, which moves with the leader.

Requests of one loop turn travel in one message. A request stays on the books until it is answered; when the stream
breaks or the node does not lead, all unanswered ones are sent again on the next stream. That is safe because every
change carries an identity of its own, and the ledger answers a repeat with the first outcome. Watches are opened again
from the last index that arrived.

A stream can die without a sign (a paused process, a cut cable). So while something is awaited, a quiet stream is
pinged, and given up when even that is not answered.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from orchestrator_proto import task_pb2
from raft_service.config import TlsFiles
from raft_service.rpc.channel import BATCH_BYTES_MAX, open_channel
from raft_service.rpc.errors import ControlPlaneUnavailable, RequestRefused, in_words, nobody_answered
from raft_service.rpc.route import Route
from raft_service.rpc.stubs import TaskServiceStub
from raft_service.rpc.watch import Watch

# Requests in one message; the server admits that many at a time from one session.
BATCH_REQUESTS_MAX = 1_000
# Requests of one client that may wait for an answer. More means that the control plane is down and nobody waits.
UNANSWERED_MAX = 20_000
# A quiet stream is asked for a sign after this long, while an answer or a watch is awaited.
PING_AFTER_S = 0.5
# And is given up after this long. Three pings: a leader's loop that stands still for longer is deposed anyway.
SILENCE_MAX_S = 1.5
# Pause before a request that met a full queue is sent again.
RETRY_PAUSE_S = 0.1


class _StreamFailed(Exception):
    """The stream cannot be used any more; the message says why, for people."""


@dataclass(slots=True)
class _Redirected(Exception):
    """The node does not lead; leader is host:port or empty."""

    leader: str
    answered_by: str


@dataclass(slots=True)
class _Call:
    request: task_pb2.Request
    answer: asyncio.Future[task_pb2.Response]


class SessionLink:
    """One client's requests and watches. Connects on first use; belongs to one event loop."""

    def __init__(self, endpoints: Sequence[str], *, name: str, tls: TlsFiles | None) -> None:
        """Does no network.

        Raises:
            ControlPlaneUnavailable: no endpoint is given.
        """
        self._name = name
        self._tls = tls
        self._route = Route(endpoints)
        self._ids = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._watches: dict[int, Watch] = {}
        # To be written, oldest first.
        self._outbox: list[task_pb2.Request] = []
        self._has_outgoing = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._heard_at = 0.0
        self._is_closed = False

    # ------------------------------------------------------------------------------------------ what callers use

    async def call(self, request: task_pb2.Request, *, deadline_s: float) -> task_pb2.Response:
        """Sends a request (its id is set here) and waits for the answer, through changes of the leader.

        Raises:
            ControlPlaneUnavailable: no answer within deadline_s.
            RequestRefused: the request is wrong.
        """
        if self._is_closed:
            raise ControlPlaneUnavailable("The client is closed; make a new one.")
        if len(self._calls) >= UNANSWERED_MAX:
            raise ControlPlaneUnavailable(
                f"{UNANSWERED_MAX} requests wait for an answer already; ask for less at once."
            )
        request.id = next(self._ids)
        answer: asyncio.Future[task_pb2.Response] = asyncio.get_running_loop().create_future()
        self._calls[request.id] = _Call(request, answer)
        self._send(request)
        try:
            async with asyncio.timeout(deadline_s):
                response = await answer
        except TimeoutError:
            raise nobody_answered(self._route.endpoints, within_s=deadline_s, last=self._route.problem) from None
        finally:
            self._calls.pop(request.id, None)
        if response.HasField("failure"):
            raise RequestRefused(response.failure.message)
        return response

    def watch(self, prefix: str, from_index: int) -> Watch:
        """Opens a watch that survives changes of the leader; call from the loop."""
        watch = Watch(prefix, from_index, resume=self._open)
        self._open(watch)
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Ends a watch."""
        watch.close()
        for watch_id in [watch_id for watch_id, each in self._watches.items() if each is watch]:
            self._drop_watch(watch_id)

    async def close(self) -> None:
        """Ends the stream; calls and watches in progress end too."""
        self._is_closed = True
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
        for watch in list(self._watches.values()):
            watch.close()
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(ControlPlaneUnavailable("The client was closed while it waited."))

    # ------------------------------------------------------------------------------------------ outgoing

    def _send(self, request: task_pb2.Request) -> None:
        self._outbox.append(request)
        self._has_outgoing.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.get_running_loop().create_task(self._run(), name="session-link")

    def _open(self, watch: Watch) -> None:
        if watch.is_closed or self._is_closed:
            return
        watch_id = next(self._ids)
        self._watches[watch_id] = watch
        self._send(_watch_request(watch_id, watch))

    def _drop_watch(self, watch_id: int) -> None:
        self._watches.pop(watch_id, None)
        if self._runner is not None and not self._runner.done():
            self._send(task_pb2.Request(id=next(self._ids), unwatch=task_pb2.Unwatch(watch_id=watch_id)))

    def _refill_outbox(self) -> None:
        """Puts everything unanswered into the outbox, for a new stream."""
        watches = list(self._watches.values())
        self._watches = {next(self._ids): watch for watch in watches}
        self._outbox = [call.request for call in self._calls.values()]
        self._outbox += [_watch_request(watch_id, watch) for watch_id, watch in self._watches.items()]

    def _take_batch(self) -> list[task_pb2.Request]:
        size = 0
        for count, request in enumerate(self._outbox):
            size += request.ByteSize()
            if count and (size > BATCH_BYTES_MAX or count >= BATCH_REQUESTS_MAX):
                break
        else:
            count = len(self._outbox)
        batch, self._outbox = self._outbox[:count], self._outbox[count:]
        return batch

    # ------------------------------------------------------------------------------------------ the stream

    async def _run(self) -> None:
        """Serves one stream after the other while anything is awaited."""
        while self._calls or self._watches or self._outbox:
            try:
                await self._use_stream(self._route.address)
                pause_s = 0.0
            except _Redirected as redirect:
                problem = f"{redirect.answered_by} does not lead"
                pause_s = self._route.failed(problem, is_redirected=True, leader=redirect.leader)
            except (_StreamFailed, OSError) as error:
                pause_s = self._route.failed(str(error))
            if pause_s:
                await asyncio.sleep(pause_s)

    async def _use_stream(self, address: str) -> None:
        """Runs one stream until it ends, which it does with _Redirected or _StreamFailed."""
        channel = open_channel(address, self._tls)
        stream = TaskServiceStub(channel).Session()
        self._refill_outbox()
        self._heard_at = asyncio.get_running_loop().time()
        parts = [asyncio.create_task(part) for part in (self._read(stream), self._write(stream), self._watch_silence())]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            stream.cancel()
            await channel.close()

    async def _write(self, stream: Any) -> None:
        client = self._name
        while True:
            self._has_outgoing.clear()
            try:
                await stream.write(task_pb2.SessionRequest(client=client, requests=self._take_batch()))
            except asyncio.InvalidStateError:
                raise _StreamFailed("the stream ended") from None
            except grpc.aio.AioRpcError as error:
                raise _StreamFailed(in_words(error)) from None
            client = ""
            if not self._outbox:
                await self._has_outgoing.wait()

    async def _read(self, stream: Any) -> None:
        while True:
            try:
                message = await stream.read()
            except grpc.aio.AioRpcError as error:
                raise _StreamFailed(in_words(error)) from None
            if message is grpc.aio.EOF:
                raise _StreamFailed("the node ended the session")
            self._heard_at = asyncio.get_running_loop().time()
            for response in message.responses:
                self._take(response)
            if message.HasField("redirect"):
                raise _Redirected(message.redirect.leader_address, message.redirect.answered_by)
            self._route.succeeded()

    async def _watch_silence(self) -> None:
        """Pings a quiet stream; raises _StreamFailed when it stays quiet."""
        loop = asyncio.get_running_loop()
        while True:
            slept_at = loop.time()
            await asyncio.sleep(PING_AFTER_S)
            was_late = loop.time() - slept_at > 2 * PING_AFTER_S
            if was_late or not (self._calls or self._watches):
                self._heard_at = loop.time()  # we did not listen, or nobody has to speak
            quiet_s = loop.time() - self._heard_at
            if quiet_s >= SILENCE_MAX_S:
                raise _StreamFailed(f"silent for {quiet_s:.1f} s")
            if quiet_s >= PING_AFTER_S:
                self._send(task_pb2.Request(id=next(self._ids), unwatch=task_pb2.Unwatch()))

    # ------------------------------------------------------------------------------------------ incoming

    def _take(self, response: task_pb2.Response) -> None:
        watch = self._watches.get(response.id)
        if watch is not None:
            self._take_events(response, watch)
            return
        call = self._calls.get(response.id)
        if call is None or call.answer.done():
            return  # a ping's answer, or its caller gave up
        if response.HasField("failure") and response.failure.code != task_pb2.FAILURE_CODE_INVALID:
            self._route.problem = f"{self._route.address}: {response.failure.message}"
            pause_s = RETRY_PAUSE_S * random.uniform(0.5, 1.0)
            asyncio.get_running_loop().call_later(pause_s, self._send_again, call)
            return
        call.answer.set_result(response)

    def _send_again(self, call: _Call) -> None:
        if not call.answer.done() and not self._is_closed:
            self._send(call.request)

    def _take_events(self, response: task_pb2.Response, watch: Watch) -> None:
        if response.HasField("watch_events"):
            watch.push(response.watch_events)
            if watch.is_overflown:
                self._drop_watch(response.id)
            return
        del self._watches[response.id]
        if response.failure.code == task_pb2.FAILURE_CODE_INVALID:
            watch.fail(RequestRefused(response.failure.message))
        else:
            asyncio.get_running_loop().call_later(RETRY_PAUSE_S, self._open, watch)


def _watch_request(watch_id: int, watch: Watch) -> task_pb2.Request:
    return task_pb2.Request(id=watch_id, watch_tasks=task_pb2.WatchTasks(prefix=watch.prefix, from_index=watch.index))
