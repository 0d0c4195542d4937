"""A Raft cluster in memory on virtual time: real cores, a network and disks that fail when told to.

One tick of `pass_time` is one tick of every node's clock; nothing waits for real time. Each member has a disk that
keeps what was synced. `crash` loses the rest: writes that need no sync (a commit index alone) and, with
`is_disk_behind`, the write under way. The state machine of a member is the list of data applied, so two members agree
when one list is a prefix of the other.

    network = MemoryNetwork(size=3)
    network.elect(1)
    network.propose(b"x")
    assert network.applied(2) == [b"x"]
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from raft_service.raft.config import Config
from raft_service.raft.errors import ConfChangeRefused, PeerUnknown, ProposalDropped
from raft_service.raft.log_storage import MemoryLogStorage
from raft_service.raft.messages import (
    NONE,
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
    initial_snapshot,
)
from raft_service.raft.raw_node import RawNode, Ready

from .conf_change_text import decode_conf_change, encode_conf_change

# Turns without a tick after which a cluster that still talks is taken for a livelock.
SETTLE_TURNS_MAX = 10_000


@dataclass
class Member:
    """One node with its disk and its state machine."""

    raw: RawNode
    config: Config
    storage: MemoryLogStorage
    synced: HardState
    conf_state: ConfState
    applied_index: int = 0
    values: list[bytes] = field(default_factory=list)
    reads: list[ReadState] = field(default_factory=list)
    is_up: bool = True

    def apply(self, entry: Entry) -> None:
        """Apply one committed entry."""
        self.applied_index = entry.index
        if entry.type is EntryType.CONF_CHANGE:
            try:
                self.conf_state = self.raw.apply_conf_change(decode_conf_change(entry.data))
            except ConfChangeRefused:
                # Impossible on every member alike, so every member skips it.
                return
        elif entry.data:
            self.values.append(entry.data)

    def restore(self, snapshot: Snapshot) -> None:
        """Start the state machine from a snapshot."""
        self.applied_index = snapshot.metadata.index
        self.conf_state = snapshot.metadata.conf_state
        self.values = _unpack(snapshot.data)


def _pack(values: list[bytes]) -> bytes:
    return json.dumps([value.hex() for value in values]).encode()


def _unpack(data: bytes) -> list[bytes]:
    return [bytes.fromhex(text) for text in json.loads(data)] if data else []


class MemoryNetwork:
    """A cluster. All randomness comes from `seed`, so a run repeats exactly."""

    def __init__(
        self,
        *,
        size: int = 3,
        seed: int = 0,
        learners: Iterable[int] = (),
        trace: Callable[[str], None] | None = None,
        **settings: int | bool,
    ) -> None:
        """Members 1 to `size`, those in `learners` without a vote; `settings` go to every `Config`."""
        self.random = random.Random(seed)
        self.members: dict[int, Member] = {}
        self.now = 0
        self.drop_if: Callable[[Message], bool] | None = None
        """Drops the messages for which it is true."""
        self.drop_rate = 0.0
        self.duplicate_rate = 0.0
        self.delay_ticks_max = 0
        """Each message takes 0 to this many ticks, so messages may overtake one another."""
        self.on_applied: Callable[[int, Entry], None] | None = None
        """Called with member and entry for each entry applied."""
        self._settings = settings
        self._trace = trace
        self._cut: set[tuple[int, int]] = set()
        self._queue: list[tuple[int, int, Message]] = []
        self._sent = 0
        quiet = set(learners)
        ids = range(1, size + 1)
        start = initial_snapshot(tuple(i for i in ids if i not in quiet), tuple(quiet))
        for node_id in ids:
            self._join(node_id, start)

    # Members.

    def _config(self, node_id: int) -> Config:
        base = Config(id=node_id, randrange=self.random.randrange, election_tick=10, trace=self._trace)
        return replace(base, **self._settings)  # type: ignore[arg-type]  # names are checked by Config

    def _join(self, node_id: int, snapshot: Snapshot | None) -> None:
        storage = MemoryLogStorage()
        if snapshot is not None:
            storage.apply_snapshot(snapshot)
        config = self._config(node_id)
        raw = RawNode(config, storage)
        member = Member(raw, config, storage, HardState(), ConfState())
        member.restore(storage.snapshot())
        self.members[node_id] = member

    def add_empty(self, node_id: int) -> None:
        """A new process that knows nothing; it becomes a member by a membership change."""
        self._join(node_id, None)

    def node(self, node_id: int) -> RawNode:
        """The core of a member."""
        return self.members[node_id].raw

    def applied(self, node_id: int) -> list[bytes]:
        """What a member's state machine holds."""
        return self.members[node_id].values

    def up(self) -> list[Member]:
        """Members that run."""
        return [member for member in self.members.values() if member.is_up]

    def leaders(self) -> list[int]:
        """Running members that believe they lead; those of old terms included."""
        return [member.raw.id for member in self.up() if member.raw.is_leader]

    def leader(self) -> int:
        """The running leader of the highest term; 0 without one."""
        return max(self.leaders(), key=lambda node_id: self.node(node_id).term, default=NONE)

    # Failures.

    def cut(self, sender: int, receiver: int) -> None:
        """Lose everything in this direction."""
        self._cut.add((sender, receiver))

    def isolate(self, node_id: int) -> None:
        """Cut a member off in both directions."""
        for other in self.members:
            if other != node_id:
                self.cut(node_id, other)
                self.cut(other, node_id)

    def partition(self, *groups: Iterable[int]) -> None:
        """Only members of the same group reach each other from now on."""
        self.heal()
        group_of = {node_id: place for place, group in enumerate(groups) for node_id in group}
        for sender in self.members:
            for receiver in self.members:
                if group_of.get(sender, -sender) != group_of.get(receiver, -receiver):
                    self.cut(sender, receiver)

    def heal(self) -> None:
        """Restore all connections; what was lost stays lost."""
        self._cut.clear()

    def crash(self, node_id: int, *, is_disk_behind: bool = False) -> None:
        """Stop a member at once. With `is_disk_behind`, in the middle of a turn, before its write was synced."""
        member = self.members[node_id]
        if is_disk_behind and member.is_up and member.raw.has_ready():
            ready = member.raw.ready()
            if member.raw.is_leader:
                # Leaders send while they write, so these messages may be out already.
                self._send(ready.messages)
        member.is_up = False

    def restart(self, node_id: int) -> None:
        """Start a member from what its disk holds."""
        member = self.members[node_id]
        member.storage.set_hard_state(member.synced)
        member.restore(member.storage.snapshot())
        member.config = replace(member.config, applied=member.applied_index)
        member.raw = RawNode(member.config, member.storage)
        member.reads = []
        member.is_up = True

    # Input.

    def propose(self, data: bytes, *, via: int = NONE) -> bool:
        """Propose at a member, the leader by default, and settle; False when it was dropped."""
        return self._propose(lambda raw: raw.propose(data), via)

    def change_members(self, change: ConfChange, *, via: int = NONE) -> bool:
        """Propose a membership change and settle; False when it was dropped."""
        return self._propose(lambda raw: raw.propose_conf_change(change, encode_conf_change(change)), via)

    def _propose(self, action: Callable[[RawNode], None], via: int) -> bool:
        target = via or self.leader()
        if target == NONE:
            return False
        try:
            action(self.node(target))
        except ProposalDropped:
            return False
        self.settle()
        return True

    def elect(self, node_id: int) -> None:
        """Let a member campaign and settle. Raises AssertionError if it does not win."""
        self.node(node_id).campaign()
        self.settle()
        assert self.node(node_id).is_leader, f"{node_id} did not win the election: {self.describe()}"

    def compact(self, node_id: int, *, keep: int = 0) -> None:
        """Take a snapshot of a member's state machine and forget all but `keep` entries before it."""
        member = self.members[node_id]
        storage = member.storage
        if member.applied_index > storage.snapshot().metadata.index:
            storage.create_snapshot(member.applied_index, member.conf_state, _pack(member.values))
        if member.applied_index - keep >= storage.first_index():
            storage.compact(member.applied_index - keep)

    # Time.

    def pass_time(self, ticks: int = 1) -> None:
        """Let time pass and everything happen that is due."""
        for _ in range(ticks):
            self.now += 1
            for member in self.up():
                member.raw.tick()
            self.settle()

    def run_until(self, condition: Callable[[], bool], *, ticks_max: int = 500) -> None:
        """Let time pass until `condition` holds. Raises AssertionError after `ticks_max` ticks."""
        for _ in range(ticks_max):
            if condition():
                return
            self.pass_time()
        assert condition(), f"not reached in {ticks_max} ticks: {self.describe()}"

    def run_until_leader(self, *, ticks_max: int = 500) -> int:
        """Let time pass until a leader has committed in its term; returns it."""
        self.run_until(lambda: any(self.node(i).has_committed_in_term for i in self.leaders()), ticks_max=ticks_max)
        return self.leader()

    def settle(self) -> None:
        """Handle everything that is due now: Readies and messages, until nothing is left."""
        for _ in range(SETTLE_TURNS_MAX):
            if not self._turn_all() and not self._deliver_due():
                return
        raise AssertionError(f"the cluster does not come to rest: {self.describe()}")

    def _turn_all(self) -> bool:
        has_worked = False
        for member in self.up():
            if member.raw.has_ready():
                self.turn(member.raw.id)
                has_worked = True
        return has_worked

    def turn(self, node_id: int) -> None:
        """Deal with one Ready of a member, in the order that RawNode asks for."""
        member = self.members[node_id]
        is_leader = member.raw.is_leader
        ready = member.raw.ready()
        if is_leader:
            self._send(ready.messages)
        self._write(member, ready)
        if not is_leader:
            self._send(ready.messages)
        if ready.snapshot is not None:
            member.restore(ready.snapshot)
        for entry in ready.committed_entries:
            member.apply(entry)
            if self.on_applied is not None:
                self.on_applied(node_id, entry)
        member.reads += ready.read_states
        member.raw.advance()

    def _write(self, member: Member, ready: Ready) -> None:
        if ready.snapshot is not None:
            member.storage.apply_snapshot(ready.snapshot)
        member.storage.append(ready.entries)
        if ready.hard_state is not None:
            member.storage.set_hard_state(ready.hard_state)
        if ready.must_sync or ready.snapshot is not None:
            # One ordered log: syncing anything syncs all that was written before.
            member.synced = member.storage.initial_state()[0]

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            if self._is_lost(message):
                self._report(message, ok=False)
                continue
            self._put(message)
            if self.random.random() < self.duplicate_rate:
                self._put(message)

    def _is_lost(self, message: Message) -> bool:
        if (message.from_, message.to) in self._cut or self.random.random() < self.drop_rate:
            return True
        return self.drop_if is not None and self.drop_if(message)

    def _put(self, message: Message) -> None:
        due = self.now + (self.random.randint(0, self.delay_ticks_max) if self.delay_ticks_max else 0)
        self._sent += 1
        heapq.heappush(self._queue, (due, self._sent, message))

    def _deliver_due(self) -> bool:
        has_delivered = False
        while self._queue and self._queue[0][0] <= self.now:
            self._deliver(heapq.heappop(self._queue)[2])
            has_delivered = True
        return has_delivered

    def _deliver(self, message: Message) -> None:
        member = self.members.get(message.to)
        if member is None or not member.is_up or (message.from_, message.to) in self._cut:
            self._report(message, ok=False)
            return
        try:
            member.raw.step(message)
        except (PeerUnknown, ProposalDropped):
            # A removed member's answer, or a forwarded proposal that was not taken: lost, as in real life.
            pass
        self._report(message, ok=True)

    def _report(self, message: Message, *, ok: bool) -> None:
        """A transport tells how sending a snapshot ended, or the leader would wait for its answer for ever."""
        sender = self.members[message.from_]
        if message.type is MessageType.MSG_SNAP and sender.is_up:
            sender.raw.report_snapshot(message.to, ok=ok)

    def describe(self) -> str:
        """One line on every member, for messages of failed tests."""
        words = []
        for node_id, member in self.members.items():
            status = member.raw.status()
            role = Role(status.role).name.lower() if member.is_up else "down"
            words.append(
                f"{node_id}: {role} term={status.term} lead={status.lead} commit={status.commit} "
                f"applied={status.applied}"
            )
        return f"t={self.now} " + "; ".join(words)
