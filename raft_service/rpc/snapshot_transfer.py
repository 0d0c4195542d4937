"""Snapshots to a follower that lags behind the log: cut into chunks, sent on a stream of their own, put together."""

from __future__ import annotations

from collections.abc import Iterator

import google_crc32c
import grpc

from orchestrator_proto import raft_pb2
from raft_service.raft.messages import Message, MessageType, Snapshot
from raft_service.rpc.channel import open_channel
from raft_service.rpc.peer_link import Dial, StreamRefused, say_hello
from raft_service.rpc.raft_codec import decode_snapshot_metadata, encode_snapshot_metadata

# Large enough that the cost of a message does not show, small enough that the event loop breathes in between.
CHUNK_BYTES = 256 * 1024
# Of a whole snapshot at the receiver: what a ledger of a million tasks would take.
SNAPSHOT_BYTES_MAX = 1024 * 1024 * 1024


class SnapshotRefused(Exception):
    """The chunks do not make up a snapshot; the message says why."""


def chunks(message: Message) -> Iterator[raft_pb2.RaftMessage]:
    """Cuts a MSG_SNAP."""
    snapshot = message.snapshot
    assert snapshot is not None, "the core puts a snapshot into every MSG_SNAP"
    metadata = encode_snapshot_metadata(snapshot.metadata)
    data, crc = snapshot.data, google_crc32c.value(snapshot.data)
    for offset in range(0, max(len(data), 1), CHUNK_BYTES):
        out = raft_pb2.RaftMessage(to=message.to, term=message.term)
        setattr(out, "from", message.from_)
        out.install_snapshot.metadata.CopyFrom(metadata)
        out.install_snapshot.offset = offset
        out.install_snapshot.data = data[offset : offset + CHUNK_BYTES]
        out.install_snapshot.total_bytes = len(data)
        out.install_snapshot.crc32c = crc
        yield out


async def send(dial: Dial, message: Message) -> str:
    """Sends a MSG_SNAP; returns "" when the peer has all of it, else the reason."""
    channel = open_channel(dial.address, dial.tls)
    call = dial.exchange(channel)
    try:
        await say_hello(call, dial)
        for chunk in chunks(message):
            await call.write(raft_pb2.RaftBatch(messages=[chunk]).SerializeToString())
        await call.done_writing()
        await call
    except StreamRefused as refused:
        return str(refused)
    except grpc.aio.AioRpcError as error:
        return error.details() or error.code().name
    finally:
        call.cancel()
        await channel.close()
    return ""


class SnapshotAssembly:
    """Puts the chunks of one stream together."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, wire: raft_pb2.RaftMessage) -> Message | None:
        """Takes the next chunk; returns the MSG_SNAP when it was the last.

        Raises:
            SnapshotRefused: a chunk is missing, or the whole is damaged or too large.
        """
        chunk = wire.install_snapshot
        if chunk.offset == 0:
            self._data.clear()
        if chunk.offset != len(self._data) or chunk.total_bytes > SNAPSHOT_BYTES_MAX:
            raise SnapshotRefused(
                f"Chunk at {chunk.offset} does not continue the {len(self._data)} bytes that are here."
            )
        self._data += chunk.data
        if len(self._data) < chunk.total_bytes:
            return None
        data = bytes(self._data)
        self._data.clear()
        if len(data) != chunk.total_bytes or google_crc32c.value(data) != chunk.crc32c:
            raise SnapshotRefused(f"Snapshot at entry {chunk.metadata.index} came with a wrong checksum.")
        return Message(
            type=MessageType.MSG_SNAP,
            to=wire.to,
            from_=getattr(wire, "from"),
            term=wire.term,
            snapshot=Snapshot(decode_snapshot_metadata(chunk.metadata), data),
        )
