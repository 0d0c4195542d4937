"""The state of one Raft node, and the primitives that all handlers share: send, reset, commit, apply.

The algorithm is spread over modules by concern, each a set of functions on `Core`:

    step.py         what a message or a tick leads to (tables by role and kind)
    election.py     campaigns, votes, becoming leader
    leading.py      proposals, quorum checks, leadership transfer
    sending.py      appends, heartbeats and snapshots to followers
    replication.py  their answers
    following.py    appends, heartbeats and snapshots from the leader
    reading.py      ReadIndex
    membership.py   switching configurations

Nothing here touches a socket, a file, a clock or a random generator. What a node wants to say is collected in `msgs`,
and in `msgs_after_append` what it may say only once its disk holds what it promises; `RawNode` hands both out.
"""

from __future__ import annotations

from collections.abc import Callable

from .config import Config
from .errors import InvariantBroken
from .log import RaftLog
from .log_storage import LogStorage
from .messages import AFTER_PERSIST_MESSAGES, NONE, Entry, HardState, Message, MessageType, ReadState, Role, SoftState
from .messages import payload_bytes as payload_bytes_of
from .progress import Progress
from .read_only import ReadOnly
from .tracker import ProgressTracker

# Sent with the term that the ballot is about, which the sender sets.
_BALLOT_MESSAGES = frozenset(
    {MessageType.MSG_VOTE, MessageType.MSG_VOTE_RESP, MessageType.MSG_PRE_VOTE, MessageType.MSG_PRE_VOTE_RESP}
)
# Passed on to the leader on behalf of a client: they belong to no term.
_TERMLESS_MESSAGES = frozenset({MessageType.MSG_PROP, MessageType.MSG_READ_INDEX})


