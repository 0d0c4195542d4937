"""The core's messages to bytes of raft.proto, and back.

An entry is encoded once: the same bytes go to the log and to every peer. Protobuf in Python has no way to put encoded
bytes into a message, so the few layers around the entries (batch, message, AppendEntries) are put together here, by
protobuf's own rule that the concatenation of two encodings is the encoding of the merged message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from orchestrator_proto import raft_pb2
from raft_service.raft.messages import (
    CAMPAIGN_TRANSFER,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    SnapshotMetadata,
)
from raft_service.storage.wal import EncodedEntry

# Encoded entries kept for peers that lag a little; about one second of a busy leader.
CACHE_BYTES_MAX = 16 * 1024 * 1024

_LENGTH_DELIMITED = 2
_ENTRY_TYPES = {
    EntryType.NORMAL: raft_pb2.ENTRY_TYPE_NORMAL,
    EntryType.CONF_CHANGE: raft_pb2.ENTRY_TYPE_CONF_CHANGE,
}
_CORE_ENTRY_TYPES = {value: key for key, value in _ENTRY_TYPES.items()}


class UnknownMessage(Exception):
    """A peer sent a message without a body that we know; a newer version, most likely."""


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(message: type, name: str) -> bytes:
    number: int = message.DESCRIPTOR.fields_by_name[name].number  # type: ignore[attr-defined]
    return _varint(number << 3 | _LENGTH_DELIMITED)


_BATCH_MESSAGES = _tag(raft_pb2.RaftBatch, "messages")
_MESSAGE_APPEND = _tag(raft_pb2.RaftMessage, "append_entries")
_APPEND_ENTRIES = _tag(raft_pb2.AppendEntries, "entries")


def batch(messages: Iterable[bytes]) -> bytes:
    """A RaftBatch (without hello) of encoded messages."""
    return b"".join(part for data in messages for part in (_BATCH_MESSAGES, _varint(len(data)), data))


class EntryEncoder:
    """Encodes entries, and remembers the bytes of the latest. Index and term name an entry's content for ever."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], EncodedEntry] = {}
        self._bytes = 0

    def encode(self, entry: Entry) -> EncodedEntry:
        """The entry as bytes."""
        key = (entry.index, entry.term)
        known = self._known.get(key)
        if known is not None:
            return known
        stored = raft_pb2.Entry(
            term=entry.term, index=entry.index, type=_ENTRY_TYPES[entry.type], data=entry.data
        ).SerializeToString()
        encoded = EncodedEntry(index=entry.index, term=entry.term, data=stored)
        self._known[key] = encoded
        self._bytes += len(stored)
        while self._bytes > CACHE_BYTES_MAX:
            oldest = self._known.pop(next(iter(self._known)))
            self._bytes -= len(oldest.data)
        return encoded

    def message(self, message: Message) -> bytes:
        """A message of any kind but MSG_SNAP (see snapshot_chunks) as an encoded RaftMessage.

        Raises:
            KeyError: a kind that never leaves a node.
        """
        if message.type is MessageType.MSG_APP:
            return self._append(message)
        return _ENCODERS[message.type](message).SerializeToString()

    def _append(self, message: Message) -> bytes:
        head = raft_pb2.AppendEntries(
            prev_log_index=message.index, prev_log_term=message.log_term, commit=message.commit
        ).SerializeToString()
        parts = [head]
        for entry in message.entries:
            data = self.encode(entry).data
            parts += (_APPEND_ENTRIES, _varint(len(data)), data)
        body = b"".join(parts)
        return b"".join((_envelope(message).SerializeToString(), _MESSAGE_APPEND, _varint(len(body)), body))


def _envelope(message: Message) -> raft_pb2.RaftMessage:
    out = raft_pb2.RaftMessage(to=message.to, term=message.term)
    setattr(out, "from", message.from_)
    return out


def _vote(message: Message) -> raft_pb2.RaftMessage:
    out = _envelope(message)
    out.request_vote.pre_vote = message.type is MessageType.MSG_PRE_VOTE
    out.request_vote.last_log_index = message.index
    out.request_vote.last_log_term = message.log_term
    out.request_vote.is_transfer = message.context == CAMPAIGN_TRANSFER
    return out


