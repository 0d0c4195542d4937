"""The replicated state machine: bytes of the log in, the ledger's outcomes out, changes told to listeners."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler.ledger import Ledger
from raft_service.scheduler.outcomes import Changes, Outcome


@dataclass(frozen=True, slots=True)
class AppliedEntry:
    """What one entry did: its log index, one outcome for each command in order, and all changes together."""

    index: int
    outcomes: tuple[Outcome, ...]
    changes: Changes


Listener = Callable[[AppliedEntry], None]


class LedgerMachine:
    """The driver applies committed entries through it; services read `ledger`. All in one thread."""

    def __init__(self) -> None:
        """Starts with an empty ledger."""
        self.ledger = Ledger()
        self._listeners: list[Listener] = []

    def apply(self, index: int, data: bytes) -> AppliedEntry:
        """Applies one committed entry and tells the listeners, in the order of their subscription.

        Raises:
            UnknownCommand: a newer program wrote the entry; the node must stop.
        """
        applied = self.ledger.apply(index, pb.LedgerEntry.FromString(data))
        entry = AppliedEntry(index, applied.outcomes, applied.changes)
        for listener in tuple(self._listeners):
            listener(entry)
        return entry

    def snapshot(self) -> bytes:
        """The whole ledger, the same bytes for the same state."""
        return self.ledger.snapshot().SerializeToString(deterministic=True)

    def restore(self, data: bytes) -> None:
        """Replaces the ledger by a snapshot. Listeners are not told: only a leader has any, and none is sent one.

        Raises:
            UnknownSnapshot: a newer program wrote it.
        """
        self.ledger = Ledger.restore(pb.LedgerSnapshot.FromString(data))
        # A full collection over a million records stalls the loop longer than an election timeout: leave them out.
        gc.collect()
        gc.freeze()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Calls the listener after each applied entry, inside apply; returns the function that ends that."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            self._listeners.remove(listener)

        return unsubscribe
