"""The replicated ledger of workers and tasks: every node applies the same entries and holds the same books.

`apply` is the only way in. It looks at nothing but the books and the entry: no clock, no randomness, no order of a set
or dictionary that two processes might disagree on. Time comes inside the entry, from the leader that proposed it, and
never goes back. Each command carries an identity (task id, token, incarnation, lease owner), and a repeat is answered
with the first outcome, so that a client whose answer was lost may simply ask again.

A command or version that is not known stops the node before anything of its entry is applied: guessing would let the
replicas drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchestrator_proto import ledger_pb2 as pb

from . import apply_leases, apply_tasks, apply_workers
from .amounts import resources_of
from .books import Books
from .lease import Lease
from .outcomes import Applied
from .snapshot import load_books, save_books
from .stage import Handler, Stage
from .task import TASK_STATES, Task, state_name
from .worker import WORKER_STATES, Worker, worker_state_name

ENTRY_VERSION = 1

HANDLERS: Mapping[str, Handler] = {**apply_workers.HANDLERS, **apply_tasks.HANDLERS, **apply_leases.HANDLERS}


class UnknownCommand(Exception):
    """An entry has a version or a command that this program does not know; the node must stop."""


class AppliedTwice(Exception):
    """An entry came at or below the index that is applied already; the caller lost count."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tasks and workers there are by state name, zeros included, and how many leases."""

    tasks: dict[str, int]
    workers: dict[str, int]
    leases: int


class Ledger:
    """The state machine. Not thread-safe: one caller at a time."""

    def __init__(self, epoch: int = 1) -> None:
        """An empty ledger whose tokens carry `epoch` (1 in a new cluster, more after a restore from backup)."""
        self._books = Books(epoch)

    # ---------------------------------------------------------------------------------------------- changing

    def apply(self, index: int, entry: pb.LedgerEntry) -> Applied:
        """Applies one committed entry, all its commands in order.

        Args:
            index: its log index, above all applied so far.
            entry: as it stands in the log.

        Raises:
            UnknownCommand: nothing was applied, and the node must not go on.
            AppliedTwice: nothing was applied.
        """
        _refuse_unknown(index, entry)
        books = self._books
        if index <= books.applied_index:
            raise AppliedTwice(f"Entry {index} came after {books.applied_index} was applied.")
        books.leader_time_ms = max(books.leader_time_ms, entry.leader_time_ms)
        stage = Stage(books, index, books.leader_time_ms)
        outcomes = []
        for command in entry.commands:
            kind = command.WhichOneof("command")
            outcomes.append(HANDLERS[kind](stage, getattr(command, kind)))
        books.applied_index = index
        return Applied(tuple(outcomes), stage.changes())

    def snapshot(self) -> pb.LedgerSnapshot:
        """A copy of everything, equal for equal ledgers."""
        return save_books(self._books)

    @classmethod
    def restore(cls, snapshot: pb.LedgerSnapshot) -> Ledger:
        """A ledger that goes on where the snapshot was taken.

        Raises:
            UnknownSnapshot: the snapshot's version is not known.
        """
        ledger = cls(snapshot.epoch)
        ledger._books = load_books(snapshot)
        return ledger

    # ---------------------------------------------------------------------------------------------- reading

    @property
    def epoch(self) -> int:
        """Cluster epoch of the tokens to come."""
        return self._books.epoch

    @property
    def applied_index(self) -> int:
        """Log index of the last applied entry; zero before the first."""
        return self._books.applied_index

    @property
    def leader_time_ms(self) -> int:
        """The latest leader time applied, ms since the epoch."""
        return self._books.leader_time_ms

    def task(self, task_id: str) -> Task | None:
        """The task, to read only, or None."""
        return self._books.tasks.get(task_id)

    def tasks(self) -> Iterator[Task]:
        """All tasks, in no particular order."""
        return iter(self._books.tasks.values())

    def tasks_with_prefix(self, prefix: str) -> list[Task]:
        """Tasks whose id starts so, sorted by id. Cheap when the prefix names a run ("step/RUN/")."""
        return self._books.with_prefix(prefix)

    def view(self, task_id: str, with_payload: bool = False) -> pb.TaskView:
        """The task as clients see it; an unknown one comes back with its id and state UNSPECIFIED."""
        task = self._books.tasks.get(task_id)
        if task is None:
            return pb.TaskView(spec=pb.TaskSpec(task_id=task_id))
        return task.to_view(with_payload=with_payload)

    def is_valid(self, task_id: str, token: pb.Token) -> bool:
        """True while the token is that of a valid attempt of the task."""
        task = self._books.tasks.get(task_id)
        attempt = task.find_attempt(token) if task is not None else None
        return attempt is not None and attempt.state == pb.ATTEMPT_STATE_PLACED

    def worker(self, worker_id: str) -> Worker | None:
        """The worker, to read only, or None."""
        return self._books.workers.get(worker_id)

    def workers(self) -> list[Worker]:
        """All workers, sorted by id."""
        return [self._books.workers[worker_id] for worker_id in sorted(self._books.workers)]

    def live_workers(self) -> list[tuple[str, int]]:
        """(id, incarnation) of each worker that is not lost, sorted: those whose lease a leader must watch."""
        return [(w.worker_id, w.incarnation) for w in self.workers() if w.state != pb.WORKER_STATE_LOST]

    def valid_attempts(self, worker_id: str) -> list[tuple[Task, pb.Attempt]]:
        """Tasks that a worker has, each with its valid attempt there, in order of arrival."""
        worker = self._books.workers.get(worker_id)
        if worker is None:
            return []
        tasks = sorted((self._books.tasks[task_id] for task_id in worker.task_ids), key=lambda task: task.arrival)
        return [
            (task, attempt) for task in tasks for attempt in task.valid_attempts() if attempt.worker_id == worker_id
        ]

    def used(self, worker_id: str) -> pb.Resources:
        """What the valid attempts on a worker take; nothing for an unknown one."""
        worker = self._books.workers.get(worker_id)
        return resources_of(worker.used) if worker is not None else pb.Resources()

    def counts(self) -> Counts:
        """Numbers for metrics and pages."""
        tasks = {state_name(state): self._books.task_counts[state] for state in TASK_STATES}
        workers = {worker_state_name(state): 0 for state in WORKER_STATES}
        for worker in self._books.workers.values():
            workers[worker_state_name(worker.state)] += 1
        return Counts(tasks=tasks, workers=workers, leases=len(self._books.leases))

    def lease(self, name: str) -> Lease | None:
        """The lease as last held, to read only, or None; it may have run out without being expired yet."""
        return self._books.leases.get(name)

    def expired_leases(self, now_leader_time_ms: int) -> list[Lease]:
        """Leases that ran out by this leader time, sorted by name: what the leader proposes to expire."""
        leases = self._books.leases
        return [leases[name] for name in sorted(leases) if leases[name].expires_at_ms <= now_leader_time_ms]


def _refuse_unknown(index: int, entry: pb.LedgerEntry) -> None:
    if entry.version != ENTRY_VERSION:
        raise UnknownCommand(
            f"Entry {index} has version {entry.version}, this program knows {ENTRY_VERSION}; start the release that "
            "the other nodes run."
        )
    for place, command in enumerate(entry.commands):
        if command.WhichOneof("command") not in HANDLERS:
            raise UnknownCommand(
                f"Command {place} of entry {index} is not known to this program; start the release that the other "
                "nodes run."
            )
