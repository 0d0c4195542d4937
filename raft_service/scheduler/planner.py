"""The leader's plan: which waiting task goes to which worker, in which order.

Nothing here is replicated. A new leader makes a new Planner from the ledger, and a stale plan does no harm, for apply
checks each placement again with the same fits().

Order     higher priority first; then the fair-share key with the least running attempts; then arrival.
Choice    among the workers that fit: one that has not lost this task before, then fewest soft constraints missed, then
          least time lost (wishes.py), then least load.
Parking   work that fits nowhere is parked by shape (room.py) and woken by the change that makes it fit.
Pipeline  what a plan placed is reserved until the entry that carries it is applied, so that further entries can be
          planned meanwhile.

The caller's duties, all on one thread:
  1. `offer` the specs of a SubmitTasks that it is about to propose, `plan`, and propose both in one entry.
  2. `settle` the changes of every applied entry, whoever proposed it.
  3. `plan` again after that while `has_work`, and propose PlaceTasks.
  4. `abandon` what it offered and planned when an entry certainly never entered the log.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from orchestrator_proto import ledger_pb2 as pb

from .admission import check_spec
from .demand import Demand, demand_of
from .lane import Lane, ShareKey, Waiting
from .ledger import Ledger
from .outcomes import Changes
from .retention import KEEP_MS, KEPT_MAX, Retention
from .room import Room, Shape
from .task import Task
from .wishes import Wishes, cost, wishes_of
from .worker import Worker

# Placements of one plan, so that an entry stays small; the rest follows in the next.
PLACEMENTS_MAX = 1_000

# Offered tasks have no arrival yet; they queue behind every task of the ledger, in the order of their offers.
_OFFERED_ARRIVAL = 1 << 64


@dataclass(frozen=True, slots=True)
class Plan:
    """What to propose.

    placements: reserved until settled. unplaced: the tasks offered since the last plan that found no place, each with
    the reason in words. has_more: the plan was cut at PLACEMENTS_MAX.
    """

    placements: list[pb.Placement]
    unplaced: dict[str, str]
    has_more: bool = False


@dataclass(frozen=True, slots=True)
class _Reservation:
    waiting: Waiting
    worker_id: str


# What makes two tasks rank all workers alike, and a worker's rank: (avoided, missed wishes, ms lost, load, id).
_Profile = tuple[Demand, Wishes, frozenset[str]]
_Rank = tuple[bool, int, int, int, str]

# A lane's turn: (-priority, running attempts of its share, arrival of its head, id of its head), then the lane.
_Turn = tuple[int, int, int, str, Shape, Lane]


class Planner:
    """Waiting tasks, reservations and shares. Not thread-safe."""

    def __init__(self, ledger: Ledger, *, keep_ms: int = KEEP_MS, kept_max: int = KEPT_MAX) -> None:
        """Builds everything from the ledger; reads each task once.

        Args:
            ledger: only read.
            keep_ms: how long ended tasks are kept.
            kept_max: how many ended tasks are kept at most.
        """
        self._ledger = ledger
        self._room = Room(ledger)
        self._retention = Retention(ledger, keep_ms=keep_ms, kept_max=kept_max)
        self._waiting: dict[str, Waiting] = {}
        self._reservations: dict[str, _Reservation] = {}
        # Attempts and reservations by share, and the share of each valid attempt by (task id, token index).
        self._running: Counter[ShareKey] = Counter()
        self._share_of_attempt: dict[tuple[str, int], ShareKey] = {}
        self._warm_code: dict[str, tuple[int, frozenset[str]]] = {}
        # Offered since the last plan, in order.
        self._offered: dict[str, None] = {}
        self._offers = 0
        for task in ledger.tasks():
            self._take_in(task)

    def _take_in(self, task: Task) -> None:
        if task.state == pb.TASK_STATE_QUEUED:
            self._enqueue(_waiting_of(task))
        for attempt in task.valid_attempts():
            self._count_attempt((task.task_id, attempt.token.index), _share_key(task.spec))

    # ---------------------------------------------------------------------------------------------- planning

    def offer(self, specs: Iterable[pb.TaskSpec]) -> None:
        """Takes in tasks that are about to be proposed; those known or not admissible are passed over."""
        for spec in specs:
            task_id = spec.task_id
            is_known = task_id in self._waiting or task_id in self._reservations
            if is_known or self._ledger.task(task_id) is not None or check_spec(spec):
                continue
            self._offers += 1
            self._offered[task_id] = None
            self._enqueue(_waiting_from(spec, arrival=_OFFERED_ARRIVAL + self._offers))

    def plan(self) -> Plan:
        """Places what can be placed now, and reserves it."""
        placements: list[pb.Placement] = []
        rankings: dict[_Profile, list[_Rank]] = {}
        turns = self._turns()
        while turns and len(placements) < PLACEMENTS_MAX:
            turn = heapq.heappop(turns)
            shape, lane = turn[-2:]
            waiting = lane.head()
            if waiting is None or not shape.candidates:
                continue
            now = self._turn(shape, lane, waiting)
            if now[:4] != turn[:4]:
                heapq.heappush(turns, now)  # its share got more in the meantime
                continue
            placements.append(self._place(shape, waiting, rankings))
            successor = lane.head()
            if successor is not None:
                heapq.heappush(turns, self._turn(shape, lane, successor))
        return Plan(placements, self._unplaced(), has_more=self.has_work)

    @property
    def has_work(self) -> bool:
        """True when plan() would place something."""
        return any(shape.lanes and shape.candidates for shape in self._room.shapes())

    def _turns(self) -> list[_Turn]:
        turns = []
        for shape in self._room.shapes():
            for lane in shape.lanes.values() if shape.candidates else ():
                head = lane.head()
                if head is not None:
                    turns.append(self._turn(shape, lane, head))
        heapq.heapify(turns)
        return turns

    def _turn(self, shape: Shape, lane: Lane, head: Waiting) -> _Turn:
        return (-head.priority, self._running[head.share_key], head.arrival, head.task_id, shape, lane)

    def _place(self, shape: Shape, waiting: Waiting, rankings: dict[_Profile, list[_Rank]]) -> pb.Placement:
        worker_id = self._best_worker(shape, waiting, rankings)
        worker = self._candidate(worker_id)
        self._dequeue(waiting.task_id)
        self._reservations[waiting.task_id] = _Reservation(waiting, worker_id)
        self._running[waiting.share_key] += 1
        self._room.reserve(worker_id, waiting.demand)
        return pb.Placement(task_id=waiting.task_id, worker_id=worker_id, worker_incarnation=worker.incarnation)

    def _best_worker(self, shape: Shape, waiting: Waiting, rankings: dict[_Profile, list[_Rank]]) -> str:
        """The best candidate, from a heap that serves all tasks of the same profile within one plan.

        During a plan workers only fill up: a rank can only be too good, never too bad, so correcting the top until it
        is true yields the best.
        """
        profile = (waiting.demand, waiting.wishes, waiting.avoid)
        ranking = rankings.get(profile)
        if ranking is None:
            ranking = rankings[profile] = [self._rank(worker_id, waiting) for worker_id in shape.candidates]
            heapq.heapify(ranking)
        while True:
            avoided, missed, lost_ms, load, worker_id = ranking[0]
            if worker_id not in shape.candidates:
                heapq.heappop(ranking)
                continue
            load_now = self._room.load(worker_id, waiting.demand)
            if load_now == load:
                return worker_id
            heapq.heapreplace(ranking, (avoided, missed, lost_ms, load_now, worker_id))

    def _rank(self, worker_id: str, waiting: Waiting) -> _Rank:
        _, warm_code = self._warm_code.get(worker_id, (0, frozenset()))
        missed, lost_ms = cost(waiting.wishes, self._candidate(worker_id).labels, warm_code)
        load = self._room.load(worker_id, waiting.demand)
        return (worker_id in waiting.avoid, missed, lost_ms, load, worker_id)

    def _candidate(self, worker_id: str) -> Worker:
        worker = self._ledger.worker(worker_id)
        if worker is None:
            raise LookupError(f"Worker {worker_id} left the ledger, and settle() was not told of it.")
        return worker

    def _unplaced(self) -> dict[str, str]:
        unplaced = {task_id: self.waiting_reason(task_id) for task_id in self._offered if task_id in self._waiting}
        self._offered.clear()
        return unplaced

    def waiting_reason(self, task_id: str) -> str:
        """Why a task waits, in words; "" when it does not wait here."""
        reservation = self._reservations.get(task_id)
        if reservation is not None:
            return f"is being placed on {reservation.worker_id}"
        waiting = self._waiting.get(task_id)
        if waiting is None:
            return ""
        shape = self._room.shape(waiting.demand)
        return "waits for its turn" if shape.candidates else self._room.reason(shape)

    # ---------------------------------------------------------------------------------------------- settling

    def settle(self, changes: Changes) -> None:
        """Takes in what an applied entry changed: ends reservations, wakes what fits now."""
        for placed in changes.placed:
            reservation = self._end_reservation(placed.task_id)
            share_key = reservation.waiting.share_key if reservation else self._share_of(placed.task_id)
            self._count_attempt((placed.task_id, placed.token.index), share_key)
        for task_id in changes.refused:
            self._end_reservation(task_id)
        for ended in (*changes.ended, *changes.finished):
            share_of_ended = self._share_of_attempt.pop((ended.task_id, ended.token.index), None)
            if share_of_ended is not None:
                self._uncount(share_of_ended)
        self._refresh_workers(changes)
        for task_id in dict.fromkeys((*changes.tasks, *changes.refused, *changes.forgotten)):
            self._sync(task_id)
        for task_id in changes.tasks:
            task = self._ledger.task(task_id)
            if task is not None and task.is_ended:
                self._retention.note_ended(task)

    def abandon(self, specs: Iterable[pb.TaskSpec], placements: Iterable[pb.Placement]) -> None:
        """Undoes the offers and reservations of an entry that certainly never entered the log."""
        for placement in placements:
            self._end_reservation(placement.task_id)
            self._sync(placement.task_id)
        for spec in specs:
            self._sync(spec.task_id)

    def warm(self, worker_id: str, code_keys: Iterable[str]) -> None:
        """Notes which code a worker's slots have loaded, as of its last heartbeat."""
        worker = self._ledger.worker(worker_id)
        if worker is not None:
            self._warm_code[worker_id] = (worker.incarnation, frozenset(code_keys))

    def to_forget(self, now_ms: int) -> list[str]:
        """Ended tasks to propose in a ForgetTasks at this leader time (ms): a bounded number, oldest first."""
        return self._retention.to_forget(now_ms)

    def _refresh_workers(self, changes: Changes) -> None:
        touched = dict.fromkeys(changes.workers)
        touched.update(dict.fromkeys(placed.worker_id for placed in changes.placed))
        touched.update(dict.fromkeys(ended.worker_id for ended in (*changes.ended, *changes.finished)))
        for worker_id in touched:
            self._room.refresh(worker_id)
        for worker_id in changes.workers:
            worker = self._ledger.worker(worker_id)
            incarnation, _ = self._warm_code.get(worker_id, (0, frozenset()))
            if worker is None or worker.state == pb.WORKER_STATE_LOST or worker.incarnation != incarnation:
                self._warm_code.pop(worker_id, None)

    def _sync(self, task_id: str) -> None:
        """Makes the waiting line agree with the ledger about one task."""
        task = self._ledger.task(task_id)
        if task_id in self._waiting:
            self._dequeue(task_id)
        if task is not None and task.state == pb.TASK_STATE_QUEUED and task_id not in self._reservations:
            self._enqueue(_waiting_of(task))

    def _enqueue(self, waiting: Waiting) -> None:
        self._waiting[waiting.task_id] = waiting
        self._room.shape(waiting.demand).add(waiting)

    def _dequeue(self, task_id: str) -> None:
        waiting = self._waiting.pop(task_id)
        self._room.shape(waiting.demand).remove(waiting)

    def _end_reservation(self, task_id: str) -> _Reservation | None:
        reservation = self._reservations.pop(task_id, None)
        if reservation is not None:
            self._uncount(reservation.waiting.share_key)
            self._room.give_back(reservation.worker_id, reservation.waiting.demand)
        return reservation

    def _count_attempt(self, attempt_key: tuple[str, int], share_key: ShareKey) -> None:
        self._share_of_attempt[attempt_key] = share_key
        self._running[share_key] += 1

    def _uncount(self, share_key: ShareKey) -> None:
        self._running[share_key] -= 1
        if not self._running[share_key]:
            del self._running[share_key]

    def _share_of(self, task_id: str) -> ShareKey:
        task = self._ledger.task(task_id)
        return _share_key(task.spec) if task is not None else (pb.TASK_KIND_UNSPECIFIED, "")


def _share_key(spec: pb.TaskSpec) -> ShareKey:
    return (spec.kind, spec.fair_key)


def _waiting_from(spec: pb.TaskSpec, *, arrival: int) -> Waiting:
    return Waiting(
        task_id=spec.task_id,
        arrival=arrival,
        priority=spec.priority,
        share_key=_share_key(spec),
        demand=demand_of(spec),
        wishes=wishes_of(spec),
    )


def _waiting_of(task: Task) -> Waiting:
    avoid = frozenset(attempt.worker_id for attempt in task.attempts)
    return replace(_waiting_from(task.spec, arrival=task.arrival), avoid=avoid)
