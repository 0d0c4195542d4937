"""Who waits for what: proposals until they are applied, reads until a quorum has confirmed the leader."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from raft_service.config import Member
from raft_service.raft.messages import Entry, ReadState

# Waiting callers, not yet proposed: more than that means the disk or the quorum is away, and the callers shall know.
QUEUED_PROPOSALS_MAX = 10_000
# One entry must fit one message to a peer. A task's payload is at most 1 MiB.
PROPOSAL_BYTES_MAX = 8 * 1024 * 1024
# Of one turn: more would only make the fsync long for all that share it.
TURN_BYTES_MAX = 4 * 1024 * 1024
# Reads are shared by all that wait in one turn, so this many means the quorum is away.
READ_ROUNDS_MAX = 1_000


class NotLeader(Exception):
    """Another node leads; `leader` is its member entry, None while unknown. Nothing was proposed."""

    def __init__(self, leader: Member | None) -> None:
        where = f"{leader.name} at {leader.address} leads" if leader else "no leader is known yet; try again shortly"
        super().__init__(f"This node does not lead; {where}.")
        self.leader = leader


class ProposalUnknown(Exception):
    """Leadership was lost before the proposal was applied here: it may take effect or not. Ask the new leader."""


class Overloaded(Exception):
    """The node takes no more for now (queue, disk or leadership on the move); try again later."""


@dataclass(slots=True)
class _Waiting:
    data: bytes
    future: asyncio.Future[object]


class Proposals:
    """Proposals in order: queued, handed to the core, placed in the log, applied."""

    def __init__(self) -> None:
        self._queued: deque[_Waiting] = deque()
        self._unplaced: deque[_Waiting] = deque()
        self._placed: dict[int, tuple[int, asyncio.Future[object]]] = {}

    def add(self, data: bytes) -> asyncio.Future[object]:
        """Queues a proposal. Raises Overloaded."""
        if len(self._queued) >= QUEUED_PROPOSALS_MAX:
            raise Overloaded(
                f"{QUEUED_PROPOSALS_MAX} proposals wait already; the disk or a quorum is too slow. Try later."
            )
        if len(data) > PROPOSAL_BYTES_MAX:
            raise Overloaded(
                f"The request has {len(data)} bytes, the maximum is {PROPOSAL_BYTES_MAX}; store data elsewhere."
            )
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._queued.append(_Waiting(data, future))
        return future

    def take(self) -> list[bytes]:
        """The oldest queued data, as much as a turn carries; the caller proposes it at once, or calls `refused`."""
        taken: list[bytes] = []
        size = 0
        while self._queued and size < TURN_BYTES_MAX:
            waiting = self._queued.popleft()
            if waiting.future.done():
                continue  # its caller gave up
            self._unplaced.append(waiting)
            taken.append(waiting.data)
            size += len(waiting.data)
        return taken

    @property
    def has_queued(self) -> bool:
        """True when the last `take` left some."""
        return bool(self._queued)

    def refused(self, count: int, error: Exception) -> None:
        """The core took none of the last `count`."""
        for _ in range(count):
            _fail(self._unplaced.pop().future, error)

    def place(self, entries: Sequence[Entry]) -> None:
        """Learns the index of each proposal from the entries that the core made, which come in the same order."""
        for entry in entries:
            if self._unplaced and entry.data is self._unplaced[0].data:
                self._placed[entry.index] = (entry.term, self._unplaced.popleft().future)

    def applied(self, entry: Entry, outcome: object) -> None:
        """Answers the caller whose proposal this was."""
        term, future = self._placed.pop(entry.index, (0, None))
        if future is None or future.done():
            return
        if term == entry.term:
            future.set_result(outcome)
        else:
            future.set_exception(ProposalUnknown("Another leader's entry took the place of this one."))

    def fail_all(self, *, queued: Exception, proposed: Exception) -> None:
        """Leadership is gone: who was only queued may go elsewhere, the others cannot know."""
        for waiting in self._queued:
            _fail(waiting.future, queued)
        for waiting in self._unplaced:
            _fail(waiting.future, proposed)
        for _, future in self._placed.values():
            _fail(future, proposed)
        self._queued.clear()
        self._unplaced.clear()
        self._placed.clear()

    def __len__(self) -> int:
        return len(self._queued) + len(self._unplaced) + len(self._placed)


@dataclass(slots=True)
class _Round:
    futures: list[asyncio.Future[None]]
    asked_at: float
    contexts: list[bytes] = field(default_factory=list)


class Reads:
    """Read barriers: all that wait when a turn begins share one round with the quorum."""

    def __init__(self, *, node_id: int, incarnation: int, retry_s: float) -> None:
        # A context must never repeat, not even after a restart: an answer to an old read would confirm a new one.
        self._prefix = node_id.to_bytes(8, "big") + incarnation.to_bytes(8, "big")
        self._count = 0
        self._retry_s = retry_s
        self._new: list[asyncio.Future[None]] = []
        self._rounds: dict[bytes, _Round] = {}
        self._confirmed: list[tuple[int, _Round]] = []

    def add(self) -> asyncio.Future[None]:
        """Queues a read. Raises Overloaded."""
        if len(self._rounds) >= READ_ROUNDS_MAX:
            raise Overloaded("Too many reads wait for a quorum; try later.")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._new.append(future)
        return future

    def take(self) -> list[bytes]:
        """Contexts to ask the core for now: one for the new reads, new ones for rounds that got no answer in time."""
        now = time.monotonic()
        asked = []
        for current in {id(current): current for current in self._rounds.values()}.values():
            if now - current.asked_at > self._retry_s:
                asked.append(self._ask(current, now))
        if self._new:
            asked.append(self._ask(_Round(self._new, now), now))
            self._new = []
        return asked

    def _ask(self, current: _Round, now: float) -> bytes:
        self._count += 1
        context = self._prefix + self._count.to_bytes(8, "big")
        current.asked_at = now
        current.contexts.append(context)
        self._rounds[context] = current
        return context

    def confirmed(self, states: Sequence[ReadState]) -> None:
        """The quorum answered: these reads are good once the log is applied up to their index."""
        for state in states:
            current = self._rounds.get(state.request_ctx)
            if current is None:
                continue
            for context in current.contexts:
                self._rounds.pop(context, None)
            self._confirmed.append((state.index, current))

    def applied(self, index: int) -> None:
        """Lets go the reads whose index is reached."""
        if not self._confirmed:
            return
        still = []
        for needed, current in self._confirmed:
            if needed > index:
                still.append((needed, current))
                continue
            for future in current.futures:
                if not future.done():
                    future.set_result(None)
        self._confirmed = still

    def fail_all(self, error: Exception) -> None:
        """Leadership is gone."""
        waiting = [*self._rounds.values(), *(current for _, current in self._confirmed)]
        for future in [*self._new, *(future for current in waiting for future in current.futures)]:
            _fail(future, error)
        self._new = []
        self._rounds.clear()
        self._confirmed.clear()


def _fail(future: asyncio.Future[object] | asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
