"""Brings the state machine forward: applies what is committed, takes its snapshots, installs those of the leader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from raft_service.persistence import Persistence
from raft_service.ports import StateMachine
from raft_service.proposals import Proposals
from raft_service.raft.errors import ConfChangeRefused
from raft_service.raft.messages import ConfState, Entry, EntryType, Snapshot
from raft_service.raft.raw_node import RawNode
from raft_service.rpc.raft_codec import decode_conf_change

log = logging.getLogger(__name__)

# Entries applied before other tasks of the loop get their turn: about 5 ms.
APPLY_SLICE = 256


class Applier:
    """Where the state machine stands in the log.

    Args:
        snapshot_entries: how many entries between two snapshots.
        on_fatal: called when a snapshot cannot be written.
    """

    def __init__(
        self,
        machine: StateMachine,
        proposals: Proposals,
        persistence: Persistence,
        *,
        snapshot_entries: int,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self.index = 0  # of the last entry that the machine holds
        self.term = 0  # of that entry
        self._machine = machine
        self._proposals = proposals
        self._persistence = persistence
        self._snapshot_entries = snapshot_entries
        self._on_fatal = on_fatal
        self._conf_state = ConfState()
        self._snapshot_index = 0
        self._compaction: asyncio.Task[None] | None = None

    def restore(self, snapshot: Snapshot) -> None:
        """Puts the machine where a snapshot stands. Without data (a new cluster) the machine is as good as new."""
        if snapshot.data:
            self._machine.restore(snapshot.data)
        metadata = snapshot.metadata
        self.index = self._snapshot_index = metadata.index
        self.term = metadata.term
        self._conf_state = metadata.conf_state

    async def apply(self, entries: Sequence[Entry], core: RawNode) -> None:
        """Applies committed entries and answers their callers."""
        for count, entry in enumerate(entries, start=1):
            outcome: object = None
            if entry.type is EntryType.CONF_CHANGE:
                self._apply_conf_change(entry, core)
            elif entry.data:  # a new leader's first entry has none
                outcome = self._machine.apply(entry.index, entry.data)
            self.index, self.term = entry.index, entry.term
            self._proposals.applied(entry, outcome)
            if count % APPLY_SLICE == 0:
                await asyncio.sleep(0)

    def _apply_conf_change(self, entry: Entry, core: RawNode) -> None:
        try:
            self._conf_state = core.apply_conf_change(decode_conf_change(entry.data))
        except ConfChangeRefused as error:  # the same on every node, so all skip it
            log.error("membership change skipped; index=%d reason=%s", entry.index, error)

    def compact_if_due(self) -> None:
        """Begins a snapshot in the background when enough was applied since the last one."""
        is_due = self.index - self._snapshot_index >= self._snapshot_entries
        if not is_due or (self._compaction is not None and not self._compaction.done()):
            return
        data = self._machine.snapshot()
        snapshot = self._persistence.memory.create_snapshot(self.index, self._conf_state, data)
        self._snapshot_index = self.index
        self._compaction = asyncio.get_running_loop().create_task(self._compact(snapshot))

    async def _compact(self, snapshot: Snapshot) -> None:
        try:
            await self._persistence.compact(snapshot)
        # The edge of the task: whatever comes out here (a failed disk, a broken invariant) ends the node.
        except Exception as error:
            log.critical("the node stops; reason=%s", error, exc_info=True)
            self._on_fatal(error)

    async def compacted(self) -> None:
        """Waits until no snapshot is being written."""
        if self._compaction is not None:
            await self._compaction

    async def stop(self) -> None:
        """Ends the background work."""
        if self._compaction is not None:
            self._compaction.cancel()
            await asyncio.gather(self._compaction, return_exceptions=True)