class Core:
    """One node. `step.py` drives it."""

    __slots__ = (
        "config",
        "election_elapsed",
        "heartbeat_elapsed",
        "id",
        "lead",
        "lead_transferee",
        "log",
        "msgs",
        "msgs_after_append",
        "pending_conf_index",
        "pending_reads",
        "randomized_election_timeout",
        "read_only",
        "read_states",
        "role",
        "term",
        "tracker",
        "uncommitted_bytes",
        "vote",
    )

    def __init__(self, config: Config, storage: LogStorage) -> None:
        """A node that has not looked at its stored state yet; `membership.start` does the rest."""
        self.config = config
        self.id = config.id
        self.log = RaftLog(storage, max_applying_bytes=config.max_committed_bytes, trace=config.trace)
        self.tracker = ProgressTracker(
            max_inflight_messages=config.max_inflight_msgs, max_inflight_bytes=config.max_inflight_bytes
        )
        self.term = 0
        self.vote = NONE
        self.lead = NONE
        self.role = Role.FOLLOWER
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.randomized_election_timeout = 0
        # Leader: the node that shall take over; no proposals meanwhile.
        self.lead_transferee = NONE
        # Leader: no new membership change before this index is applied.
        self.pending_conf_index = 0
        # Leader: bytes proposed and not yet applied.
        self.uncommitted_bytes = 0
        self.read_only = ReadOnly()
        # Leader: reads that wait for the first commit of its term.
        self.pending_reads: list[Message] = []
        self.read_states: list[ReadState] = []
        self.msgs: list[Message] = []
        self.msgs_after_append: list[Message] = []

    # What can be seen from outside.

    def soft_state(self) -> SoftState:
        """Leader and role."""
        return SoftState(self.lead, self.role)

    def hard_state(self) -> HardState:
        """Term, vote and commit index."""
        return HardState(self.term, self.vote, self.log.committed)

    def load(self, state: HardState) -> None:
        """Take over the stored hard state. Raises InvariantBroken when the log is shorter than what was committed.

        A commit index below the snapshot's is only old: it need not be synced to disk, a snapshot must.
        """
        self.log.commit_to(state.commit)
        self.term = state.term
        self.vote = state.vote

    def own_progress(self) -> Progress | None:
        """This node as a member; None when it is not one."""
        return self.tracker.progress.get(self.id)

    def is_promotable(self) -> bool:
        """True when it may campaign: a voter that does not wait for a snapshot to be applied."""
        progress = self.own_progress()
        return progress is not None and not progress.is_learner and self.log.unstable.snapshot is None

    def is_past_election_timeout(self) -> bool:
        """True when it has not heard from a leader for its randomised timeout."""
        return self.election_elapsed >= self.randomized_election_timeout

    def has_committed_in_term(self) -> bool:
        """True when an entry of the present term is committed: only then is the commit index known to be current."""
        return self.log.term_or_zero(self.log.committed) == self.term

    def trace(self, text: str) -> None:
        """Tell the trace, if there is one. Hot paths check `config.trace` before they format a line."""
        if self.config.trace is not None:
            self.config.trace(f"{self.id} {text}")

    # Sending.

    def send(self, message: Message) -> None:
        """Stamp a message with sender and term, and queue it. Raises InvariantBroken when the stamp is wrong."""
        if message.from_ == NONE:
            message.from_ = self.id
        kind = message.type
        if kind in _BALLOT_MESSAGES:
            if message.term == 0:
                raise InvariantBroken(f"{kind.name} needs the term of its ballot")
        elif kind not in _TERMLESS_MESSAGES:
            message.term = self.term
        if kind in AFTER_PERSIST_MESSAGES:
            self.msgs_after_append.append(message)
        elif message.to == self.id:
            raise InvariantBroken(f"{kind.name} must not be sent to oneself")
        else:
            self.msgs.append(message)

    # Roles.

    def reset(self, term: int) -> None:
        """Forget everything that belongs to a role; in a new term also the vote."""
        if term != self.term:
            self.term = term
            self.vote = NONE
        self.lead = NONE
        self.election_elapsed = 0
        self.heartbeat_elapsed = 0
        self.randomized_election_timeout = self.config.election_tick + self.config.randrange(self.config.election_tick)
        self.lead_transferee = NONE
        self.tracker.reset_votes()
        last = self.log.last_index()
        for node_id, old in self.tracker.progress.items():
            self.tracker.progress[node_id] = Progress(
                next_index=last + 1,
                inflights=self.tracker.new_inflights(),
                is_learner=old.is_learner,
                match=last if node_id == self.id else 0,
            )
        self.pending_conf_index = 0
        self.uncommitted_bytes = 0
        self.read_only = ReadOnly()
        self.pending_reads = []

    def become_follower(self, term: int, lead: int) -> None:
        """Follow `lead`, or nobody yet."""
        self.reset(term)
        self.lead = lead
        self.role = Role.FOLLOWER
        self.trace(f"became follower at term {self.term}")

    # The leader's own log.

    def append_entries(self, entries: list[Entry]) -> bool:
        """Append proposals with this term and the next indexes; False when too many bytes are uncommitted.

        New entry objects are made: the proposed ones may have come by reference from another node.
        """
        if not self._admit(payload_bytes_of(entries)):
            return False
        term = self.term
        index = self.log.last_index()
        stamped = []
        for entry in entries:
            index += 1
            stamped.append(Entry(term, index, entry.type, entry.data))
        self.log.append(stamped)
        # The leader is one of the quorum, but its own disk counts only when it has written: see RawNode.advance.
        self.send(Message(MessageType.MSG_APP_RESP, to=self.id, index=index))
        return True

    def _admit(self, size: int) -> bool:
        """Count proposed bytes. A single large proposal is admitted when nothing waits; an empty one always."""
        if self.uncommitted_bytes and size and self.uncommitted_bytes + size > self.config.max_uncommitted_bytes:
            return False
        self.uncommitted_bytes += size
        return True

    def reduce_uncommitted(self, size: int) -> None:
        """Applied bytes no longer count. Entries of former leaders were never counted, hence the floor."""
        self.uncommitted_bytes = max(0, self.uncommitted_bytes - size)

    def maybe_commit(self) -> bool:
        """Move the commit index up to what a quorum has, if that is of this term."""
        return self.log.maybe_commit(index=self.tracker.committed(), term=self.term)


Handler = Callable[[Core, Message], None]
"""What a role does with a kind of message."""
