"""Majorities, single and joint: which index is committed, and whether a vote is won. Pure functions on sets of ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum

EVERYTHING = (1 << 64) - 1
"""What an empty majority has committed: it never holds the other half of a joint configuration back."""


class VoteResult(Enum):
    """Where a vote stands."""

    PENDING = "VotePending"
    LOST = "VoteLost"
    WON = "VoteWon"


def majority_committed_index(voters: Collection[int], acked: Callable[[int], int]) -> int:
    """The largest index that a majority of `voters` has; `acked(id)` is 0 for a voter never heard of."""
    count = len(voters)
    if count == 0:
        return EVERYTHING
    if count == 1:
        return acked(next(iter(voters)))
    indexes = sorted(map(acked, voters))
    # With n voters sorted upwards, everything from position n - (n//2 + 1) on is a majority.
    return indexes[count - (count // 2 + 1)]


def majority_vote_result(voters: Collection[int], votes: Mapping[int, bool]) -> VoteResult:
    """Won with a majority of yes, lost when a majority of yes is out of reach. An empty majority is won."""
    if not voters:
        return VoteResult.WON
    needed = len(voters) // 2 + 1
    yes = missing = 0
    for voter in voters:
        vote = votes.get(voter)
        if vote is None:
            missing += 1
        elif vote:
            yes += 1
    if yes >= needed:
        return VoteResult.WON
    return VoteResult.PENDING if yes + missing >= needed else VoteResult.LOST


@dataclass(frozen=True, slots=True)
class JointVoters:
    """Two majorities that must both agree; outside a transition the outgoing one is empty and agrees with all."""

    incoming: frozenset[int] = frozenset()
    outgoing: frozenset[int] = frozenset()

    @property
    def is_joint(self) -> bool:
        """True in the middle of a membership change."""
        return bool(self.outgoing)

    def ids(self) -> frozenset[int]:
        """All voters of both halves."""
        return self.incoming | self.outgoing

    def committed_index(self, acked: Callable[[int], int]) -> int:
        """The largest index that both halves have."""
        index = majority_committed_index(self.incoming, acked)
        if not self.outgoing:
            return index
        return min(index, majority_committed_index(self.outgoing, acked))

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        """Won when both halves are won, lost when one is lost."""
        first = majority_vote_result(self.incoming, votes)
        if not self.outgoing:
            return first
        second = majority_vote_result(self.outgoing, votes)
        if first is second:
            return first
        if VoteResult.LOST in (first, second):
            return VoteResult.LOST
        return VoteResult.PENDING

    def __str__(self) -> str:
        text = format_ids(self.incoming)
        return f"{text}&&{format_ids(self.outgoing)}" if self.outgoing else text


def format_ids(ids: Collection[int]) -> str:
    """Ids as `(1 2 3)`."""
    return "(" + " ".join(str(node_id) for node_id in sorted(ids)) + ")"
