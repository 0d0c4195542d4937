"""What every worker has left in the leader's eyes, and which workers can take which shape of task right now.

A *shape* is all tasks with equal demands. For each shape that somebody waits for, the set of workers that fit is kept
up to date: a change of one worker tests that worker against each shape, once. So a shape is parked exactly while its
set is empty, the change that makes it fit wakes it, and its waiting tasks, be they one or a hundred thousand, cost
nothing meanwhile.
"""

from __future__ import annotations

from collections import Counter

from orchestrator_proto import ledger_pb2 as pb

from .amounts import Amounts, add, subtract
from .demand import Demand
from .fits import demand_fits
from .lane import Lane, ShareKey, Waiting
from .ledger import Ledger

# Shapes without waiting tasks that are kept, so that a task of a usual shape does not test every worker anew.
IDLE_SHAPES_MAX = 64

# Different reasons named when a shape fits nowhere; more would hide the message.
REASONS_MAX = 4


class Shape:
    """Waiting tasks of one demand, in lanes by (priority, share key), and the workers that can take one of them."""

    def __init__(self, demand: Demand) -> None:
        """A shape that nobody waits for yet."""
        self.demand = demand
        self.candidates: set[str] = set()
        self.lanes: dict[tuple[int, ShareKey], Lane] = {}
        # The reason found last, and the version of the room that it was found in.
        self.reason = ""
        self.reason_version = -1

    def add(self, waiting: Waiting) -> None:
        """Enters a waiting task."""
        self.lanes.setdefault((waiting.priority, waiting.share_key), Lane()).add(waiting)

    def remove(self, waiting: Waiting) -> None:
        """Takes a waiting task out."""
        key = (waiting.priority, waiting.share_key)
        self.lanes[key].remove(waiting.task_id)
        if not self.lanes[key]:
            del self.lanes[key]


class Room:
    """Free amounts: capacity, less what valid attempts take, less what is reserved for placements on their way."""

    def __init__(self, ledger: Ledger) -> None:
        """Looks at every worker once."""
        self._ledger = ledger
        self._free: dict[str, Amounts] = {}
        self._reserved: dict[str, Amounts] = {}
        self._shapes: dict[Demand, Shape] = {}
        self._shapes_max = IDLE_SHAPES_MAX
        self._version = 0
        for worker in ledger.workers():
            self.refresh(worker.worker_id)

    def shapes(self) -> list[Shape]:
        """All shapes that are kept, oldest first."""
        return list(self._shapes.values())

    def shape(self, demand: Demand) -> Shape:
        """The shape of a demand; a new one is tested against every worker."""
        shape = self._shapes.get(demand)
        if shape is None:
            self._drop_idle_shapes()
            shape = self._shapes[demand] = Shape(demand)
            for worker_id in self._free:
                self._test(shape, worker_id)
        return shape

    def _drop_idle_shapes(self) -> None:
        if len(self._shapes) < self._shapes_max:
            return
        self._shapes = {demand: shape for demand, shape in self._shapes.items() if shape.lanes}
        # Twice what is in use: the sweep above costs little per new shape however many there are.
        self._shapes_max = max(IDLE_SHAPES_MAX, 2 * len(self._shapes))

    def reserve(self, worker_id: str, demand: Demand) -> None:
        """Keeps room for a placement on its way."""
        add(self._reserved.setdefault(worker_id, {}), demand.needs)
        self.refresh(worker_id)

    def give_back(self, worker_id: str, demand: Demand) -> None:
        """Ends a reservation."""
        reserved = self._reserved[worker_id]
        subtract(reserved, demand.needs)
        if not reserved:
            del self._reserved[worker_id]
        self.refresh(worker_id)

    def refresh(self, worker_id: str) -> None:
        """Looks at a worker again after something about it changed."""
        self._version += 1
        worker = self._ledger.worker(worker_id)
        if worker is None:
            self._free.pop(worker_id, None)
        else:
            free = worker.free()
            subtract(free, self._reserved.get(worker_id, {}).items())
            self._free[worker_id] = free
        for shape in self._shapes.values():
            self._test(shape, worker_id)

    def _test(self, shape: Shape, worker_id: str) -> None:
        worker = self._ledger.worker(worker_id)
        if worker is not None and not demand_fits(self._free[worker_id], worker, shape.demand):
            shape.candidates.add(worker_id)
        else:
            shape.candidates.discard(worker_id)

    def load(self, worker_id: str, demand: Demand) -> int:
        """How full a worker is in what a demand needs most, in thousandths, reservations included."""
        worker = self._ledger.worker(worker_id)
        if worker is None:
            return 1000
        free = self._free[worker_id]
        return max(1000 - 1000 * free.get(name, 0) // max(worker.capacity.get(name, 0), 1) for name, _ in demand.needs)

    def reason(self, shape: Shape) -> str:
        """Why a shape fits no worker, in words; found once for each state of the room."""
        if shape.reason_version != self._version:
            shape.reason = self._find_reason(shape.demand)
            shape.reason_version = self._version
        return shape.reason

    def _find_reason(self, demand: Demand) -> str:
        workers = self._ledger.workers()
        if not workers:
            return "no worker is registered"
        tally = Counter(demand_fits(self._free[worker.worker_id], worker, demand) for worker in workers)
        tally.pop("", None)
        most = sorted(tally.items(), key=lambda item: (-item[1], item[0]))[:REASONS_MAX]
        details = "; ".join(f"{count} {'worker' if count == 1 else 'workers'}: {why}" for why, count in most)
        can_ever = any(
            worker.state == pb.WORKER_STATE_ACTIVE and not demand_fits(worker.capacity, worker, demand)
            for worker in workers
        )
        return f"{'waits for room' if can_ever else 'no worker in service can take it'} ({details})"
