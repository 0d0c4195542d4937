"""Handlers of the worker commands: register, drain, lose, forget."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator_proto import ledger_pb2 as pb

from .admission import check_registration
from .outcomes import WorkerOutcome
from .stage import Handler, Stage
from .transitions import lose_attempt
from .worker import Worker


def register_worker(stage: Stage, command: pb.RegisterWorkerCommand) -> WorkerOutcome:
    """Enters a worker process.

    The same incarnation again changes nothing, unless it was lost: then it is back, with its attempts gone. A larger
    incarnation loses what the former one had. A smaller one is turned away.
    """
    problem = check_registration(command)
    if problem:
        return WorkerOutcome(known=False, state=pb.WORKER_STATE_UNSPECIFIED, reason=problem)
    former = stage.books.workers.get(command.worker_id)
    if former is None:
        return _enter(stage, command, attempts_lost=0)
    if command.incarnation < former.incarnation:
        reason = f"a later start of worker {command.worker_id} is registered"
        return WorkerOutcome(known=False, state=former.state, reason=reason)
    if command.incarnation == former.incarnation and former.state != pb.WORKER_STATE_LOST:
        return WorkerOutcome(known=True, state=former.state)
    _lose_attempts(stage, former, f"worker {former.worker_id} started anew")
    return _enter(stage, command, attempts_lost=former.attempts_lost)


def _enter(stage: Stage, command: pb.RegisterWorkerCommand, *, attempts_lost: int) -> WorkerOutcome:
    registration = pb.RegisterWorkerCommand()
    registration.CopyFrom(command)
    worker = Worker(registration=registration, registered_at_ms=stage.now_ms, attempts_lost=attempts_lost)
    stage.books.workers[worker.worker_id] = worker
    stage.touch_worker(worker.worker_id)
    return WorkerOutcome(known=True, state=worker.state)


def _lose_attempts(stage: Stage, worker: Worker, reason: str) -> None:
    for task_id in sorted(worker.task_ids):
        task = stage.books.tasks.get(task_id)
        if task is None:
            continue  # cannot be: only ended tasks are forgotten, and they have no valid attempt
        for attempt in task.valid_attempts():
            if attempt.worker_id == worker.worker_id:
                lose_attempt(stage, task, attempt, reason, counts=True)


def drain_worker(stage: Stage, command: pb.DrainWorkerCommand) -> WorkerOutcome:
    """Takes a worker out of service for new attempts, or back in; a lost one stays lost."""
    worker = stage.books.workers.get(command.worker_id)
    if worker is None:
        return _unknown(command.worker_id)
    if worker.state == pb.WORKER_STATE_LOST:
        return WorkerOutcome(known=False, state=worker.state, reason=f"worker {worker.worker_id} is lost")
    wanted = pb.WORKER_STATE_ACTIVE if command.undo else pb.WORKER_STATE_DRAINING
    if worker.state != wanted:
        worker.state = wanted
        stage.touch_worker(worker.worker_id)
    return WorkerOutcome(known=True, state=worker.state)


def lose_worker(stage: Stage, command: pb.LoseWorkerCommand) -> WorkerOutcome:
    """Declares one incarnation of a worker lost; void when another one is registered or it is lost already."""
    worker = stage.books.workers.get(command.worker_id)
    if worker is None:
        return _unknown(command.worker_id)
    if worker.incarnation != command.incarnation:
        reason = f"worker {worker.worker_id} is registered with another incarnation"
        return WorkerOutcome(known=False, state=worker.state, reason=reason)
    if worker.state != pb.WORKER_STATE_LOST:
        _lose_attempts(stage, worker, f"worker {worker.worker_id} was lost: {command.reason or 'no reason given'}")
        worker.state = pb.WORKER_STATE_LOST
        worker.lost_at_ms = stage.now_ms
        stage.touch_worker(worker.worker_id)
    return WorkerOutcome(known=False, state=worker.state)


def forget_worker(stage: Stage, command: pb.ForgetWorkerCommand) -> WorkerOutcome:
    """Strikes a lost worker from the books; one in service stays."""
    worker = stage.books.workers.get(command.worker_id)
    if worker is None:
        return WorkerOutcome(known=False, state=pb.WORKER_STATE_UNSPECIFIED)
    if worker.state != pb.WORKER_STATE_LOST:
        reason = f"worker {worker.worker_id} is in service; only a lost worker is forgotten"
        return WorkerOutcome(known=True, state=worker.state, reason=reason)
    del stage.books.workers[worker.worker_id]
    stage.touch_worker(worker.worker_id)
    return WorkerOutcome(known=False, state=pb.WORKER_STATE_UNSPECIFIED)


def _unknown(worker_id: str) -> WorkerOutcome:
    reason = f"worker {worker_id} is not known"
    return WorkerOutcome(known=False, state=pb.WORKER_STATE_UNSPECIFIED, reason=reason)


HANDLERS: Mapping[str, Handler] = {
    "register_worker": register_worker,
    "drain_worker": drain_worker,
    "lose_worker": lose_worker,
    "forget_worker": forget_worker,
}
