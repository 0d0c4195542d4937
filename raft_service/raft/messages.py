"""The words that the core speaks: messages, entries, hard state, snapshots, membership changes.

Everything here is a plain value. `Entry` and `Message` are made by the thousand on the hot path, so they are slotted
but not frozen (a frozen dataclass costs three times as much to make); the rule is the same: once made, never changed.
They travel between nodes by reference in tests, so a change would show on another node.

Node ids, terms and log indexes are integers from 1; 0 means "none" (`NONE`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum

NONE = 0

CAMPAIGN_TRANSFER = b"CampaignTransfer"
"""Context of a vote request that the leader itself asked for; voters then skip the leader's lease."""

ENTRY_OVERHEAD_BYTES = 12
"""What an entry costs besides its data, about its encoded term, index, type and length; keeps empty ones countable."""


class MessageType(IntEnum):
    """Kinds of messages; names and numbers as in etcd/raft."""

    MSG_HUP = 0
    MSG_BEAT = 1
    MSG_PROP = 2
    MSG_APP = 3
    MSG_APP_RESP = 4
    MSG_VOTE = 5
    MSG_VOTE_RESP = 6
    MSG_SNAP = 7
    MSG_HEARTBEAT = 8
    MSG_HEARTBEAT_RESP = 9
    MSG_UNREACHABLE = 10
    MSG_SNAP_STATUS = 11
    MSG_CHECK_QUORUM = 12
    MSG_TRANSFER_LEADER = 13
    MSG_TIMEOUT_NOW = 14
    MSG_READ_INDEX = 15
    MSG_READ_INDEX_RESP = 16
    MSG_PRE_VOTE = 17
    MSG_PRE_VOTE_RESP = 18
    MSG_FORGET_LEADER = 23


LOCAL_MESSAGES = frozenset(
    {
        MessageType.MSG_HUP,
        MessageType.MSG_BEAT,
        MessageType.MSG_UNREACHABLE,
        MessageType.MSG_SNAP_STATUS,
        MessageType.MSG_CHECK_QUORUM,
        MessageType.MSG_FORGET_LEADER,
    }
)
"""Kinds that a node only ever sends to itself."""

RESPONSE_MESSAGES = frozenset(
    {
        MessageType.MSG_APP_RESP,
        MessageType.MSG_VOTE_RESP,
        MessageType.MSG_HEARTBEAT_RESP,
        MessageType.MSG_READ_INDEX_RESP,
        MessageType.MSG_PRE_VOTE_RESP,
    }
)
"""Kinds that answer something; dropped when they come from a node outside the configuration."""

AFTER_PERSIST_MESSAGES = frozenset({MessageType.MSG_APP_RESP, MessageType.MSG_VOTE_RESP, MessageType.MSG_PRE_VOTE_RESP})
"""Kinds that promise something about this node's disk: they leave only after the state they speak of is durable."""


class EntryType(IntEnum):
    """What the data of an entry is."""

    NORMAL = 0
    CONF_CHANGE = 1


class Role(IntEnum):
    """What a node does in its term."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


@dataclass(slots=True)
class Entry:
    """One record of the replicated log. An empty CONF_CHANGE means: leave the joint configuration."""

    term: int = 0
    index: int = 0
    type: EntryType = EntryType.NORMAL
    data: bytes = b""


def payload_bytes(entries: list[Entry]) -> int:
    """Bytes of user data in the entries; the no-op of a leader and a leave of a joint configuration count zero."""
    total = 0
    for entry in entries:
        total += len(entry.data)
    return total


def entries_bytes(entries: list[Entry]) -> int:
    """Bytes of the entries with their overhead, for limits on messages and reads."""
    return payload_bytes(entries) + ENTRY_OVERHEAD_BYTES * len(entries)


def limit_bytes(entries: list[Entry], max_bytes: int) -> list[Entry]:
    """The longest prefix of at most `max_bytes`, but never less than one entry, so that progress is always possible."""
    total = 0
    for count, entry in enumerate(entries):
        total += len(entry.data) + ENTRY_OVERHEAD_BYTES
        if total > max_bytes and count:
            return entries[:count]
    return entries


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be on disk before a node answers anybody."""

    term: int = 0
    vote: int = NONE
    commit: int = 0


@dataclass(frozen=True, slots=True)
class SoftState:
    """What is worth telling and need not be stored."""

    lead: int = NONE
    role: Role = Role.FOLLOWER


@dataclass(frozen=True, slots=True)
class ConfState:
    """The members as of some log index; ids sorted."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False


@dataclass(frozen=True, slots=True)
class SnapshotMetadata:
    """What a snapshot covers."""

    conf_state: ConfState = field(default_factory=ConfState)
    index: int = 0
    term: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state machine's state up to an index; index 0 means no snapshot."""

    metadata: SnapshotMetadata = field(default_factory=SnapshotMetadata)
    data: bytes = b""


def initial_snapshot(voters: tuple[int, ...], learners: tuple[int, ...] = ()) -> Snapshot:
    """What every first member of a new cluster starts from: the members, at index 1 of term 1, and no data.

    Starting from a snapshot instead of from conf change entries means that all members begin with the same log and
    configuration without exchanging a message.
    """
    return Snapshot(SnapshotMetadata(ConfState(voters=tuple(sorted(voters)), learners=tuple(sorted(learners))), 1, 1))


class ConfChangeType(IntEnum):
    """What to do with a node."""

    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class ConfChangeTransition(IntEnum):
    """How to get to the new configuration."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


@dataclass(frozen=True, slots=True)
class ConfChangeSingle:
    """One node of a membership change."""

    type: ConfChangeType
    node_id: int


@dataclass(frozen=True, slots=True)
class ConfChange:
    """A membership change; without any changes it means: leave the joint configuration."""

    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    changes: tuple[ConfChangeSingle, ...] = ()
    context: bytes = b""

    @property
    def leaves_joint(self) -> bool:
        """True when it ends a joint configuration."""
        return not self.changes and self.transition is ConfChangeTransition.AUTO

    @property
    def enters_joint(self) -> bool:
        """True when it needs joint consensus: asked for, or more than one change at once."""
        return self.transition is not ConfChangeTransition.AUTO or len(self.changes) > 1

    @property
    def auto_leave(self) -> bool:
        """True when the leader shall end the joint configuration by itself."""
        return self.transition is not ConfChangeTransition.JOINT_EXPLICIT


@dataclass(slots=True)
class Message:
    """One message between nodes, or from a node to itself.

    `index` and `log_term` are those of the entry before `entries` (MSG_APP), of the last entry (votes), or of what a
    response speaks about. `from_` of MSG_TRANSFER_LEADER is the node that shall lead. `context` carries the identity
    of a read, or CAMPAIGN_TRANSFER in a vote request.
    """

    type: MessageType
    to: int = NONE
    from_: int = NONE
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: list[Entry] = field(default_factory=list)
    commit: int = 0
    vote: int = NONE
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""


@dataclass(frozen=True, slots=True)
class ReadState:
    """A read that may be served once the log is applied up to `index`."""

    index: int
    request_ctx: bytes


class CampaignKind(Enum):
    """Why a node asks for votes."""

    PRE_ELECTION = "pre-election"
    ELECTION = "election"
    TRANSFER = "transfer"
