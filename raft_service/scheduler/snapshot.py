"""The whole books as one message, and back.

Records are sorted, so that equal books give equal messages; serialize with `deterministic=True` to get equal bytes.
"""

from __future__ import annotations

from orchestrator_proto import ledger_pb2 as pb

from .books import Books
from .lease import Lease
from .task import Task
from .worker import Worker

SNAPSHOT_VERSION = 1


class UnknownSnapshot(Exception):
    """The snapshot has a format version that this program does not know; a newer program wrote it."""


def save_books(books: Books) -> pb.LedgerSnapshot:
    """A message that holds copies of everything."""
    snapshot = pb.LedgerSnapshot(
        version=SNAPSHOT_VERSION,
        epoch=books.epoch,
        leader_time_ms=books.leader_time_ms,
        applied_index=books.applied_index,
    )
    snapshot.workers.extend(books.workers[worker_id].to_record() for worker_id in sorted(books.workers))
    in_order = sorted(books.tasks.values(), key=lambda task: (task.arrival, task.task_id))
    snapshot.tasks.extend(task.to_record() for task in in_order)
    snapshot.leases.extend(books.leases[name].to_record() for name in sorted(books.leases))
    return snapshot


def load_books(snapshot: pb.LedgerSnapshot) -> Books:
    """Books from a message.

    Raises:
        UnknownSnapshot: the version is not ours.
    """
    if snapshot.version != SNAPSHOT_VERSION:
        raise UnknownSnapshot(
            f"Snapshot version {snapshot.version} is not known, only {SNAPSHOT_VERSION}; start the node with the "
            "release that wrote it."
        )
    books = Books(snapshot.epoch)
    books.leader_time_ms = snapshot.leader_time_ms
    books.applied_index = snapshot.applied_index
    for worker_record in snapshot.workers:
        worker = Worker.from_record(worker_record)
        books.workers[worker.worker_id] = worker
    for task_record in snapshot.tasks:
        books.add_task(Task.from_record(task_record))
    for lease_record in snapshot.leases:
        lease = Lease.from_record(lease_record)
        books.leases[lease.name] = lease
    return books
