"""The handle on one Raft node: messages, ticks and proposals in, a `Ready` out, `advance()` when it is dealt with.

The caller's duties, in this order, for every Ready:

1. Write `hard_state`, `entries` and `snapshot` to disk; sync when `must_sync` is set or there is a snapshot.
2. Send `messages`. A *leader* may do this before or while it writes: its own acknowledgement counts only on advance().
   Everyone else must write first, for its messages are promises about its disk.
3. Restore `snapshot`, if there is one, then apply `committed_entries` in order; pass every applied CONF_CHANGE entry
   (decoded) to `apply_conf_change`. An entry with empty data is a leader's no-op, or leaves a joint configuration.
4. Serve `read_states` whose index is applied by now.
5. Call `advance()`.

After a snapshot was sent, or failed to be, call `report_snapshot`; call `report_unreachable` when a connection broke.
Messages may be stepped between `ready()` and `advance()`. Nothing here is thread-safe: one thread, one node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from . import leading, membership
from .config import Config
from .core import Core
from .errors import InvariantBroken, LocalMessageRefused, PeerUnknown
from .log_storage import LogStorage
from .messages import (
    LOCAL_MESSAGES,
    RESPONSE_MESSAGES,
    ConfChange,
    ConfState,
    Entry,
    EntryType,
    HardState,
    Message,
    MessageType,
    ReadState,
    Role,
    Snapshot,
    SoftState,
    entries_bytes,
    payload_bytes,
)
from .progress import Progress
from .step import step, tick
from .tracker import MemberConfig


@dataclass(frozen=True, slots=True)
class Ready:
    """What the node wants done; see the module's text for the order."""

    soft_state: SoftState | None = None
    """Leader or role, when it changed."""
    hard_state: HardState | None = None
    """Term, vote or commit index, when one changed."""
    read_states: list[ReadState] = field(default_factory=list)
    """Reads to serve once their index is applied."""
    entries: list[Entry] = field(default_factory=list)
    """Entries to write; from the first index on they replace what the disk holds."""
    snapshot: Snapshot | None = None
    """A snapshot to write and restore; it replaces the whole log."""
    committed_entries: list[Entry] = field(default_factory=list)
    """Entries to apply. Some of them may stand in `entries` too: they are committed by others."""
    messages: list[Message] = field(default_factory=list)
    """Messages to send, in order."""
    must_sync: bool = False
    """True when term, vote or entries changed, so that the write must be synced."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a node knows about itself; `progress` is empty unless it leads."""

    id: int
    term: int
    vote: int
    lead: int
    role: Role
    commit: int
    applied: int
    lead_transferee: int
    progress: dict[int, Progress]
    config: MemberConfig


@dataclass(slots=True)
class _Handed:
    """What the last Ready handed out, to be settled by advance()."""

    own_acks: list[Message]
    stable_index: int
    stable_term: int
    snapshot_index: int
    applied_index: int
    applied_bytes: int
    applied_payload_bytes: int


