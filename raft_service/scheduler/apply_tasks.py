"""Handlers of the task commands: submit, place, finish, lose, cancel, forget."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator_proto import ledger_pb2 as pb

from .admission import check_spec
from .fits import demand_fits
from .outcomes import CancelOutcome, ForgetOutcome, PlaceOutcome, ReportOutcome, SubmitOutcome
from .stage import Handler, Stage
from .task import Task, attempt_state_name, state_name
from .transitions import cancel_trees, finish_task, lose_attempt
from .worker import Worker

# Valid attempts of one step at a time: the first and one backup for a straggler. A run is never doubled, for two
# coordinators of one run would submit its steps twice.
VALID_ATTEMPTS_MAX = {pb.TASK_KIND_RUN: 1, pb.TASK_KIND_STEP: 2}


def submit_tasks(stage: Stage, command: pb.SubmitTasksCommand) -> SubmitOutcome:
    """Queues new tasks; a known id answers with its present state, a spec that is no good with UNSPECIFIED."""
    return SubmitOutcome(tuple(_submit(stage, spec) for spec in command.tasks))


def _submit(stage: Stage, spec: pb.TaskSpec) -> pb.TaskState:
    known = stage.books.tasks.get(spec.task_id)
    if known is not None:
        return known.state
    if check_spec(spec):
        return pb.TASK_STATE_UNSPECIFIED
    # A copy, for a part of a message keeps the whole message in memory.
    own_spec = pb.TaskSpec()
    own_spec.CopyFrom(spec)
    task = Task(spec=own_spec, submitted_at_ms=stage.now_ms, arrival=stage.next_arrival())
    stage.books.add_task(task)
    stage.touch_task(task)
    if _is_orphan(stage, spec):
        cancel_trees(stage, [task], "its parent or owner is gone")
    return task.state


def _is_orphan(stage: Stage, spec: pb.TaskSpec) -> bool:
    """True when what would end this task has ended already, so that nothing would ever end it."""
    if spec.owner_lease and spec.owner_lease not in stage.books.leases:
        return True
    if not spec.parent_task_id:
        return False
    parent = stage.books.tasks.get(spec.parent_task_id)
    return parent is None or parent is stage.books.tasks[spec.task_id] or parent.is_ended


def place_tasks(stage: Stage, command: pb.PlaceTasksCommand) -> PlaceOutcome:
    """Starts attempts where each still fits; the stale ones of a plan are refused alone."""
    tokens: list[pb.Token | None] = []
    refusals: list[str] = []
    for placement in command.placements:
        token, refusal = _place(stage, placement)
        if token is None:
            stage.note_refused(placement.task_id)
        tokens.append(token)
        refusals.append(refusal)
    return PlaceOutcome(tuple(tokens), tuple(refusals))


def _place(stage: Stage, placement: pb.Placement) -> tuple[pb.Token | None, str]:
    task = stage.books.tasks.get(placement.task_id)
    worker = stage.books.workers.get(placement.worker_id)
    if task is None:
        return None, "the task is not known"
    if worker is None:
        return None, f"worker {placement.worker_id} is not known"
    if worker.incarnation != placement.worker_incarnation:
        return None, f"worker {worker.worker_id} has started anew"
    for attempt in task.valid_attempts():
        if attempt.worker_id == worker.worker_id:
            return attempt.token, ""
    refusal = _placement_refusal(stage, task, worker)
    if refusal:
        return None, refusal
    return _start_attempt(stage, task, worker).token, ""


def _placement_refusal(stage: Stage, task: Task, worker: Worker) -> str:
    if task.is_ended:
        return f"the task is {state_name(task.state)}"
    if len(task.valid_attempts()) >= VALID_ATTEMPTS_MAX[task.spec.kind]:
        return "the task is placed already"
    if task.find_attempt(stage.token()) is not None:
        return "this entry placed the task already, and a token names one attempt"
    unfit = demand_fits(worker.free(), worker, task.demand)
    return f"worker {worker.worker_id} {unfit}" if unfit else ""


def _start_attempt(stage: Stage, task: Task, worker: Worker) -> pb.Attempt:
    attempt = pb.Attempt(
        number=task.attempts[-1].number + 1 if task.attempts else 1,
        token=stage.token(),
        worker_id=worker.worker_id,
        worker_incarnation=worker.incarnation,
        state=pb.ATTEMPT_STATE_PLACED,
        placed_at_ms=stage.now_ms,
    )
    task.attempts.append(attempt)
    stage.books.set_state(task, pb.TASK_STATE_PLACED)
    stage.books.occupy(worker, task)
    stage.touch_task(task)
    stage.note_placed(task, attempt)
    return attempt


def accept_result(stage: Stage, command: pb.FinishTaskCommand) -> ReportOutcome:
    """The commit point of a task: the first result with a valid token counts; its repeat is accepted again."""
    task, attempt, refusal = _reported(stage, command.task_id, command.token)
    if task is None or attempt is None:
        return ReportOutcome(accepted=False, reason=refusal)
    if attempt.state == pb.ATTEMPT_STATE_FINISHED:
        return ReportOutcome(accepted=True)
    if attempt.state != pb.ATTEMPT_STATE_PLACED:
        return ReportOutcome(accepted=False, reason=_end_in_words(attempt))
    finish_task(stage, task, attempt, command.result)
    return ReportOutcome(accepted=True)


def accept_loss(stage: Stage, command: pb.LoseAttemptCommand) -> ReportOutcome:
    """Ends an attempt whose slot died or that was handed back; accepted again when it is lost already."""
    task, attempt, refusal = _reported(stage, command.task_id, command.token)
    if task is None or attempt is None:
        return ReportOutcome(accepted=False, reason=refusal)
    if attempt.state == pb.ATTEMPT_STATE_LOST:
        return ReportOutcome(accepted=True)
    if attempt.state != pb.ATTEMPT_STATE_PLACED:
        return ReportOutcome(accepted=False, reason=_end_in_words(attempt))
    reason = command.reason or ("it was handed back" if command.is_returned else "its slot died")
    lose_attempt(stage, task, attempt, reason, counts=not command.is_returned)
    return ReportOutcome(accepted=True)


def _reported(stage: Stage, task_id: str, token: pb.Token) -> tuple[Task | None, pb.Attempt | None, str]:
    task = stage.books.tasks.get(task_id)
    if task is None:
        return None, None, f"task {task_id} is not known"
    attempt = task.find_attempt(token)
    return task, attempt, f"task {task_id} has no attempt with token ({token.epoch}, {token.index})"


def _end_in_words(attempt: pb.Attempt) -> str:
    why = f": {attempt.reason}" if attempt.reason else ""
    return f"attempt {attempt.number} is {attempt_state_name(attempt.state)}{why}"


def cancel_tasks(stage: Stage, command: pb.CancelTasksCommand) -> CancelOutcome:
    """Ends tasks that have not ended, and their children; unknown and ended ones are skipped."""
    known = [task for task_id in command.task_ids if (task := stage.books.tasks.get(task_id)) is not None]
    return CancelOutcome(tuple(cancel_trees(stage, known, command.reason or "it was canceled")))


def forget_tasks(stage: Stage, command: pb.ForgetTasksCommand) -> ForgetOutcome:
    """Removes ended tasks; others stay."""
    forgotten = 0
    for task_id in command.task_ids:
        task = stage.books.tasks.get(task_id)
        if task is not None and task.is_ended:
            stage.books.remove_task(task)
            stage.note_forgotten(task_id)
            forgotten += 1
    return ForgetOutcome(forgotten)


HANDLERS: Mapping[str, Handler] = {
    "submit_tasks": submit_tasks,
    "place_tasks": place_tasks,
    "finish_task": accept_result,
    "lose_attempt": accept_loss,
    "cancel_tasks": cancel_tasks,
    "forget_tasks": forget_tasks,
}
