"""Errors of the Raft core: what a caller may handle, and what must end the process.

RaftError
├── ProposalDropped        the proposal was not taken; try again, perhaps elsewhere
├── LogCompacted           the entries asked for are covered by a snapshot
├── LogUnavailable         the entries asked for do not exist yet
├── SnapshotUnavailable    no snapshot now; the core asks again
├── PeerUnknown            a response from a node that is not in the configuration
├── LocalMessageRefused    a message kind that must never come from the network
├── ConfChangeRefused      the membership change is impossible
└── InvariantBroken        a bug or lost data: stop the node, never continue
"""

from __future__ import annotations


class RaftError(Exception):
    """Base of all errors of the core."""


class ProposalDropped(RaftError):
    """The core did not take the proposal: no leader, leadership moves, or too many uncommitted bytes."""

    def __init__(self, message: str = "raft proposal dropped") -> None:
        super().__init__(message)


class LogCompacted(RaftError):
    """The entry lies at or before the last compaction: only a snapshot covers it."""


class LogUnavailable(RaftError):
    """The entry lies past the end of the log."""


class SnapshotUnavailable(RaftError):
    """The storage has no snapshot to hand out now; the core asks again at the next heartbeat."""


class PeerUnknown(RaftError):
    """A response came from a node that the current configuration does not track; drop it."""

    def __init__(self, message: str = "raft: cannot step as peer not found") -> None:
        super().__init__(message)


class LocalMessageRefused(RaftError):
    """A message that only the node itself may create came from elsewhere; drop it."""

    def __init__(self, message: str = "raft: cannot step raft local message") -> None:
        super().__init__(message)


class ConfChangeRefused(RaftError):
    """The membership change breaks a rule; the message says which."""


class InvariantBroken(RaftError):
    """The log, the configuration or the caller's duties are broken. Stop the node: going on could lose data."""
