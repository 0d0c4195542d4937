"""What a node of the core can be told; checked when it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .messages import NONE

UNLIMITED = (1 << 63) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of one node. Times are counted in ticks; what a tick is, the caller decides.

    Raises ValueError for values that do not fit together.
    """

    id: int
    """This node; never 0, never given to another node, not even after this one is gone."""
    randrange: Callable[[int], int]
    """randrange(n) gives a number from 0 to n - 1; used to spread the election timeouts."""
    election_tick: int = 10
    """A follower that hears nothing for election_tick to 2 * election_tick - 1 ticks campaigns."""
    heartbeat_tick: int = 1
    """A leader sends heartbeats every so many ticks; less than election_tick, better a fifth or less."""
    max_size_per_msg: int = 1 << 20
    """Bytes of entries in one append: what one slow message may cost, yet enough for thousands of small entries."""
    max_inflight_msgs: int = 256
    """Unacknowledged appends per follower: covers 256 / RTT appends a second, 5,000 at 50 ms."""
    max_inflight_bytes: int = 0
    """Unacknowledged bytes per follower; 0: no limit. Not less than max_size_per_msg."""
    max_uncommitted_bytes: int = 64 << 20
    """Bytes proposed and not committed before proposals are refused: bounds memory while there is no quorum."""
    max_committed_bytes: int = 4 << 20
    """Committed bytes handed out and not applied: bounds one turn's work of the state machine."""
    check_quorum: bool = True
    """A leader that hears no quorum for election_tick steps down; voters that hear a leader refuse other candidates."""
    pre_vote: bool = True
    """Ask whether an election could be won before disturbing anyone with a new term."""
    step_down_on_removal: bool = True
    """A leader that has applied its own removal stops leading, so that the others elect a member."""
    commit_in_votes: bool = True
    """Refused votes carry the voter's commit index (`commit`, its term in `log_term`), other than in etcd/raft.

    Members act on a change when they apply it. If the message that tells of the change's commit is lost with its
    leader, the remaining voters ask the old majority, and removed members whose logs are longer refuse for ever. The
    commit index in the refusal lets the candidate apply the change and ask the new majority.
    """
    disable_proposal_forwarding: bool = False
    """Followers refuse proposals instead of passing them to the leader."""
    disable_conf_change_validation: bool = False
    """Let the state machine alone judge membership changes; for tests of its own checks."""
    applied: int = 0
    """Last index that the state machine already holds; entries up to it are not handed out again."""
    trace: Callable[[str], None] | None = None
    """Called with one line for each notable event: elections, roles, rejections, snapshots."""

    def __post_init__(self) -> None:
        if self.id == NONE:
            raise ValueError("id must not be 0: 0 means 'no node'; give every node a number from 1")
        if self.heartbeat_tick < 1:
            raise ValueError(f"heartbeat_tick is {self.heartbeat_tick}; it must be at least 1")
        if self.election_tick <= self.heartbeat_tick:
            raise ValueError(
                f"election_tick ({self.election_tick}) must be larger than heartbeat_tick ({self.heartbeat_tick})"
            )
        for name in ("max_inflight_msgs", "max_uncommitted_bytes", "max_committed_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if 0 < self.max_inflight_bytes < self.max_size_per_msg:
            raise ValueError(
                f"max_inflight_bytes ({self.max_inflight_bytes}) must not be less than max_size_per_msg "
                f"({self.max_size_per_msg}), or one message fills the window; 0 means no limit"
            )
