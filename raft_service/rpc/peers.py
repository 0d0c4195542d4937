"""Between the nodes: who dials whom, who is let in, which message takes which stream.

Every node dials every other once per stream class and only sends there; what it receives comes on the streams that
the others dialed. So the end of a stream tells its dialer that the peer is gone, and votes and heartbeats, appends,
and snapshots never wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Protocol

import grpc
import grpc.aio

from orchestrator_proto import raft_pb2, raft_pb2_grpc
from raft_service.config import Member, NodeSettings
from raft_service.raft.messages import Message, MessageType
from raft_service.rpc.peer_link import ACCEPTED_KEY, Dial, PeerLink
from raft_service.rpc.raft_codec import EntryEncoder, UnknownMessage, decode_message
from raft_service.rpc.snapshot_transfer import SnapshotAssembly, SnapshotRefused, send

log = logging.getLogger(__name__)

_APPEND_KINDS = frozenset({MessageType.MSG_APP, MessageType.MSG_APP_RESP})
# Never leave a node: followers refuse proposals (the client finds the leader itself), the rest is local to the core.
_HOME_KINDS = frozenset({MessageType.MSG_PROP})


class PeerEvents(Protocol):
    """What the transport tells the driver; called in the event loop, must return at once."""

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages of one peer, in order; at least one."""

    def peer_broken(self, node_id: int) -> None:
        """A stream that we dialed to the peer ended: its process is gone, most likely."""

    def peer_unreachable(self, node_id: int) -> None:
        """An append to the peer was dropped."""

    def snapshot_sent(self, node_id: int, *, ok: bool) -> None:
        """The peer has the snapshot, or did not get it."""