class RawNode:
    """One Raft node."""

    __slots__ = ("_core", "_handed", "_hard_state", "_soft_state")

    def __init__(self, config: Config, storage: LogStorage) -> None:
        """Start as a follower from what `storage` holds. Raises InvariantBroken when that is damaged."""
        self._core = Core(config, storage)
        membership.start(self._core)
        self._soft_state = self._core.soft_state()
        self._hard_state = self._core.hard_state()
        self._handed: _Handed | None = None

    # Input.

    def tick(self) -> None:
        """One tick of the caller's clock passed."""
        tick(self._core)

    def campaign(self) -> None:
        """Start an election now; with pre-vote this disturbs nobody who hears a leader."""
        step(self._core, Message(MessageType.MSG_HUP))

    def propose(self, *datas: bytes) -> None:
        """Propose entries; all go into one append. Raises ProposalDropped, ValueError without any."""
        if not datas:
            raise ValueError("propose() needs at least one entry's data")
        entries = [Entry(data=data) for data in datas]
        step(self._core, Message(MessageType.MSG_PROP, from_=self._core.id, entries=entries))

    def propose_conf_change(self, change: ConfChange, data: bytes) -> None:
        """Propose a membership change; `data` is its encoded form, which travels in the log.

        Leaving a joint configuration has empty data, so that the leader can tell without decoding. A leader puts an
        empty entry in the place of a change that must not start now. Raises ProposalDropped, ValueError.
        """
        if bool(change.changes) != bool(data):
            raise ValueError(
                "a change of members needs its encoded data, and leaving a joint configuration needs empty data, "
                f"but {len(change.changes)} changes came with {len(data)} bytes"
            )
        entry = Entry(type=EntryType.CONF_CHANGE, data=data)
        step(self._core, Message(MessageType.MSG_PROP, from_=self._core.id, entries=[entry]))

    def step(self, message: Message) -> None:
        """Handle a message from another node.

        Raises LocalMessageRefused or PeerUnknown for one that must be dropped, ProposalDropped for a forwarded
        proposal that was not taken.
        """
        if message.type in LOCAL_MESSAGES:
            raise LocalMessageRefused
        if message.type in RESPONSE_MESSAGES and message.from_ not in self._core.tracker.progress:
            raise PeerUnknown
        step(self._core, message)

    def read_index(self, ctx: bytes) -> None:
        """Ask for a linearizable read, to come back as a ReadState with the same `ctx`.

        `ctx` must be new for every try and not empty. The request may get lost, as any message: try again after a
        while. Raises ValueError for an empty `ctx`.
        """
        if not ctx:
            raise ValueError("a read needs an identity that is not empty")
        step(self._core, Message(MessageType.MSG_READ_INDEX, context=ctx))

    def transfer_leader(self, node_id: int) -> None:
        """Move leadership to a voter; at a follower the wish is passed on to the leader."""
        step(self._core, Message(MessageType.MSG_TRANSFER_LEADER, from_=node_id))

    def forget_leader(self) -> None:
        """Follower: count the leader as gone, so that this node votes at once."""
        step(self._core, Message(MessageType.MSG_FORGET_LEADER))

    def report_unreachable(self, node_id: int) -> None:
        """The connection to a node broke: what was sent may be lost."""
        step(self._core, Message(MessageType.MSG_UNREACHABLE, from_=node_id))

    def report_snapshot(self, node_id: int, *, ok: bool) -> None:
        """Sending a snapshot to a node ended."""
        step(self._core, Message(MessageType.MSG_SNAP_STATUS, from_=node_id, reject=not ok))

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Take a committed membership change into force, while applying its entry; returns the members from now on.

        Raises ConfChangeRefused when the change is impossible; the same on every node, so skipping it is safe.
        """
        return membership.apply_conf_change(self._core, change)

    # Output.

    def has_ready(self) -> bool:
        """True when `ready()` would hold anything."""
        core = self._core
        log = core.log
        return bool(
            core.msgs
            or core.msgs_after_append
            or core.read_states
            or log.unstable.has_next_entries()
            or log.has_next_committed_entries()
            or log.unstable.next_snapshot() is not None
            or self._has_state_changed()
        )

    def _has_state_changed(self) -> bool:
        # Asked after every event, so field by field, without making a state to compare.
        core, hard, soft = self._core, self._hard_state, self._soft_state
        return (
            core.log.committed != hard.commit
            or core.term != hard.term
            or core.vote != hard.vote
            or core.lead != soft.lead
            or core.role is not soft.role
        )

    def ready(self) -> Ready:
        """Hand out what is to be done. Raises InvariantBroken when the last one was not advanced."""
        if self._handed is not None:
            raise InvariantBroken("ready() was called twice without advance()")
        core = self._core
        soft_state, hard_state = core.soft_state(), core.hard_state()
        entries = core.log.unstable.next_entries()
        ready = Ready(
            soft_state=None if soft_state == self._soft_state else soft_state,
            hard_state=None if hard_state == self._hard_state else hard_state,
            read_states=core.read_states,
            entries=entries,
            snapshot=core.log.unstable.next_snapshot(),
            committed_entries=core.log.next_committed_entries(),
            messages=core.msgs + [message for message in core.msgs_after_append if message.to != core.id],
            must_sync=bool(entries)
            or (hard_state.term, hard_state.vote) != (self._hard_state.term, self._hard_state.vote),
        )
        self._soft_state, self._hard_state = soft_state, hard_state
        self._hand_out(ready)
        return ready

    def _hand_out(self, ready: Ready) -> None:
        core = self._core
        log = core.log
        committed = ready.committed_entries
        self._handed = _Handed(
            own_acks=[message for message in core.msgs_after_append if message.to == core.id],
            stable_index=log.last_index() if log.unstable.entries else 0,
            stable_term=log.last_term() if log.unstable.entries else 0,
            snapshot_index=ready.snapshot.metadata.index if ready.snapshot is not None else 0,
            applied_index=committed[-1].index if committed else 0,
            applied_bytes=entries_bytes(committed),
            applied_payload_bytes=payload_bytes(committed),
        )
        core.msgs = []
        core.msgs_after_append = []
        core.read_states = []
        log.unstable.accept_in_progress()
        if committed:
            log.accept_applying(committed[-1].index, self._handed.applied_bytes)

    def advance(self) -> None:
        """Everything of the last Ready is done: written, sent, applied. Raises InvariantBroken without one."""
        handed = self._handed
        if handed is None:
            raise InvariantBroken("advance() was called without ready()")
        self._handed = None
        core = self._core
        for message in handed.own_acks:
            step(core, message)
        # What was replaced since ready() has another term and stays unstable: see Unstable.stable_to.
        if handed.stable_index:
            core.log.unstable.stable_to(index=handed.stable_index, term=handed.stable_term)
        if handed.snapshot_index:
            core.log.unstable.stable_snapshot_to(handed.snapshot_index)
            leading.applied_to(core, handed.snapshot_index, 0)
        if handed.applied_index:
            leading.applied_to(core, handed.applied_index, handed.applied_bytes)
            core.reduce_uncommitted(handed.applied_payload_bytes)

    # What can be seen.

    @property
    def id(self) -> int:
        """This node."""
        return self._core.id

    @property
    def term(self) -> int:
        """The present term."""
        return self._core.term

    @property
    def lead(self) -> int:
        """The leader of this term as far as this node knows; 0: none."""
        return self._core.lead

    @property
    def role(self) -> Role:
        """What this node does in this term."""
        return self._core.role

    @property
    def is_leader(self) -> bool:
        """True when this node leads."""
        return self._core.role is Role.LEADER

    @property
    def has_committed_in_term(self) -> bool:
        """True when an entry of this term is committed: a leader's commit index is current from then on."""
        return self._core.has_committed_in_term()

    def status(self) -> Status:
        """A copy of what the node knows about itself."""
        core = self._core
        progress = core.tracker.progress.items() if core.role is Role.LEADER else ()
        return Status(
            id=core.id,
            term=core.term,
            vote=core.vote,
            lead=core.lead,
            role=core.role,
            commit=core.log.committed,
            applied=core.log.applied,
            lead_transferee=core.lead_transferee,
            progress={node_id: member.copy() for node_id, member in progress},
            config=core.tracker.config,
        )
