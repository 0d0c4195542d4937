"""Every kind of message survives the wire, and the hand-made encoding of appends is what protobuf would have made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator_proto import raft_pb2
from raft_service.raft.messages import (
    CAMPAIGN_TRANSFER,
    LOCAL_MESSAGES,
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
    Snapshot,
    SnapshotMetadata,
)
from raft_service.rpc import raft_codec, snapshot_transfer
from raft_service.rpc.raft_codec import EntryEncoder, UnknownMessage

ENTRIES = [Entry(2, 8, EntryType.NORMAL, b"x" * 300), Entry(3, 9, EntryType.CONF_CHANGE, b""), Entry(3, 10)]
ENDS = {"to": 2, "from_": 1, "term": 7}

SAMPLES = [
    Message(MessageType.MSG_APP, index=7, log_term=2, commit=6, entries=ENTRIES, **ENDS),
    Message(MessageType.MSG_APP, **ENDS),
    Message(MessageType.MSG_APP_RESP, index=9, **ENDS),
    Message(MessageType.MSG_APP_RESP, index=9, reject=True, reject_hint=5, log_term=2, **ENDS),
    Message(MessageType.MSG_VOTE, index=9, log_term=2, **ENDS),
    Message(MessageType.MSG_VOTE, index=9, log_term=2, context=CAMPAIGN_TRANSFER, **ENDS),
    Message(MessageType.MSG_PRE_VOTE, index=9, log_term=2, **ENDS),
    Message(MessageType.MSG_VOTE_RESP, **ENDS),
    Message(MessageType.MSG_VOTE_RESP, reject=True, commit=4, log_term=2, **ENDS),
    Message(MessageType.MSG_PRE_VOTE_RESP, **ENDS),
    Message(MessageType.MSG_PRE_VOTE_RESP, reject=True, **ENDS),
    Message(MessageType.MSG_HEARTBEAT, commit=6, context=b"read", **ENDS),
    Message(MessageType.MSG_HEARTBEAT, **ENDS),
    Message(MessageType.MSG_HEARTBEAT_RESP, context=b"read", **ENDS),
    Message(MessageType.MSG_HEARTBEAT_RESP, **ENDS),
    Message(MessageType.MSG_TIMEOUT_NOW, **ENDS),
    Message(MessageType.MSG_READ_INDEX, to=2, from_=1, context=b"read"),
    Message(MessageType.MSG_READ_INDEX_RESP, index=12, context=b"read", **ENDS),
]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda message: message.type.name)
def test_message_survives_the_wire(message: Message) -> None:
    data = raft_codec.batch([EntryEncoder().message(message)])
    wire = raft_pb2.RaftBatch.FromString(data)
    assert [raft_codec.decode_message(one) for one in wire.messages] == [message]


def test_every_kind_that_leaves_a_node_has_a_sample() -> None:
    elsewhere = {MessageType.MSG_PROP, MessageType.MSG_SNAP, MessageType.MSG_TRANSFER_LEADER}
    assert {message.type for message in SAMPLES} == set(MessageType) - LOCAL_MESSAGES - elsewhere


def test_transfer_names_the_transferee_as_sender() -> None:
    message = Message(MessageType.MSG_TRANSFER_LEADER, to=2, from_=3, term=7)
    data = EntryEncoder().message(message)
    assert raft_codec.decode_message(raft_pb2.RaftMessage.FromString(data)) == message


def test_append_is_the_encoding_that_protobuf_makes() -> None:
    wire = raft_pb2.RaftMessage(to=2, term=7)
    setattr(wire, "from", 1)
    wire.append_entries.prev_log_index = 7
    wire.append_entries.prev_log_term = 2
    wire.append_entries.commit = 6
    for entry in ENTRIES:
        wire.append_entries.entries.add(term=entry.term, index=entry.index, type=int(entry.type), data=entry.data)
    assert raft_pb2.RaftMessage.FromString(EntryEncoder().message(SAMPLES[0])) == wire


def test_entry_is_encoded_once() -> None:
    encoder = EntryEncoder()
    first = encoder.encode(Entry(1, 5, EntryType.NORMAL, b"a"))
    assert encoder.encode(Entry(1, 5, EntryType.NORMAL, b"a")) is first
    assert encoder.encode(Entry(2, 5, EntryType.NORMAL, b"b")).data != first.data


def test_memory_of_encoded_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_codec, "CACHE_BYTES_MAX", 1000)
    encoder = EntryEncoder()
    for index in range(1, 100):
        assert encoder.encode(Entry(1, index, EntryType.NORMAL, bytes(100))).index == index
    assert sum(len(one.data) for one in encoder._known.values()) <= 1000


def test_message_of_a_newer_version_is_refused() -> None:
    with pytest.raises(UnknownMessage, match="same version"):
        raft_codec.decode_message(raft_pb2.RaftMessage(to=1, term=1))


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 2**63), st.integers(1, 2**63))
def test_any_entries_survive(datas: list[bytes], term: int, index: int) -> None:
    entries = [Entry(term, index + offset, EntryType.NORMAL, data) for offset, data in enumerate(datas)]
    message = Message(MessageType.MSG_APP, index=index - 1, log_term=term, entries=entries, **ENDS)
    wire = raft_pb2.RaftMessage.FromString(EntryEncoder().message(message))
    assert raft_codec.decode_message(wire) == message


def test_state_members_and_changes_survive() -> None:
    state = HardState(term=4, vote=2, commit=9)
    assert raft_codec.decode_hard_state(raft_codec.encode_hard_state(state)) == state
    members = ConfState(voters=(1, 2, 3), learners=(4,), voters_outgoing=(1, 2), learners_next=(2,), auto_leave=True)
    metadata = SnapshotMetadata(members, 12, 4)
    assert raft_codec.decode_snapshot_metadata(raft_codec.encode_snapshot_metadata(metadata)) == metadata
    changes = tuple(ConfChangeSingle(kind, 7) for kind in ConfChangeType)
    change = ConfChange(ConfChangeTransition.JOINT_EXPLICIT, changes, b"name@address")
    assert raft_codec.decode_conf_change(raft_codec.encode_conf_change(change)) == change
    assert raft_codec.decode_conf_change(b"").leaves_joint


@pytest.mark.parametrize("size", [0, 1, 1000, 2048, 2049])
def test_snapshot_survives_its_chunks(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_transfer, "CHUNK_BYTES", 1024)
    message = _snapshot_message(size)
    chunks = list(snapshot_transfer.chunks(message))
    assembly = snapshot_transfer.SnapshotAssembly()
    assert [assembly.add(chunk) for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert assembly.add(chunks[-1]) == message


def test_snapshot_with_a_missing_or_changed_chunk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_transfer, "CHUNK_BYTES", 1024)
    chunks = list(snapshot_transfer.chunks(_snapshot_message(3000)))
    missing = snapshot_transfer.SnapshotAssembly()
    missing.add(chunks[0])
    with pytest.raises(snapshot_transfer.SnapshotRefused, match="does not continue"):
        missing.add(chunks[2])
    changed = snapshot_transfer.SnapshotAssembly()
    changed.add(chunks[0])
    chunks[1].install_snapshot.data = bytes(1024)
    changed.add(chunks[1])
    with pytest.raises(snapshot_transfer.SnapshotRefused, match="checksum"):
        changed.add(chunks[2])


def _snapshot_message(size: int) -> Message:
    data = bytes(number % 251 for number in range(size))
    snapshot = Snapshot(SnapshotMetadata(ConfState(voters=(1, 2)), 10, 3), data)
    return Message(MessageType.MSG_SNAP, snapshot=snapshot, **ENDS)
