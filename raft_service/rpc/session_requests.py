"""Requests of a session as commands of the log and back, and the reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator_proto import ledger_pb2 as pb
from orchestrator_proto import task_pb2
from raft_service.entry_batch import Done
from raft_service.leader import Leader
from raft_service.rpc.channel import BATCH_BYTES_MAX
from raft_service.scheduler.admission import PAYLOAD_BYTES_MAX, check_spec
from raft_service.scheduler.ledger import Ledger

# Tasks of one SubmitTasks, as the protocol says: one entry's worth.
SUBMIT_TASKS_MAX = 1_000
# Tasks of one TaskStatus without a limit of its own, as the protocol says.
STATUS_TASKS_MAX = 1_000
# Size of one TaskStatusReply, well below the largest message.
STATUS_BYTES_MAX = 8 << 20


class Invalid(Exception):
    """The request itself is wrong; the message is one sentence with the cure."""


# ---------------------------------------------------------------------------------------------- requests to commands


def command_of(request: task_pb2.Request, kind: str, ledger: Ledger) -> pb.Command:
    """The command that a changing request proposes.

    Raises:
        Invalid: the request is wrong, or of a kind that this program does not know.
    """
    make = _COMMANDS.get(kind)
    if make is None:
        raise Invalid("This node does not know the request; it is older than the client. Upgrade the nodes first.")
    command = make(getattr(request, kind), ledger)
    if command.ByteSize() > BATCH_BYTES_MAX:
        raise Invalid(f"The request is larger than {BATCH_BYTES_MAX} bytes; split it.")
    return command


def _submit(request: task_pb2.SubmitTasks, ledger: Ledger) -> pb.Command:
    if len(request.tasks) > SUBMIT_TASKS_MAX:
        raise Invalid(f"One request may submit {SUBMIT_TASKS_MAX} tasks, it has {len(request.tasks)}; split it.")
    for spec in request.tasks:
        problem = check_spec(spec)
        if problem:
            raise Invalid(problem)
    return pb.Command(submit_tasks=pb.SubmitTasksCommand(tasks=request.tasks))


def _cancel(request: task_pb2.CancelTasks, ledger: Ledger) -> pb.Command:
    task_ids = list(request.task_ids)
    if request.prefix:
        task_ids += [task.task_id for task in ledger.tasks_with_prefix(request.prefix) if not task.is_ended]
    return pb.Command(cancel_tasks=pb.CancelTasksCommand(task_ids=task_ids, reason=request.reason))


def _forget(request: task_pb2.ForgetTasks, ledger: Ledger) -> pb.Command:
    task_ids = list(request.task_ids)
    if request.prefix:
        task_ids += [task.task_id for task in ledger.tasks_with_prefix(request.prefix) if task.is_ended]
    return pb.Command(forget_tasks=pb.ForgetTasksCommand(task_ids=task_ids))


def _finish(request: task_pb2.ReportResult, ledger: Ledger) -> pb.Command:
    size = len(request.result.payload)
    if size > PAYLOAD_BYTES_MAX:
        raise Invalid(
            f"The result of {request.task_id} has {size} bytes, at most {PAYLOAD_BYTES_MAX} are taken; "
            "store it and pass a reference."
        )
    finish = pb.FinishTaskCommand(task_id=request.task_id, token=request.token, result=request.result)
    return pb.Command(finish_task=finish)


def _lose(request: task_pb2.ReportLoss, ledger: Ledger) -> pb.Command:
    lose = pb.LoseAttemptCommand(
        task_id=request.task_id, token=request.token, reason=request.reason, is_returned=request.is_returned
    )
    return pb.Command(lose_attempt=lose)


def _hold(request: task_pb2.HoldLease, ledger: Ledger) -> pb.Command:
    if not request.name or not request.owner or not request.ttl_ms:
        raise Invalid("HoldLease needs a name, an owner and a time to live above zero.")
    hold = pb.HoldLeaseCommand(name=request.name, owner=request.owner, ttl_ms=request.ttl_ms)
    return pb.Command(hold_lease=hold)


def _release(request: task_pb2.ReleaseLease, ledger: Ledger) -> pb.Command:
    return pb.Command(release_lease=pb.ReleaseLeaseCommand(name=request.name, owner=request.owner))


_COMMANDS: Mapping[str, Callable[[Any, Ledger], pb.Command]] = {
    "submit_tasks": _submit,
    "cancel_tasks": _cancel,
    "report_result": _finish,
    "report_loss": _lose,
    "hold_lease": _hold,
    "release_lease": _release,
    "forget_tasks": _forget,
}

# ---------------------------------------------------------------------------------------------- outcomes to answers


def response_of(request_id: int, kind: str, done: Done) -> task_pb2.Response:
    """The answer to a changing request that took effect."""
    name, reply = _REPLIES[kind](done.outcome, done.index)
    return task_pb2.Response(id=request_id, **{name: reply})


def _report_reply(outcome: Any, index: int) -> tuple[str, Any]:
    return "report", task_pb2.ReportReply(accepted=outcome.accepted, reason=outcome.reason, index=index)


def _lease_reply(outcome: Any, index: int) -> tuple[str, Any]:
    return "lease", task_pb2.LeaseReply(granted=outcome.granted, owner=outcome.owner, token=outcome.token)


_REPLIES: Mapping[str, Callable[[Any, int], tuple[str, Any]]] = {
    "submit_tasks": lambda outcome, index: (
        "submit_tasks",
        task_pb2.SubmitTasksReply(states=outcome.states, index=index),
    ),
    "cancel_tasks": lambda outcome, index: (
        "cancel_tasks",
        task_pb2.CancelTasksReply(canceled=len(outcome.canceled), index=index),
    ),
    "report_result": _report_reply,
    "report_loss": _report_reply,
    "hold_lease": _lease_reply,
    "release_lease": _lease_reply,
    "forget_tasks": lambda outcome, _: ("forget_tasks", task_pb2.ForgetTasksReply(forgotten=outcome.forgotten)),
}

# ---------------------------------------------------------------------------------------------- reads


def status_reply(request: task_pb2.TaskStatus, leader: Leader) -> task_pb2.TaskStatusReply:
    """Reads tasks; the caller has waited for the barrier.

    Raises:
        Invalid: the answer would be too large.
    """
    ledger = leader.ledger
    limit = request.limit or STATUS_TASKS_MAX
    if request.task_ids and not request.prefix:
        task_ids = list(request.task_ids)[:limit]
    else:
        task_ids = [task.task_id for task in ledger.tasks_with_prefix(request.prefix)[:limit]]
    reply = task_pb2.TaskStatusReply(index=ledger.applied_index)
    size = 0
    for task_id in task_ids:
        view = ledger.view(task_id, request.with_payload)
        view.waiting_reason = leader.planner.waiting_reason(task_id)
        size += view.ByteSize()
        if size > STATUS_BYTES_MAX:
            raise Invalid(f"The answer is larger than {STATUS_BYTES_MAX} bytes; ask for fewer tasks or no payloads.")
        reply.tasks.append(view)
    return reply