def _vote_resp(message: Message) -> raft_pb2.RaftMessage:
    out = _envelope(message)
    out.request_vote_response.pre_vote = message.type is MessageType.MSG_PRE_VOTE_RESP
    out.request_vote_response.granted = not message.reject
    out.request_vote_response.commit = message.commit
    out.request_vote_response.commit_term = message.log_term
    return out


def _append_resp(message: Message) -> raft_pb2.RaftMessage:
    out = _envelope(message)
    out.append_entries_response.index = message.index
    out.append_entries_response.reject = message.reject
    out.append_entries_response.reject_hint = message.reject_hint
    out.append_entries_response.hint_term = message.log_term
    return out


def _heartbeat(message: Message) -> raft_pb2.RaftMessage:
    out = _envelope(message)
    out.heartbeat.commit = message.commit
    out.heartbeat.context = message.context
    return out


def _heartbeat_resp(message: Message) -> raft_pb2.RaftMessage:
    out = _envelope(message)
    out.heartbeat_response.SetInParent()
    out.heartbeat_response.context = message.context
    return out


def _timeout_now(message: Message) -> raft_pb2.RaftMessage:
    out = _envelope(message)
    out.timeout_now.SetInParent()
    return out


def _read_index(message: Message) -> raft_pb2.RaftMessage:
    out = _envelope(message)
    out.read_index.context = message.context
    return out


def _read_index_resp(message: Message) -> raft_pb2.RaftMessage:
    out = _envelope(message)
    out.read_index_response.context = message.context
    out.read_index_response.index = message.index
    return out


def _transfer(message: Message) -> raft_pb2.RaftMessage:
    out = _envelope(message)
    out.transfer_leader.transferee = message.from_  # the core names the transferee as the sender, as etcd does
    return out


_ENCODERS: dict[MessageType, Callable[[Message], raft_pb2.RaftMessage]] = {
    MessageType.MSG_VOTE: _vote,
    MessageType.MSG_PRE_VOTE: _vote,
    MessageType.MSG_VOTE_RESP: _vote_resp,
    MessageType.MSG_PRE_VOTE_RESP: _vote_resp,
    MessageType.MSG_APP_RESP: _append_resp,
    MessageType.MSG_HEARTBEAT: _heartbeat,
    MessageType.MSG_HEARTBEAT_RESP: _heartbeat_resp,
    MessageType.MSG_TIMEOUT_NOW: _timeout_now,
    MessageType.MSG_READ_INDEX: _read_index,
    MessageType.MSG_READ_INDEX_RESP: _read_index_resp,
    MessageType.MSG_TRANSFER_LEADER: _transfer,
}


def decode_message(wire: raft_pb2.RaftMessage) -> Message:
    """The core's form of a message that is not a snapshot chunk.

    Raises:
        UnknownMessage: its body is of a kind that this version does not know.
    """
    kind = wire.WhichOneof("body")
    sender = getattr(wire, "from")
    if kind not in _DECODERS:
        raise UnknownMessage(f"Node {sender} sent a message of an unknown kind; run the same version on all nodes.")
    message_type, fields = _DECODERS[kind](getattr(wire, kind))
    fields.setdefault("from_", sender)
    return Message(type=message_type, to=wire.to, term=wire.term, **fields)


_Fields = tuple[MessageType, dict[str, Any]]


def _decode_vote(body: raft_pb2.RequestVote) -> _Fields:
    kind = MessageType.MSG_PRE_VOTE if body.pre_vote else MessageType.MSG_VOTE
    context = CAMPAIGN_TRANSFER if body.is_transfer else b""
    return kind, {"index": body.last_log_index, "log_term": body.last_log_term, "context": context}


def _decode_vote_resp(body: raft_pb2.RequestVoteResponse) -> _Fields:
    kind = MessageType.MSG_PRE_VOTE_RESP if body.pre_vote else MessageType.MSG_VOTE_RESP
    return kind, {"reject": not body.granted, "commit": body.commit, "log_term": body.commit_term}


