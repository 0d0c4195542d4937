"""Linearizable reads without writing to the log (ReadIndex; Ongaro's dissertation, 6.4).

The leader notes its commit index when a read arrives, then sends a heartbeat that carries the read's identity. Once a
quorum has answered it, no newer leader can have committed anything before the read arrived, so the noted index is
good. Reads queue up in order of arrival: an answered one confirms all before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .messages import Message


@dataclass(slots=True)
class PendingRead:
    """A read that waits for a quorum."""

    request: Message
    index: int
    acks: dict[int, bool] = field(default_factory=dict)


class ReadOnly:
    """Reads in flight at the leader, by their identity (a caller takes a new one for every try)."""

    __slots__ = ("_pending",)

    def __init__(self) -> None:
        # Insertion order is the order of arrival.
        self._pending: dict[bytes, PendingRead] = {}

    def add(self, *, index: int, request: Message) -> None:
        """Note a read at commit index `index`; a repeated identity keeps its first place."""
        self._pending.setdefault(request.context, PendingRead(request, index))

    def receive_ack(self, node_id: int, context: bytes) -> dict[int, bool]:
        """A member has answered; returns who has by now (empty for an unknown read)."""
        read = self._pending.get(context)
        if read is None:
            return {}
        read.acks[node_id] = True
        return read.acks

    def advance(self, context: bytes) -> list[PendingRead]:
        """Take out the read and all before it."""
        if context not in self._pending:
            return []
        done: list[PendingRead] = []
        for key in list(self._pending):
            done.append(self._pending.pop(key))
            if key == context:
                break
        return done

    def last_context(self) -> bytes:
        """Identity of the youngest read, to ride on the next heartbeat; empty without one."""
        return next(reversed(self._pending), b"")

    def __len__(self) -> int:
        return len(self._pending)
