"""The configuration in force and the leader's view of every member: progress, votes, who is active."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .inflights import Inflights
from .messages import ConfState
from .progress import Progress
from .quorum import JointVoters, VoteResult, format_ids


@dataclass(frozen=True, slots=True)
class MemberConfig:
    """Who votes, who only learns. `learners_next` are outgoing voters that become learners when a joint change ends.

    Invariants: learners and voters are disjoint; `learners_next` is a part of the outgoing voters.
    """

    voters: JointVoters = field(default_factory=JointVoters)
    learners: frozenset[int] = frozenset()
    learners_next: frozenset[int] = frozenset()
    auto_leave: bool = False

    def conf_state(self) -> ConfState:
        """The same, as it is stored in snapshots."""
        return ConfState(
            voters=tuple(sorted(self.voters.incoming)),
            learners=tuple(sorted(self.learners)),
            voters_outgoing=tuple(sorted(self.voters.outgoing)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )

    def __str__(self) -> str:
        text = f"voters={self.voters}"
        if self.learners:
            text += f" learners={format_ids(self.learners)}"
        if self.learners_next:
            text += f" learners_next={format_ids(self.learners_next)}"
        return text + (" autoleave" if self.auto_leave else "")


class ProgressTracker:
    """All members of the configuration in force."""

    __slots__ = ("config", "max_inflight_bytes", "max_inflight_messages", "progress", "votes")

    def __init__(self, *, max_inflight_messages: int, max_inflight_bytes: int) -> None:
        self.max_inflight_messages = max_inflight_messages
        self.max_inflight_bytes = max_inflight_bytes
        self.config = MemberConfig()
        self.progress: dict[int, Progress] = {}
        self.votes: dict[int, bool] = {}

    def new_inflights(self) -> Inflights:
        """An empty window of this cluster's size."""
        return Inflights(max_messages=self.max_inflight_messages, max_bytes=self.max_inflight_bytes)

    def switch(self, config: MemberConfig, progress: dict[int, Progress]) -> None:
        """Take another configuration; members are kept in the order of their ids, which is the order of sending."""
        self.config = config
        self.progress = dict(sorted(progress.items()))

    def others(self, own_id: int) -> Iterator[tuple[int, Progress]]:
        """All members but one, by id."""
        for node_id, progress in self.progress.items():
            if node_id != own_id:
                yield node_id, progress

    def is_singleton(self) -> bool:
        """True when one voter alone is the whole quorum."""
        return len(self.config.voters.incoming) == 1 and not self.config.voters.outgoing

    def _acked(self, node_id: int) -> int:
        progress = self.progress.get(node_id)
        return progress.match if progress is not None else 0

    def committed(self) -> int:
        """The largest index that a quorum has acknowledged."""
        return self.config.voters.committed_index(self._acked)

    def quorum_active(self) -> bool:
        """True when a quorum was heard from since the last check."""
        votes = {node_id: pr.recent_active for node_id, pr in self.progress.items() if not pr.is_learner}
        return self.config.voters.vote_result(votes) is VoteResult.WON

    def reset_votes(self) -> None:
        """Start a new ballot."""
        self.votes = {}

    def record_vote(self, node_id: int, *, granted: bool) -> None:
        """Count a vote; only the first of each node counts."""
        self.votes.setdefault(node_id, granted)

    def vote_result(self) -> VoteResult:
        """Where the ballot stands."""
        return self.config.voters.vote_result(self.votes)
