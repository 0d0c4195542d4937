"""How attempts and tasks end: the moves that every command shares.

    task     QUEUED -> PLACED -> SUCCEEDED | FAILED      PLACED -> QUEUED when its last valid attempt is lost
             QUEUED | PLACED -> CANCELED                 QUEUED | PLACED -> FAILED after too many losses
    attempt  PLACED -> FINISHED | LOST | CANCELED | SUPERSEDED

What an attempt took from its worker is given back by the same entry that ends it, so nothing can keep a slot that no
valid attempt uses.
"""

from __future__ import annotations

from orchestrator_proto import ledger_pb2 as pb

from .stage import Stage
from .task import Task, state_name

# Attempts of one task in all, counting those handed back untouched. Bounds the record, and ends a task that two
# workers hand back for ever.
ATTEMPTS_MAX = 100


def end_attempt(stage: Stage, task: Task, attempt: pb.Attempt, state: pb.AttemptState, reason: str) -> None:
    """Takes a valid attempt's token away."""
    attempt.state = state
    attempt.ended_at_ms = stage.now_ms
    attempt.reason = reason
    stage.books.vacate(stage.worker_of(attempt), task)
    stage.note_ended(task, attempt)
    stage.touch_task(task)


def finish_task(stage: Stage, task: Task, attempt: pb.Attempt, result: pb.TaskResult) -> None:
    """Accepts the result of a valid attempt; other attempts are superseded, unfinished children canceled."""
    end_attempt(stage, task, attempt, pb.ATTEMPT_STATE_FINISHED, "")
    for other in task.valid_attempts():
        reason = f"attempt {attempt.number} finished first"
        end_attempt(stage, task, other, pb.ATTEMPT_STATE_SUPERSEDED, reason)
    _end_with_result(stage, task, result)


def _end_with_result(stage: Stage, task: Task, result: pb.TaskResult) -> None:
    task.result = pb.TaskResult(succeeded=result.succeeded, payload=result.payload, error=result.error)
    _end(stage, task, pb.TASK_STATE_SUCCEEDED if result.succeeded else pb.TASK_STATE_FAILED)
    cancel_trees(stage, stage.books.unfinished_children(task.task_id), _parent_reason(task))


def _end(stage: Stage, task: Task, state: pb.TaskState) -> None:
    stage.books.set_state(task, state)
    task.ended_at_ms = stage.now_ms
    stage.touch_task(task)


def _parent_reason(parent: Task) -> str:
    return f"its parent task {parent.task_id} is {state_name(parent.state)}"


def cancel_trees(stage: Stage, roots: list[Task], reason: str) -> list[str]:
    """Cancels unfinished tasks and all their unfinished descendants; returns their ids, parents first."""
    canceled = []
    work = [(task, reason) for task in reversed(roots)]
    while work:
        task, why = work.pop()
        if task.is_ended:
            continue  # named twice, or a descendant of another root
        for attempt in task.valid_attempts():
            end_attempt(stage, task, attempt, pb.ATTEMPT_STATE_CANCELED, why)
        _end(stage, task, pb.TASK_STATE_CANCELED)
        canceled.append(task.task_id)
        children = stage.books.unfinished_children(task.task_id)
        work += [(child, _parent_reason(task)) for child in reversed(children)]
    return canceled


def lose_attempt(stage: Stage, task: Task, attempt: pb.Attempt, reason: str, *, counts: bool) -> None:
    """Ends a valid attempt as lost; its task is queued again, or fails after too many losses.

    Args:
        counts: True for a loss of infrastructure, False for an attempt that was handed back untouched.
    """
    worker = stage.worker_of(attempt)
    end_attempt(stage, task, attempt, pb.ATTEMPT_STATE_LOST, reason)
    if counts:
        task.infra_losses += 1
        worker.attempts_lost += 1
        stage.touch_worker(worker.worker_id)
    if task.valid_attempts():
        return  # a second attempt goes on
    error = _fatal_losses(task, reason)
    if error:
        _end_with_result(stage, task, pb.TaskResult(succeeded=False, error=error))
    else:
        stage.books.set_state(task, pb.TASK_STATE_QUEUED)


def _fatal_losses(task: Task, reason: str) -> str:
    """One sentence when the task may not be tried again, otherwise ""."""
    last = f"the last time because {reason}" if reason else "the last time without a reason given"
    if task.infra_losses > task.infra_losses_max:
        return (
            f"Task {task.task_id} lost {task.infra_losses} attempts with their workers or slots, more than the "
            f"{task.infra_losses_max} that it may lose, {last}."
        )
    if task.attempts[-1].number >= ATTEMPTS_MAX:
        return f"Task {task.task_id} was tried {ATTEMPTS_MAX} times without a result, {last}."
    return ""