def _decode_append(body: raft_pb2.AppendEntries) -> _Fields:
    return MessageType.MSG_APP, {
        "index": body.prev_log_index,
        "log_term": body.prev_log_term,
        "commit": body.commit,
        "entries": [decode_entry(entry) for entry in body.entries],
    }


def _decode_append_resp(body: raft_pb2.AppendEntriesResponse) -> _Fields:
    return MessageType.MSG_APP_RESP, {
        "index": body.index,
        "reject": body.reject,
        "reject_hint": body.reject_hint,
        "log_term": body.hint_term,
    }


_DECODERS: dict[str | None, Callable[..., _Fields]] = {
    "request_vote": _decode_vote,
    "request_vote_response": _decode_vote_resp,
    "append_entries": _decode_append,
    "append_entries_response": _decode_append_resp,
    "heartbeat": lambda body: (MessageType.MSG_HEARTBEAT, {"commit": body.commit, "context": body.context}),
    "heartbeat_response": lambda body: (MessageType.MSG_HEARTBEAT_RESP, {"context": body.context}),
    "timeout_now": lambda body: (MessageType.MSG_TIMEOUT_NOW, {}),
    "read_index": lambda body: (MessageType.MSG_READ_INDEX, {"context": body.context}),
    "read_index_response": lambda body: (
        MessageType.MSG_READ_INDEX_RESP,
        {"index": body.index, "context": body.context},
    ),
    "transfer_leader": lambda body: (MessageType.MSG_TRANSFER_LEADER, {"from_": body.transferee}),
}


def decode_entry(entry: raft_pb2.Entry) -> Entry:
    """The core's form of an entry."""
    return Entry(term=entry.term, index=entry.index, type=_CORE_ENTRY_TYPES[entry.type], data=entry.data)


def encode_hard_state(state: HardState) -> raft_pb2.HardState:
    """As protobuf."""
    return raft_pb2.HardState(term=state.term, vote=state.vote, commit=state.commit)


def encode_snapshot_metadata(metadata: SnapshotMetadata) -> raft_pb2.SnapshotMetadata:
    """As protobuf."""
    conf = metadata.conf_state
    return raft_pb2.SnapshotMetadata(
        conf_state=raft_pb2.ConfState(
            voters=conf.voters,
            learners=conf.learners,
            voters_outgoing=conf.voters_outgoing,
            learners_next=conf.learners_next,
            auto_leave=conf.auto_leave,
        ),
        index=metadata.index,
        term=metadata.term,
    )


def decode_snapshot_metadata(metadata: raft_pb2.SnapshotMetadata) -> SnapshotMetadata:
    """The core's form."""
    conf = metadata.conf_state
    state = ConfState(
        voters=tuple(conf.voters),
        learners=tuple(conf.learners),
        voters_outgoing=tuple(conf.voters_outgoing),
        learners_next=tuple(conf.learners_next),
        auto_leave=conf.auto_leave,
    )
    return SnapshotMetadata(state, metadata.index, metadata.term)


def encode_conf_change(change: ConfChange) -> bytes:
    """The data of a CONF_CHANGE entry."""
    changes = [
        raft_pb2.ConfChangeSingle(type=raft_pb2.ConfChangeType.Name(one.type), node_id=one.node_id)
        for one in change.changes
    ]
    wire = raft_pb2.ConfChange(
        transition=raft_pb2.ConfChangeTransition.Name(change.transition), changes=changes, context=change.context
    )
    return wire.SerializeToString()


def decode_conf_change(data: bytes) -> ConfChange:
    """The core's form of the data of a CONF_CHANGE entry."""
    wire = raft_pb2.ConfChange.FromString(data)
    changes = tuple(ConfChangeSingle(ConfChangeType(one.type), one.node_id) for one in wire.changes)
    return ConfChange(ConfChangeTransition(wire.transition), changes, wire.context)


def decode_hard_state(state: raft_pb2.HardState) -> HardState:
    """The core's form."""
    return HardState(term=state.term, vote=state.vote, commit=state.commit)
