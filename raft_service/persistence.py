"""The node's memory across restarts, off the event loop: log and snapshots in one writer thread.

Every call goes through one thread, so the order of writes is the order of calls, and the event loop never waits for
the disk. Only the large part of a snapshot is written by a second thread, for it shares no file with the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from raft_service.config import NodeSettings
from raft_service.raft.log_storage import MemoryLogStorage
from raft_service.raft.messages import Entry, HardState, Snapshot, initial_snapshot
from raft_service.rpc import raft_codec
from raft_service.storage.disk import Disk
from raft_service.storage.errors import DiskFull
from raft_service.storage.replay import Recovered
from raft_service.storage.wal import Wal, WalInfo

log = logging.getLogger(__name__)

# Entries kept in memory behind a snapshot, for followers that lag a little: a snapshot costs them far more.
ENTRIES_KEPT = 5_000

T = TypeVar("T")


class Persistence:
    """The log on disk and its copy in memory, which the core reads."""

    def __init__(self, settings: NodeSettings, encoder: raft_codec.EntryEncoder, *, disk: Disk | None = None) -> None:
        self.memory = MemoryLogStorage()
        self._settings = settings
        self._encoder = encoder
        self._disk = disk
        self._wal: Wal | None = None
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="wal")
        self._snapshot_writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshot")
        # The commit index alone is not worth a trip to the disk: Raft finds it again. It goes with the next write.
        self._unwritten: HardState | None = None

    async def open(self) -> Snapshot:
        """Reads the disk into `memory`; a new node starts as one of the configured members.

        Returns:
            The snapshot that the state machine starts from; its data are empty in a new cluster.

        Raises:
            StorageError: see raft_service.storage.errors; the message says what to do.
        """
        recovered = await self._in_writer(self._open)
        snapshot = _snapshot_of(recovered) or await self._bootstrap()
        self.memory.apply_snapshot(snapshot)
        entries = [raft_codec.decode_entry(entry) for entry in recovered.entries]
        self.memory.append(entries)
        self.memory.set_hard_state(_repaired(recovered, self.memory))
        return snapshot

    def _open(self) -> Recovered:
        settings = self._settings
        self._wal, recovered = Wal.open(
            settings.data_dir, cluster_id=settings.cluster_id, node_id=settings.me.node_id, disk=self._disk
        )
        return recovered

    async def _bootstrap(self) -> Snapshot:
        """Stores the configured members once; from then on the log says who is a member."""
        snapshot = initial_snapshot(tuple(member.node_id for member in self._settings.members))
        await self.install_snapshot(snapshot, in_memory=False)
        return snapshot

    async def save(self, hard_state: HardState | None, entries: Sequence[Entry], *, must_sync: bool) -> None:
        """Writes what a Ready carries; with must_sync it is durable afterwards. Raises DiskFull, DiskFailed."""
        if hard_state is not None:
            self._unwritten = hard_state
        if must_sync or entries:
            state = raft_codec.encode_hard_state(self._unwritten) if self._unwritten is not None else None
            encoded = [self._encoder.encode(entry) for entry in entries]
            wal = self._open_wal
            await self._in_writer(lambda: wal.save(hard_state=state, entries=encoded, must_sync=must_sync))
            self._unwritten = None
        if entries:
            self.memory.append(list(entries))
        if hard_state is not None:
            self.memory.set_hard_state(hard_state)

    async def install_snapshot(self, snapshot: Snapshot, *, in_memory: bool = True) -> None:
        """Stores a snapshot that replaces the log. Raises DiskFull, DiskFailed."""
        await self._store(snapshot)
        if in_memory:
            self.memory.apply_snapshot(snapshot)

    async def compact(self, snapshot: Snapshot) -> None:
        """Stores a snapshot of our own state machine, and forgets the entries that it covers but the latest few.

        A full disk is no reason to stop: the old snapshot and the log are still there. Raises DiskFailed.
        """
        try:
            await self._store(snapshot)
        except DiskFull as error:
            log.warning("no snapshot stored; reason=%s", error)
            return
        floor = snapshot.metadata.index - min(ENTRIES_KEPT, self._settings.snapshot_entries)
        if floor >= self.memory.first_index():
            self.memory.compact(floor)

    async def _store(self, snapshot: Snapshot) -> None:
        wal, metadata = self._open_wal, raft_codec.encode_snapshot_metadata(snapshot.metadata)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._snapshot_writer, wal.write_snapshot_file, metadata, snapshot.data)
        await self._in_writer(lambda: wal.mark_snapshot(metadata))

    def info(self) -> WalInfo | None:
        """Numbers of the log; None before it is open."""
        return self._wal.info() if self._wal is not None else None

    async def close(self) -> None:
        """Closes the log and ends the threads, after what was begun."""
        wal, self._wal = self._wal, None
        if wal is not None:
            await self._in_writer(wal.close)
        self._writer.shutdown()
        self._snapshot_writer.shutdown()

    @property
    def _open_wal(self) -> Wal:
        assert self._wal is not None, "open() comes first"
        return self._wal

    async def _in_writer(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)


def _snapshot_of(recovered: Recovered) -> Snapshot | None:
    stored = recovered.snapshot
    if stored is None:
        return None
    return Snapshot(raft_codec.decode_snapshot_metadata(stored.metadata), stored.data)


def _repaired(recovered: Recovered, memory: MemoryLogStorage) -> HardState:
    """The stored hard state, moved to where the log is.

    A crash can leave it behind: the commit index is written lazily, and a snapshot of the leader is marked before the
    hard state that came with it. Then its term is old too, and no vote was given in the newer one.
    """
    stored = raft_codec.decode_hard_state(recovered.hard_state) if recovered.hard_state else HardState()
    first, last = memory.first_index() - 1, memory.last_index()
    commit = min(max(stored.commit, first), last)
    term = memory.term(last)
    if stored.term >= term:
        return HardState(stored.term, stored.vote, commit)
    return HardState(term, 0, commit)
