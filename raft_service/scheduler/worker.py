"""The ledger's record of one worker."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator_proto import ledger_pb2 as pb

from .amounts import Amounts, amounts_of, subtract

WORKER_STATES = (pb.WORKER_STATE_ACTIVE, pb.WORKER_STATE_DRAINING, pb.WORKER_STATE_LOST)


@dataclass(slots=True)
class Worker:
    """A registered worker. Changed by apply only; others read.

    `labels`, `capacity`, `used` and `task_ids` are derived: from the registration, and from the valid attempts.
    """

    registration: pb.RegisterWorkerCommand
    registered_at_ms: int
    state: pb.WorkerState = pb.WORKER_STATE_ACTIVE
    # Leader time of its loss; zero while it lives.
    lost_at_ms: int = 0
    # Attempts of it that were lost so far, over all incarnations.
    attempts_lost: int = 0
    labels: dict[str, str] = field(init=False)
    capacity: Amounts = field(init=False)
    # What its valid attempts take.
    used: Amounts = field(default_factory=dict)
    # Tasks with a valid attempt here; a task never has two on one worker.
    task_ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.labels = dict(self.registration.labels)
        self.capacity = amounts_of(self.registration.capacity)

    @property
    def worker_id(self) -> str:
        """Its name, unique in the cluster."""
        return self.registration.worker_id

    @property
    def incarnation(self) -> int:
        """Which start of its process this is."""
        return self.registration.incarnation

    def free(self) -> Amounts:
        """A fresh copy of capacity less what is used."""
        left = dict(self.capacity)
        subtract(left, self.used.items())
        return left

    def to_record(self) -> pb.WorkerRecord:
        """The record for a snapshot or a view."""
        return pb.WorkerRecord(
            registration=self.registration,
            state=self.state,
            registered_at_ms=self.registered_at_ms,
            lost_at_ms=self.lost_at_ms,
            attempts_lost=self.attempts_lost,
        )

    @classmethod
    def from_record(cls, record: pb.WorkerRecord) -> Worker:
        """A worker from a snapshot; its attempts are entered with the tasks."""
        registration = pb.RegisterWorkerCommand()
        registration.CopyFrom(record.registration)
        return cls(
            registration=registration,
            registered_at_ms=record.registered_at_ms,
            state=record.state,
            lost_at_ms=record.lost_at_ms,
            attempts_lost=record.attempts_lost,
        )


def worker_state_name(state: pb.WorkerState) -> str:
    """The state in lower case, such as "draining"."""
    return pb.WorkerState.Name(state).removeprefix("WORKER_STATE_").lower()
