"""What the driver asks of its surroundings, and what it shows of itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from raft_service.raft.messages import Message
from raft_service.raft.raw_node import Status
from raft_service.rpc.peers import PeerEvents
from raft_service.rpc.raft_codec import EntryEncoder
from raft_service.storage.wal import WalInfo

EXIT_STORAGE = 70


class StateMachine(Protocol):
    """What is replicated. Everything here must be deterministic."""

    def apply(self, index: int, data: bytes) -> object:
        """Applies a committed entry; the result goes to the caller that proposed it."""

    def snapshot(self) -> bytes:
        """The whole state."""

    def restore(self, data: bytes) -> None:
        """Replaces the whole state."""


class Transport(Protocol):
    """How messages get to the other nodes; PeerTransport is the real one."""

    @property
    def encoder(self) -> EntryEncoder:
        """Shared with the log."""

    def start(self, events: PeerEvents) -> None:
        """Begins to deliver."""

    async def stop(self) -> None:
        """Ends."""

    def send(self, messages: Sequence[Message]) -> None:
        """Queues or drops."""


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """For status page, metrics and tests."""

    raft: Status
    wal: WalInfo | None
    last_stall_ms: float
    stalls: int
    disk_full: str
    waiting_proposals: int


def exit_process(error: BaseException) -> None:
    """The default answer to a failed disk or a broken invariant: end at once, without another write."""
    logging.shutdown()
    os._exit(EXIT_STORAGE)
