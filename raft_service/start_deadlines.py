"""Which attempts were placed long ago and have not started: told by heartbeats, kept in the leader's memory."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator_proto import ledger_pb2 as pb
from orchestrator_proto import worker_pb2
from raft_service.scheduler.task import Task

# Without a wish of the task. A cold slot loads torch and a code location in up to a minute; five are a slot that hangs.
START_TIMEOUT_MS_DEFAULT = 300_000

_WAITING_PHASES = (worker_pb2.ATTEMPT_PHASE_UNSPECIFIED, worker_pb2.ATTEMPT_PHASE_STARTING)


class StartDeadlines:
    """Counts for each attempt since when heartbeats say that it has not started. Times are monotonic ms, passed in."""

    def __init__(self) -> None:
        """Knows of none."""
        # By worker, then by (task id, token index): since when.
        self._since: dict[str, dict[tuple[str, int], int]] = {}

    def overdue(
        self,
        heartbeat: worker_pb2.HeartbeatRequest,
        valid: Iterable[tuple[Task, pb.Attempt]],
        now_ms: int,
    ) -> list[tuple[Task, pb.Attempt]]:
        """Takes in a heartbeat and names the worker's valid attempts that should have started by now.

        Args:
            heartbeat: what the worker has; an attempt that it does not name has not started either.
            valid: what the ledger says that it has.
            now_ms: the clock.
        """
        phases = {(each.task_id, each.token.index): each.phase for each in heartbeat.attempts}
        former = self._since.get(heartbeat.worker_id, {})
        since: dict[tuple[str, int], int] = {}
        late = []
        for task, attempt in valid:
            key = (task.task_id, attempt.token.index)
            if phases.get(key, worker_pb2.ATTEMPT_PHASE_UNSPECIFIED) not in _WAITING_PHASES:
                continue
            since[key] = former.get(key, now_ms)
            if now_ms - since[key] > (task.spec.start_timeout_ms or START_TIMEOUT_MS_DEFAULT):
                late.append((task, attempt))
        self._since[heartbeat.worker_id] = since
        return late

    def forget(self, worker_id: str) -> None:
        """Drops what is known of a worker."""
        self._since.pop(worker_id, None)
