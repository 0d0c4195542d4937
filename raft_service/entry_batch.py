"""Gathers the commands of one loop turn into one log entry, with the placements that they make possible."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from orchestrator_proto import ledger_pb2 as pb
from raft_service.driver import NotLeader, Overloaded, ProposalUnknown, RaftDriver
from raft_service.machine import AppliedEntry
from raft_service.metrics import Metrics
from raft_service.scheduler.ledger import ENTRY_VERSION, Ledger
from raft_service.scheduler.outcomes import Outcome
from raft_service.scheduler.planner import Planner

# Size of the commands of one entry. Small enough that an entry never holds up a heartbeat for long, and half of what
# the driver takes, so that the placements fit too.
ENTRY_BYTES_MAX = 4 << 20
# Commands of one entry: applying them takes a few ms, in which the loop does nothing else.
ENTRY_COMMANDS_MAX = 1_000
# Entries on their way at once. Enough to hide a round trip between clouds; beyond it commands gather into larger
# entries, which cost less.
ENTRIES_IN_FLIGHT_MAX = 16
# Commands that wait for an entry. More means that the quorum is away, and callers shall know.
COMMANDS_WAITING_MAX = 50_000
# After the driver took no more: when to plan again.
RETRY_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Done:
    """A command took effect: the log index of its entry, and its outcome."""

    index: int
    outcome: Outcome


@dataclass(slots=True)
class _Waiting:
    command: pb.Command
    size: int
    answer: asyncio.Future[Done]


class EntryBatch:
    """Belongs to one leadership. Every method is called in the event loop."""

    def __init__(self, *, driver: RaftDriver, ledger: Ledger, planner: Planner, metrics: Metrics) -> None:
        """Starts empty."""
        self._driver = driver
        self._ledger = ledger
        self._planner = planner
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._is_scheduled = False
        self._is_closed = False
        self._in_flight: set[asyncio.Task[None]] = set()

    def add(self, command: pb.Command) -> asyncio.Future[Done]:
        """Queues a command for this turn's entry.

        The future raises NotLeader or Overloaded (nothing happened), or ProposalUnknown (it may have).
        """
        answer: asyncio.Future[Done] = self._loop.create_future()
        if self._is_closed:
            answer.set_exception(NotLeader(self._driver.leader))
        elif len(self._waiting) >= COMMANDS_WAITING_MAX:
            answer.set_exception(Overloaded(f"{COMMANDS_WAITING_MAX} commands wait already; try again later."))
        else:
            self._waiting.append(_Waiting(command, command.ByteSize(), answer))
            self.schedule()
        return answer

    def schedule(self) -> None:
        """Makes an entry at the end of this turn, if there is anything to propose or to place."""
        if not self._is_scheduled and not self._is_closed and len(self._in_flight) < ENTRIES_IN_FLIGHT_MAX:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Leadership is gone: those that still wait may go to the new leader."""
        self._is_closed = True
        while self._waiting:
            _fail(self._waiting.popleft(), NotLeader(self._driver.leader))

    def leader_time_ms(self) -> int:
        """The time for an entry proposed now, ms since the epoch; never behind one applied."""
        return max(int(time.time() * 1000), self._ledger.leader_time_ms)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._is_closed:
            return
        taken = self._take()
        specs = [spec for waiting in taken for spec in waiting.command.submit_tasks.tasks]
        self._planner.offer(specs)
        plan = self._planner.plan()
        commands = [waiting.command for waiting in taken]
        if plan.placements:
            commands.append(pb.Command(place_tasks=pb.PlaceTasksCommand(placements=plan.placements)))
        if commands:
            entry = pb.LedgerEntry(version=ENTRY_VERSION, leader_time_ms=self.leader_time_ms(), commands=commands)
            task = self._loop.create_task(self._propose(entry, taken, specs, plan.placements))
            self._in_flight.add(task)
            task.add_done_callback(self._landed)
        if self._waiting or plan.has_more:
            self.schedule()

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        if self._waiting:
            self.schedule()

    def _take(self) -> list[_Waiting]:
        taken: list[_Waiting] = []
        size = 0
        while self._waiting and len(taken) < ENTRY_COMMANDS_MAX:
            size += self._waiting[0].size
            if taken and size > ENTRY_BYTES_MAX:
                break
            taken.append(self._waiting.popleft())
        return taken

    async def _propose(
        self, entry: pb.LedgerEntry, taken: list[_Waiting], specs: list[pb.TaskSpec], placements: list[pb.Placement]
    ) -> None:
        began = time.monotonic()
        try:
            applied = await self._driver.propose(entry.SerializeToString())
        except (NotLeader, Overloaded) as error:
            self._planner.abandon(specs, placements)
            for waiting in taken:
                _fail(waiting, error)
            self._loop.call_later(RETRY_PAUSE_S, self.schedule)
            return
        except ProposalUnknown as error:
            for waiting in taken:
                _fail(waiting, error)
            return
        assert isinstance(applied, AppliedEntry)
        self._metrics.note_entry(commands=len(entry.commands), took_s=time.monotonic() - began)
        for waiting, outcome in zip(taken, applied.outcomes, strict=False):  # behind them only our own PlaceTasks
            if not waiting.answer.done():
                waiting.answer.set_result(Done(applied.index, outcome))


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
