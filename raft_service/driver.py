"""Runs the Raft core: feeds it ticks, messages and proposals, and does what it asks for, in the order that it asks.

One turn: take everything that has arrived, hand it to the core, then for each Ready

    1. a leader sends first (its own vote for an entry counts only after step 2), so the peers' disks work beside ours;
    2. write hard state and entries, one fdatasync for all of them, in the writer thread;
    3. the others send now, for their answers promise that step 2 is done;
    4. apply what is committed, answer the callers, release the reads;
    5. advance.

What arrives meanwhile waits for the next turn and shares its fdatasync: under load batches grow by themselves.

Time is counted in ticks from the monotonic clock. A loop that was late (a paused process, a stopped machine) has not
heard what it should have heard, so lateness never counts as silence: missed ticks are dropped, not made up for.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence

from raft_service.applier import Applier
from raft_service.config import Member, NodeSettings
from raft_service.core_settings import core_config, make_ticker
from raft_service.lead import Lead
from raft_service.persistence import Persistence
from raft_service.ports import DriverStatus, StateMachine, Transport, exit_process
from raft_service.proposals import NotLeader, Overloaded, Proposals, ProposalUnknown, Reads
from raft_service.raft.errors import PeerUnknown, ProposalDropped
from raft_service.raft.messages import AFTER_PERSIST_MESSAGES, Message
from raft_service.raft.raw_node import RawNode, Ready
from raft_service.storage.disk import Disk
from raft_service.storage.errors import DiskFull

log = logging.getLogger(__name__)

__all__ = ["NotLeader", "Overloaded", "ProposalUnknown", "RaftDriver", "StateMachine", "Transport"]

# Messages that wait for a turn: seconds of a busy cluster. Raft sends again what is dropped.
INBOX_MAX = 20_000
# While the disk is full: how soon to look again.
DISK_FULL_RETRY_S = 0.5
# After the leader's connection broke: a pause so that the survivors do not all ask at once.
HINT_DELAY_S = (0.01, 0.06)
# Survivors may still collide or lack the log; the next try comes after two round trips between clouds, well before
# the election timeout, which takes over after the last.
HINT_RETRY_S = (0.1, 0.15)
HINT_TRIES_MAX = 3


class RaftDriver:
    """One node. All methods belong to the event loop in which it was started.

    Args:
        machine: what is replicated; called in the event loop.
        transport: see PeerTransport.
        on_fatal: called once when the node must not go on; the default ends the process.
    """

    def __init__(
        self,
        settings: NodeSettings,
        machine: StateMachine,
        transport: Transport,
        *,
        on_fatal: Callable[[BaseException], None] = exit_process,
        disk: Disk | None = None,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._on_fatal = on_fatal
        self._persistence = Persistence(settings, transport.encoder, disk=disk)
        self._random = random.Random()
        self._proposals = Proposals()
        self._applier = Applier(
            machine,
            self._proposals,
            self._persistence,
            snapshot_entries=settings.snapshot_entries,
            on_fatal=on_fatal,
        )
        self._reads = Reads(
            node_id=settings.me.node_id,
            incarnation=self._random.getrandbits(63),
            retry_s=2 * settings.heartbeat_ms / 1000,
        )
        self._lead = Lead(settings.members, self._proposals, self._reads)
        self._heard: dict[int, float] = {}
        self._inbox: deque[Message] = deque(maxlen=INBOX_MAX)
        self._reports: list[Callable[[RawNode], None]] = []
        self._wake = asyncio.Event()
        self._ticker = make_ticker(settings, on_tick=self._wake.set)
        self._tasks: set[asyncio.Task[None]] = set()
        self._hint: asyncio.Task[None] | None = None
        self._core: RawNode | None = None

    # What the rest of the server uses.

    @property
    def is_leader(self) -> bool:
        """True once this node leads and has applied all that earlier leaders committed."""
        return self._lead.is_usable

    @property
    def leader(self) -> Member | None:
        """Who leads, as far as this node knows."""
        return self._lead.leader

    @property
    def term(self) -> int:
        """The current term."""
        return self._lead.term

    @property
    def applied(self) -> int:
        """Index of the last entry that the machine holds."""
        return self._applier.index

    @property
    def last_stall_ms(self) -> float:
        """How long this process was paused last time (more than an election timeout), in ms; 0: never."""
        return self._ticker.last_stall_ms

    @property
    def first_index(self) -> int:
        """First index that is still in the log. Only after `start`."""
        return self._persistence.memory.first_index()

    def on_leadership(self, callback: Callable[[bool], None]) -> None:
        """Registers a callback, called in the loop each time `is_leader` changes."""
        self._lead.on_change(callback)

    async def start(self) -> None:
        """Reads the disk, restores the machine and begins to take part.

        Raises:
            StorageError: the data directory cannot be used; the message says what to do.
        """
        snapshot = await self._persistence.open()
        self._applier.restore(snapshot)
        config = core_config(self._settings, applied=self._applier.index, rng=self._random)
        self._core = RawNode(config, self._persistence.memory)
        self._lead.term = self._core.term
        self._transport.start(self)
        self._spawn(self._ticker.run())
        self._spawn(self._run())

    async def stop(self) -> None:
        """Hands leadership over if this node has it, then ends. The machine stays readable."""
        if self._lead.has_role and len(self._settings.members) > 1:
            try:
                await self.transfer_leader(None)
            except (NotLeader, Overloaded) as error:
                log.info("stopping without handing leadership over; reason=%s", error)
        await self.abandon()

    async def abandon(self) -> None:
        """Ends at once, as a crash would, but for the memory of the process: tests use it to lose a leader."""
        self._lead.is_stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._applier.stop()
        await self._transport.stop()
        await self._persistence.close()
        self._lead.lose()

    async def propose(self, data: bytes) -> object:
        """Replicates data (not empty) and returns what the machine's `apply` returned for it here.

        Raises:
            ValueError: no data; an empty entry means something else in the log.
            NotLeader: nothing was proposed; ask the leader.
            ProposalUnknown: leadership was lost meanwhile; it may take effect or not.
            Overloaded: nothing was proposed; try later.
        """
        if not data:
            raise ValueError("a proposal needs data")
        self._lead.check()
        future = self._proposals.add(data)
        self._wake.set()
        return await future

    async def read_barrier(self) -> None:
        """Returns when a quorum confirmed, after this call, that this node leads, and the machine is up to date.

        Raises:
            NotLeader, Overloaded: as in `propose`.
        """
        self._lead.check()
        future = self._reads.add()
        self._wake.set()
        await future

    async def transfer_leader(self, node_id: int | None) -> None:
        """Moves leadership to a node, or to the one whose log is most complete, and waits until it moved.

        Raises:
            NotLeader: this node does not lead.
            Overloaded: nobody took it within an election timeout.
        """
        if not self._lead.has_role:
            raise NotLeader(self.leader)
        target = node_id or self._best_successor()
        if target == self._settings.me.node_id:
            return
        self._report(lambda core: core.transfer_leader(target))
        deadline = time.monotonic() + self._settings.election_timeout_max_ms / 1000
        while self._lead.has_role or not self._lead.soft.lead:
            if time.monotonic() > deadline:
                raise Overloaded(f"Node {target} did not take over in time; is it running and caught up?")
            await asyncio.sleep(self._settings.tick_ms / 1000)

    def status(self) -> DriverStatus:
        """A look inside. Only after `start`."""
        return DriverStatus(
            raft=self._started_core.status(),
            wal=self._persistence.info(),
            last_stall_ms=self._ticker.last_stall_ms,
            stalls=self._ticker.stalls,
            disk_full=self._lead.disk_full,
            waiting_proposals=len(self._proposals),
        )

    # What the transport tells (PeerEvents).

    def receive(self, messages: Sequence[Message]) -> None:
        """Messages of a peer; never none."""
        self._inbox.extend(messages)
        self._heard[messages[0].from_] = time.monotonic()
        self._wake.set()

    def peer_broken(self, node_id: int) -> None:
        """A peer's process is gone, most likely: no need to wait for its silence."""
        self._report(lambda core: core.report_unreachable(node_id))
        if self._lead.soft.lead == node_id and (self._hint is None or self._hint.done()):
            self._hint = self._spawn(self._hint_campaign(node_id))

    def peer_unreachable(self, node_id: int) -> None:
        """Appends were dropped: the core goes back to probing."""
        self._report(lambda core: core.report_unreachable(node_id))

    def snapshot_sent(self, node_id: int, *, ok: bool) -> None:
        """The end of a snapshot transfer."""
        self._report(lambda core: core.report_snapshot(node_id, ok=ok))

    # The loop.

    async def _run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                self._feed()
                while self._started_core.has_ready():
                    await self._handle(self._started_core.ready())
                    self._started_core.advance()
                    self._lead.update(applied_term=self._applier.term)
        # The edge of the node: whatever comes out here (a failed disk, a broken invariant, an unknown command) leaves
        # state that must not be acted on.
        except Exception as error:
            log.critical("the node stops; reason=%s", error, exc_info=True)
            self._lead.lose()
            self._on_fatal(error)

    def _feed(self) -> None:
        """Hands everything that arrived to the core; messages before ticks, so that no leader is missed that spoke."""
        core = self._started_core
        reports, self._reports = self._reports, []
        for report in reports:
            report(core)
        while self._inbox:
            self._step(core, self._inbox.popleft())
        for _ in range(self._ticker.take()):
            core.tick()
        if self.is_leader:
            self._propose(core)
            for context in self._reads.take():
                core.read_index(context)

    def _step(self, core: RawNode, message: Message) -> None:
        try:
            core.step(message)
        except (PeerUnknown, ProposalDropped) as error:
            log.info("message dropped; type=%s from=%d reason=%s", message.type.name, message.from_, error)

    def _propose(self, core: RawNode) -> None:
        datas = self._proposals.take()
        if not datas:
            return
        if self._proposals.has_queued:
            self._wake.set()  # the rest gets the next turn
        try:
            core.propose(*datas)
        except ProposalDropped as error:
            self._proposals.refused(len(datas), Overloaded(f"The leader takes no proposals now ({error}); try again."))

    async def _handle(self, ready: Ready) -> None:
        if ready.soft_state is not None:
            self._lead.soft = ready.soft_state
        if ready.hard_state is not None:
            self._lead.term = ready.hard_state.term
        leads = self._lead.has_role
        self._lead.update(applied_term=self._applier.term)
        self._proposals.place(ready.entries)
        promises = [message for message in ready.messages if message.type in AFTER_PERSIST_MESSAGES]
        if leads:
            self._transport.send([message for message in ready.messages if message.type not in AFTER_PERSIST_MESSAGES])
        await self._persist(ready)
        self._transport.send(promises if leads else ready.messages)
        if ready.snapshot is not None:
            self._applier.restore(ready.snapshot)
            log.info("snapshot of the leader installed; index=%d", ready.snapshot.metadata.index)
        self._reads.confirmed(ready.read_states)
        await self._applier.apply(ready.committed_entries, self._started_core)
        self._reads.applied(self._applier.index)
        self._applier.compact_if_due()

    async def _persist(self, ready: Ready) -> None:
        """Step 2: returns when it is durable. While the disk is full it waits, silent, so that the others elect."""
        snapshot = ready.snapshot
        while True:
            try:
                if snapshot is not None:
                    await self._applier.compacted()
                    await self._persistence.install_snapshot(snapshot)
                    snapshot = None
                await self._persistence.save(ready.hard_state, ready.entries, must_sync=ready.must_sync)
            except DiskFull as error:
                if not self._lead.disk_full:
                    log.error("disk full, this node stands aside; reason=%s", error)
                self._lead.disk_full = str(error)
                self._lead.update(applied_term=self._applier.term)
                await asyncio.sleep(DISK_FULL_RETRY_S)
                continue
            if self._lead.disk_full:
                log.warning("the disk has space again")
                self._lead.disk_full = ""
            return

    # Small parts.

    async def _hint_campaign(self, lost_leader: int) -> None:
        """The leader's process is gone: ask for votes without waiting for the election timeout.

        Each survivor does the same, so those who ask later find voters who no longer wait for the old leader. What it
        sent last may still come in meanwhile; then it is not forgotten yet. Safe at any time: with pre-vote nobody who
        hears a leader is disturbed, and reads never trust a clock.
        """
        delay_s = HINT_DELAY_S
        for _ in range(HINT_TRIES_MAX):
            since = time.monotonic()
            await asyncio.sleep(self._random.uniform(*delay_s))
            if self._lead.has_role or self._lead.soft.lead not in (0, lost_leader):
                return
            if self._heard.get(lost_leader, 0.0) < since:
                self._report(_campaign_without_leader)
            delay_s = HINT_RETRY_S

    def _best_successor(self) -> int:
        me = self._settings.me.node_id
        progress = self._started_core.status().progress
        others = {node_id: one for node_id, one in progress.items() if node_id != me and one.recent_active}
        if not others:
            raise Overloaded("No other node answers, so there is nobody to hand leadership to; start one.")
        return max(others, key=lambda node_id: others[node_id].match)

    def _report(self, report: Callable[[RawNode], None]) -> None:
        self._reports.append(report)
        self._wake.set()

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def _started_core(self) -> RawNode:
        assert self._core is not None, "start() comes first"
        return self._core


def _campaign_without_leader(core: RawNode) -> None:
    core.forget_leader()
    core.campaign()
