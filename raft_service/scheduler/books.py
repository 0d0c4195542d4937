"""Tasks, workers and leases with the indexes that keep apply free of full scans.

Every index is derived from the records, so a snapshot holds the records alone. Sets of ids have no order that two
replicas share; whoever walks one sorts it first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from orchestrator_proto import ledger_pb2 as pb

from .amounts import add, subtract
from .lease import Lease
from .task import Task
from .worker import Worker

# Parts of a task id that name its group: "step/RUN/key/0" is in "step/RUN". One run's steps are one group, and that
# is the prefix which clients watch.
_GROUP_PARTS = 2


class Books:
    """The state of the ledger. Only the apply handlers change it."""

    def __init__(self, epoch: int) -> None:
        """Empty books of a cluster whose tokens carry `epoch`."""
        self.epoch = epoch
        self.leader_time_ms = 0
        self.applied_index = 0
        self.tasks: dict[str, Task] = {}
        self.workers: dict[str, Worker] = {}
        self.leases: dict[str, Lease] = {}
        self.task_counts: Counter[pb.TaskState] = Counter()
        self._groups: defaultdict[str, set[str]] = defaultdict(set)
        # Tasks that have not ended, by parent and by owner lease.
        self._children: defaultdict[str, set[str]] = defaultdict(set)
        self._owned: defaultdict[str, set[str]] = defaultdict(set)

    def add_task(self, task: Task) -> None:
        """Enters a new task, or one from a snapshot with its valid attempts."""
        self.tasks[task.task_id] = task
        self.task_counts[task.state] += 1
        self._groups[_group_of(task.task_id)].add(task.task_id)
        if not task.is_ended:
            self._link(task)
        for attempt in task.valid_attempts():
            self.occupy(self.workers[attempt.worker_id], task)

    def remove_task(self, task: Task) -> None:
        """Removes an ended task."""
        del self.tasks[task.task_id]
        self.task_counts[task.state] -= 1
        _discard(self._groups, _group_of(task.task_id), task.task_id)

    def set_state(self, task: Task, state: pb.TaskState) -> None:
        """Moves a task to a state; the end takes it out of its parent's and owner's unfinished ones."""
        self.task_counts[task.state] -= 1
        self.task_counts[state] += 1
        task.state = state
        if task.is_ended:
            _discard(self._children, task.spec.parent_task_id, task.task_id)
            _discard(self._owned, task.spec.owner_lease, task.task_id)

    def _link(self, task: Task) -> None:
        if task.spec.parent_task_id:
            self._children[task.spec.parent_task_id].add(task.task_id)
        if task.spec.owner_lease:
            self._owned[task.spec.owner_lease].add(task.task_id)

    def occupy(self, worker: Worker, task: Task) -> None:
        """Books the task's needs on a worker."""
        worker.task_ids.add(task.task_id)
        add(worker.used, task.demand.needs)

    def vacate(self, worker: Worker, task: Task) -> None:
        """Gives the task's needs back to a worker."""
        worker.task_ids.remove(task.task_id)
        subtract(worker.used, task.demand.needs)

    def unfinished_children(self, task_id: str) -> list[Task]:
        """Children of a task that have not ended, in order of arrival."""
        return self._in_order(self._children.get(task_id, ()))

    def unfinished_of_owner(self, lease_name: str) -> list[Task]:
        """Tasks that a named lease owns and that have not ended, in order of arrival."""
        return self._in_order(self._owned.get(lease_name, ()))

    def _in_order(self, task_ids: Iterable[str]) -> list[Task]:
        return sorted((self.tasks[task_id] for task_id in task_ids), key=lambda task: task.arrival)

    def with_prefix(self, prefix: str) -> list[Task]:
        """Tasks whose id starts so, sorted by id.

        Costs the size of one group when the prefix names its first two parts ("step/RUN/"), otherwise the number of
        groups and the size of those that match.
        """
        group = _group_of(prefix)
        if prefix.count("/") >= _GROUP_PARTS:
            task_ids = list(self._groups.get(group, ()))
        else:
            matching = (key for key in self._groups if key.startswith(prefix))
            task_ids = [task_id for key in matching for task_id in self._groups[key]]
        return [self.tasks[task_id] for task_id in sorted(task_ids) if task_id.startswith(prefix)]


def _group_of(task_id: str) -> str:
    return "/".join(task_id.split("/", _GROUP_PARTS)[:_GROUP_PARTS])


def _discard(index: defaultdict[str, set[str]], key: str, task_id: str) -> None:
    members = index.get(key)
    if members is None:
        return
    members.discard(task_id)
    if not members:
        del index[key]
