"""An attempt that no heartbeat calls started is named once its time is over."""

from __future__ import annotations

from orchestrator_proto import ledger_pb2 as pb
from orchestrator_proto import worker_pb2
from raft_service.scheduler.task import Task
from raft_service.start_deadlines import StartDeadlines


def attempt(task_id: str, index: int, start_timeout_ms: int) -> tuple[Task, pb.Attempt]:
    spec = pb.TaskSpec(task_id=task_id, kind=pb.TASK_KIND_STEP, start_timeout_ms=start_timeout_ms)
    return Task(spec=spec, submitted_at_ms=0, arrival=index), pb.Attempt(token=pb.Token(epoch=1, index=index))


def heartbeat(*phases: tuple[str, int, worker_pb2.AttemptPhase]) -> worker_pb2.HeartbeatRequest:
    running = [
        worker_pb2.RunningAttempt(task_id=task_id, token=pb.Token(epoch=1, index=index), phase=phase)
        for task_id, index, phase in phases
    ]
    return worker_pb2.HeartbeatRequest(worker_id="w", attempts=running)


def test_only_what_has_not_started_is_late() -> None:
    deadlines = StartDeadlines()
    starting, running, missing = attempt("a", 1, 100), attempt("b", 2, 100), attempt("c", 3, 100)
    valid = [starting, running, missing]
    beat = heartbeat(("a", 1, worker_pb2.ATTEMPT_PHASE_STARTING), ("b", 2, worker_pb2.ATTEMPT_PHASE_RUNNING))
    assert deadlines.overdue(beat, valid, 0) == []
    assert deadlines.overdue(beat, valid, 100) == []
    assert deadlines.overdue(beat, valid, 101) == [starting, missing]


def test_the_clock_of_an_attempt_starts_with_its_first_heartbeat_and_ends_with_its_start() -> None:
    deadlines = StartDeadlines()
    late = attempt("a", 1, 100)
    starting = heartbeat(("a", 1, worker_pb2.ATTEMPT_PHASE_STARTING))
    deadlines.overdue(starting, [late], 50)
    assert deadlines.overdue(starting, [late], 150) == []
    deadlines.overdue(heartbeat(("a", 1, worker_pb2.ATTEMPT_PHASE_RUNNING)), [late], 160)
    assert deadlines.overdue(starting, [late], 200) == []


def test_without_a_wish_the_default_holds() -> None:
    deadlines = StartDeadlines()
    default = attempt("a", 1, 0)
    deadlines.overdue(heartbeat(), [default], 0)
    assert deadlines.overdue(heartbeat(), [default], 299_999) == []
    assert deadlines.overdue(heartbeat(), [default], 300_001) == [default]