class PeerTransport(raft_pb2_grpc.RaftServiceServicer):
    """All streams of one node. `add_to` a server, then `start`."""

    def __init__(self, settings: NodeSettings) -> None:
        self._me = settings.me
        self._cluster_id = settings.cluster_id
        self._tls = settings.tls
        self._members = {member.node_id: member for member in settings.members}
        self._encoder = EntryEncoder()
        self._events: PeerEvents | None = None
        self._links: dict[tuple[int, int], PeerLink] = {}
        self._heard: dict[int, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._snapshots_to: set[int] = set()

    @property
    def encoder(self) -> EntryEncoder:
        """The encoder shared with the log, so that an entry is encoded once."""
        return self._encoder

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the service that the other nodes dial."""
        raft_pb2_grpc.add_RaftServiceServicer_to_server(self, server)  # type: ignore[no-untyped-call]

    def start(self, events: PeerEvents) -> None:
        """Begins to dial the peers, and to let their messages in."""
        self._events = events
        for member in self._members.values():
            if member.node_id == self._me.node_id:
                continue
            for stream_class in (raft_pb2.STREAM_CLASS_CONTROL, raft_pb2.STREAM_CLASS_APPEND):
                link = PeerLink(
                    self._dial(member, stream_class),
                    on_broken=events.peer_broken,
                    last_heard=lambda node_id: self._heard.get(node_id, 0.0),
                )
                self._links[member.node_id, stream_class] = link
                self._spawn(link.run())

    async def stop(self) -> None:
        """Ends all outgoing streams, and lets nothing in any more."""
        self._events = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._links.clear()

    def send(self, messages: Sequence[Message]) -> None:
        """Queues messages, each on the stream of its kind; drops what cannot be queued, as Raft allows."""
        for message in messages:
            if message.type is MessageType.MSG_SNAP:
                self._begin_snapshot(message)
            elif message.type not in _HOME_KINDS:
                self._queue(message)

    def connected(self) -> dict[int, bool]:
        """Which peers have all streams open, for the status page."""
        result: dict[int, bool] = {}
        for (node_id, _), link in self._links.items():
            result[node_id] = result.get(node_id, True) and link.is_connected
        return result

    async def Exchange(self, request_iterator: Any, context: Any) -> raft_pb2.ExchangeSummary:
        """Takes a peer's messages until it or we go away."""
        hello = await context.read()
        if hello is grpc.aio.EOF:
            return raft_pb2.ExchangeSummary()
        if self._events is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "This node is not ready yet.")
        refusal = self._refusal(hello)
        if refusal:
            log.warning("stream refused; reason=%s", refusal)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, refusal)
        await context.send_initial_metadata(((ACCEPTED_KEY, "1"),))
        sender, assembly = getattr(hello, "from"), SnapshotAssembly()
        received, batch = 0, hello
        while batch is not grpc.aio.EOF:
            try:
                self._take(sender, batch, assembly)
            except (UnknownMessage, SnapshotRefused) as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            received += len(batch.messages)
            batch = await context.read()
        return raft_pb2.ExchangeSummary(received=received)

    def _refusal(self, hello: raft_pb2.RaftBatch) -> str:
        sender = getattr(hello, "from")
        if hello.cluster_id != self._cluster_id:
            return (
                f"This is cluster {self._cluster_id!r}, the caller is of {hello.cluster_id!r}; correct "
                "RAFT_CLUSTER_ID or RAFT_PEERS."
            )
        if hello.to != self._me.node_id or sender == self._me.node_id or sender not in self._members:
            return (
                f"Node {sender} wanted node {hello.to} and reached node {self._me.node_id} ({self._me.name}); "
                "RAFT_PEERS must be the same list in the same order on all nodes."
            )
        if hello.stream_class == raft_pb2.STREAM_CLASS_UNSPECIFIED:
            return f"Node {sender} named no stream class."
        return ""

    def _take(self, sender: int, batch: raft_pb2.RaftBatch, assembly: SnapshotAssembly) -> None:
        if not batch.messages:
            return
        self._heard[sender] = time.monotonic()
        messages = []
        for wire in batch.messages:
            if getattr(wire, "from") != sender or wire.to != self._me.node_id:
                raise UnknownMessage(f"Node {sender} sent a message that is not from it to node {self._me.node_id}.")
            if wire.WhichOneof("body") == "install_snapshot":
                complete = assembly.add(wire)
                messages += [complete] if complete is not None else []
            else:
                messages.append(decode_message(wire))
        if messages and self._events is not None:
            self._events.receive(messages)

    def _queue(self, message: Message) -> None:
        is_append = message.type in _APPEND_KINDS
        stream_class = raft_pb2.STREAM_CLASS_APPEND if is_append else raft_pb2.STREAM_CLASS_CONTROL
        link = self._links.get((message.to, stream_class))
        is_queued = link is not None and link.is_connected and link.offer(self._encoder.message(message))
        if not is_queued and message.type is MessageType.MSG_APP and self._events is not None:
            self._events.peer_unreachable(message.to)

    def _begin_snapshot(self, message: Message) -> None:
        """One snapshot at a time per peer: a second one only competes for the same link."""
        if message.to in self._snapshots_to or message.to not in self._members:
            return
        self._snapshots_to.add(message.to)
        self._spawn(self._send_snapshot(message))

    async def _send_snapshot(self, message: Message) -> None:
        peer = message.to
        try:
            reason = await send(self._dial(self._members[peer], raft_pb2.STREAM_CLASS_SNAPSHOT), message)
        finally:
            self._snapshots_to.discard(peer)
        if reason:
            log.warning("snapshot not delivered; peer=%d reason=%s", peer, reason)
        if self._events is not None:
            self._events.snapshot_sent(peer, ok=not reason)

    def _dial(self, member: Member, stream_class: raft_pb2.StreamClass) -> Dial:
        hello = raft_pb2.RaftBatch(cluster_id=self._cluster_id, to=member.node_id, stream_class=stream_class)
        setattr(hello, "from", self._me.node_id)
        return Dial(member.address, self._tls, hello)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
