"""What the leader knows about one follower's log, and how it may send to it.

Three states (the words are etcd/raft's):

    PROBE      the leader does not know where the logs meet: one append at a time, then wait for the answer
    REPLICATE  they meet: stream appends ahead of the acknowledgements, within the in-flight window
    SNAPSHOT   the entries it needs are compacted away: send a snapshot, then nothing until it is applied

    PROBE --accepted--> REPLICATE --rejected or unreachable--> PROBE --entries compacted--> SNAPSHOT --> PROBE
"""

from __future__ import annotations

import copy
from enum import Enum

from .errors import InvariantBroken
from .inflights import Inflights


class ProgressState(Enum):
    """How the leader sends to a follower."""

    PROBE = "StateProbe"
    REPLICATE = "StateReplicate"
    SNAPSHOT = "StateSnapshot"


class Progress:
    """One follower as the leader sees it. Invariant: match < next."""

    __slots__ = (
        "inflights",
        "is_flow_paused",
        "is_learner",
        "match",
        "next",
        "pending_snapshot",
        "recent_active",
        "sent_commit",
        "state",
    )

    def __init__(self, *, next_index: int, inflights: Inflights, is_learner: bool = False, match: int = 0) -> None:
        self.match = match
        self.next = next_index
        # The largest commit index sent that cannot have been lost since, as far as the leader can tell.
        self.sent_commit = 0
        self.state = ProgressState.PROBE
        # Index of the snapshot on its way; 0 outside SNAPSHOT.
        self.pending_snapshot = 0
        # Heard from since the last quorum check.
        self.recent_active = False
        # In PROBE: an append is on its way. In REPLICATE: the window is full. A heartbeat's answer lifts it.
        self.is_flow_paused = False
        self.inflights = inflights
        self.is_learner = is_learner

    def copy(self) -> Progress:
        """A copy that shares the in-flight window, so that a membership change that fails has changed nothing."""
        return copy.copy(self)

    def _enter(self, state: ProgressState) -> None:
        self.is_flow_paused = False
        self.pending_snapshot = 0
        self.state = state
        self.inflights.reset()

    def become_probe(self) -> None:
        """Ask again where the logs meet; after a snapshot, from its index on."""
        pending = self.pending_snapshot if self.state is ProgressState.SNAPSHOT else 0
        self._enter(ProgressState.PROBE)
        self.next = max(self.match, pending) + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """The logs meet at `match`: stream from there."""
        self._enter(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """A snapshot up to `index` is being sent."""
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def sent_entries(self, *, count: int, size: int) -> None:
        """Note an append of `count` entries and `size` bytes. Raises InvariantBroken in SNAPSHOT."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(index=self.next - 1, size=size)
            # An append that fills the window, or an empty one in a full window, is a probe: wait for an answer.
            self.is_flow_paused = self.inflights.is_full()
        elif self.state is ProgressState.PROBE:
            if count:
                self.is_flow_paused = True
        else:
            raise InvariantBroken("an append was sent while a snapshot is pending")

    def can_bump_commit(self, commit: int) -> bool:
        """True when sending `commit` now could move the follower's commit index further than what was sent before."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def maybe_update(self, index: int) -> bool:
        """The follower acknowledged `index`; False for an old answer."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.is_flow_paused = False
        return True

    def maybe_decrease(self, *, rejected: int, hint: int) -> bool:
        """The follower rejected an append after `rejected`, and may meet the log at `hint`; False if old."""
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        else:
            # Probes go one at a time, so only an answer about next - 1 is about the latest one.
            if self.next - 1 != rejected:
                return False
            self.next = max(min(rejected, hint + 1), self.match + 1)
            self.is_flow_paused = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        return True

    def is_paused(self) -> bool:
        """True when no append may be sent now."""
        return self.is_flow_paused or self.state is ProgressState.SNAPSHOT

    def __str__(self) -> str:
        words = [f"{self.state.value} match={self.match} next={self.next}"]
        if self.is_learner:
            words.append("learner")
        if self.is_paused():
            words.append("paused")
        if self.pending_snapshot:
            words.append(f"pendingSnap={self.pending_snapshot}")
        if not self.recent_active:
            words.append("inactive")
        if len(self.inflights):
            words.append(f"inflight={len(self.inflights)}" + ("[full]" if self.inflights.is_full() else ""))
        return " ".join(words)
