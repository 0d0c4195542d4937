"""One outgoing stream to one peer: dials, sends what is queued, dials again when it breaks."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import grpc.aio

from orchestrator_proto import raft_pb2
from raft_service.config import TlsFiles
from raft_service.rpc.channel import open_channel
from raft_service.rpc.raft_codec import batch

log = logging.getLogger(__name__)

EXCHANGE = "/orchestrator.RaftService/Exchange"
ACCEPTED_KEY = "orchestrator-accepted"

# Raft sends again what is lost, so a full queue drops. 16 MiB is a second of a slow link; more would only be stale.
QUEUE_BYTES_MAX = 16 * 1024 * 1024
QUEUE_MESSAGES_MAX = 4096
# One message on the wire. A batch of appends holds up to that; a single larger message still goes alone.
BATCH_BYTES_MAX = 2 * 1024 * 1024
# Longer than a TLS handshake between clouds, shorter than gRPC's own 20 s.
CONNECT_S_MAX = 3.0
# A write that the peer does not take for so long, or messages that nothing answers for so long: the connection may be
# dead without a reset (a cut cable), and TCP would find out only after minutes. Several election timeouts.
SILENCE_S_MAX = 3.0
# A node that restarts is reached again soon; doubling spares the log of one that is away for hours.
RETRY_S_MIN = 0.02
RETRY_S_MAX = 0.5


# Sends encoded batches, so that nothing is encoded twice.
ExchangeCall: TypeAlias = "grpc.aio.StreamUnaryCall[bytes, raft_pb2.ExchangeSummary]"


@dataclass(frozen=True, slots=True)
class Dial:
    """Whom to dial, and what to say first."""

    address: str
    tls: TlsFiles | None
    hello: raft_pb2.RaftBatch

    @property
    def peer_id(self) -> int:
        """The node id of the peer."""
        return self.hello.to

    def exchange(self, channel: grpc.aio.Channel) -> ExchangeCall:
        """Opens the stream; it takes encoded batches."""
        method: Callable[[], ExchangeCall] = channel.stream_unary(
            EXCHANGE, response_deserializer=raft_pb2.ExchangeSummary.FromString
        )
        return method()


class StreamRefused(Exception):
    """The peer ended the stream before it accepted the hello; the message says why."""


async def say_hello(call: ExchangeCall, dial: Dial) -> None:
    """Sends the hello and waits until the peer accepts it.

    Raises:
        StreamRefused: it did not, or could not be reached.
    """
    try:
        async with asyncio.timeout(CONNECT_S_MAX):
            await call.write(dial.hello.SerializeToString())
            metadata = await call.initial_metadata()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        metadata = None  # told below, from the status
    except TimeoutError:
        raise StreamRefused(f"no answer within {CONNECT_S_MAX} s") from None
    if metadata is None or ACCEPTED_KEY not in dict(metadata):
        raise StreamRefused(await call.details() or str(await call.code()))


class PeerLink:
    """Sends to one peer on one stream class. `run` is its task; everything happens in one event loop.

    Args:
        on_broken: called when an accepted stream ended without our doing: the peer's process is gone, most likely.
        last_heard: monotonic seconds of the last message from that peer, on any stream.
    """

    def __init__(self, dial: Dial, *, on_broken: Callable[[int], None], last_heard: Callable[[int], float]) -> None:
        self.is_connected = False
        self.dropped = 0
        self._dial = dial
        self._on_broken = on_broken
        self._last_heard = last_heard
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._wake = asyncio.Event()
        self._unanswered_since: float | None = None

    def offer(self, message: bytes) -> bool:
        """Queues an encoded message; False when it was dropped because the peer is away or too slow."""
        is_full = len(self._queue) >= QUEUE_MESSAGES_MAX or self._queue_bytes >= QUEUE_BYTES_MAX
        if is_full or not self.is_connected:
            self.dropped += 1
            return False
        self._queue.append(message)
        self._queue_bytes += len(message)
        self._wake.set()
        return True

    async def run(self) -> None:
        """Keeps a stream open until canceled."""
        pause_s, last_reason = RETRY_S_MIN, ""
        while True:
            channel = open_channel(self._dial.address, self._dial.tls)
            try:
                reason = await self._session(channel)
                pause_s = RETRY_S_MIN
            except StreamRefused as refused:
                reason = str(refused)
            finally:
                self._disconnected()
                await channel.close()
            if reason != last_reason:  # once, not at every try
                log.info("no stream to peer; peer=%d class=%d reason=%s", *self._names(), reason)
                last_reason = reason
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, RETRY_S_MAX)

    async def _session(self, channel: grpc.aio.Channel) -> str:
        """One stream from hello to its end; returns why it ended."""
        call = self._dial.exchange(channel)
        try:
            await say_hello(call, self._dial)
            log.info("stream to peer open; peer=%d class=%d", *self._names())
            call.add_done_callback(lambda _: self._wake.set())
            self.is_connected = True
            reason = await self._send_until_broken(call)
        finally:
            call.cancel()
        if reason is not None:
            return reason
        self._on_broken(self._dial.peer_id)
        return "the peer ended it"

    async def _send_until_broken(self, call: ExchangeCall) -> str | None:
        """Sends; None when the peer ended the stream, the reason when we give it up."""
        while not call.done():
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            try:
                async with asyncio.timeout(SILENCE_S_MAX):
                    await call.write(self._take_batch())
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return None
            except TimeoutError:
                return f"a write was not taken for {SILENCE_S_MAX} s"
            if self._is_unanswered():
                return f"no answer for {SILENCE_S_MAX} s"
        return None

    def _take_batch(self) -> bytes:
        taken: list[bytes] = []
        size = 0
        while self._queue and (not taken or size + len(self._queue[0]) <= BATCH_BYTES_MAX):
            message = self._queue.popleft()
            taken.append(message)
            size += len(message)
        self._queue_bytes -= size
        return batch(taken)

    def _is_unanswered(self) -> bool:
        """After a write: True when the peer was silent since the first write that it could have answered."""
        now = time.monotonic()
        since = self._unanswered_since
        if since is None or self._last_heard(self._dial.peer_id) >= since:
            self._unanswered_since = now
            return False
        return now - since > SILENCE_S_MAX

    def _disconnected(self) -> None:
        self.is_connected = False
        self._unanswered_since = None
        self._queue.clear()
        self._queue_bytes = 0

    def _names(self) -> tuple[int, int]:
        return self._dial.peer_id, self._dial.hello.stream_class
