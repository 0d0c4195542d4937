"""What a node says about itself: as a protobuf message, as JSON for its page, and as gauges."""

from __future__ import annotations

import time
from typing import Any

from google.protobuf.json_format import MessageToDict

from orchestrator_proto import admin_pb2
from orchestrator_proto import ledger_pb2 as pb
from raft_service import __version__
from raft_service.config import NodeSettings
from raft_service.driver import RaftDriver
from raft_service.leadership import Leadership
from raft_service.machine import LedgerMachine
from raft_service.metrics import Metrics
from raft_service.raft.messages import Role
from raft_service.rpc.admin_service import worker_views
from raft_service.scheduler.task import Task

# Waiting tasks shown on the page; the counts tell of the rest.
QUEUE_SHOWN = 50

_ROLES = {
    Role.FOLLOWER: admin_pb2.NODE_ROLE_FOLLOWER,
    Role.PRE_CANDIDATE: admin_pb2.NODE_ROLE_PRE_CANDIDATE,
    Role.CANDIDATE: admin_pb2.NODE_ROLE_CANDIDATE,
    Role.LEADER: admin_pb2.NODE_ROLE_LEADER,
}


class NodeStatus:
    """Reads the node's parts; changes none but the gauges."""

    def __init__(
        self,
        *,
        settings: NodeSettings,
        driver: RaftDriver,
        machine: LedgerMachine,
        leadership: Leadership,
        metrics: Metrics,
    ) -> None:
        """Starts the clock of the uptime."""
        self._settings = settings
        self._driver = driver
        self._machine = machine
        self._leadership = leadership
        self._metrics = metrics
        self._started = time.monotonic()

    def message(self) -> admin_pb2.StatusResponse:
        """The answer to AdminService.Status."""
        status = self._driver.status()
        raft = status.raft
        counts = self._machine.ledger.counts()
        leader = self._driver.leader
        changes = self._leadership.changes
        return admin_pb2.StatusResponse(
            cluster_id=self._settings.cluster_id,
            node_id=raft.id,
            name=self._settings.node_name,
            role=_ROLES[raft.role],
            term=raft.term,
            leader_id=leader.node_id if leader is not None else 0,
            leader_name=leader.name if leader is not None else "",
            leader_address=leader.address if leader is not None else "",
            commit_index=raft.commit,
            applied_index=raft.applied,
            first_index=self._driver.first_index,
            last_index=status.wal.last_index if status.wal is not None else 0,
            members=self._members(raft.progress, raft.id),
            tasks=counts.tasks,
            workers=counts.workers,
            version=__version__,
            uptime_ms=round((time.monotonic() - self._started) * 1000),
            leader_since_ms=changes[-1].at_ms if changes else 0,
        )

    def _members(self, progress: dict[int, Any], me: int) -> list[admin_pb2.MemberView]:
        views = []
        for member in self._settings.members:
            known = progress.get(member.node_id)
            view = admin_pb2.MemberView(node_id=member.node_id, name=member.name, address=member.address, is_voter=True)
            if known is not None:
                view.match_index = known.match
                view.is_recently_active = known.recent_active or member.node_id == me
            views.append(view)
        return views

    @property
    def is_ready(self) -> bool:
        """True while this node can serve or knows who can."""
        return self._driver.leader is not None

    # ------------------------------------------------------------------------------------------ for the page

    def page(self) -> dict[str, Any]:
        """Everything that the page shows, as JSON values."""
        status = self._driver.status()
        return {
            "node": _as_dict(self.message()),
            "is_serving": self._leadership.leader is not None,
            "disk_full": status.disk_full,
            "stalls": status.stalls,
            "waiting_proposals": status.waiting_proposals,
            "workers": self._workers(),
            "queue": self._queue(),
            "leader_changes": [
                {"at_ms": each.at_ms, "term": each.term, "leader": each.leader, "gap_ms": each.gap_ms}
                for each in reversed(self._leadership.changes)
            ],
        }

    def _workers(self) -> list[dict[str, Any]]:
        leader = self._leadership.leader
        if leader is not None:
            return [_as_dict(view) for view in worker_views(leader)]
        ledger = self._machine.ledger
        return [
            _as_dict(admin_pb2.WorkerView(record=worker.to_record(), used=ledger.used(worker.worker_id)))
            for worker in ledger.workers()
        ]

    def _queue(self) -> list[dict[str, Any]]:
        """The tasks that wait longest. Reasons are in the leader's memory alone."""
        ledger, leader = self._machine.ledger, self._leadership.leader
        if not ledger.counts().tasks.get("queued"):
            return []
        queued = [task for task in ledger.tasks() if task.state == pb.TASK_STATE_QUEUED]
        queued.sort(key=_arrival)
        return [
            {
                "task_id": task.task_id,
                "submitted_at_ms": task.submitted_at_ms,
                "reason": leader.planner.waiting_reason(task.task_id) if leader is not None else "",
            }
            for task in queued[:QUEUE_SHOWN]
        ]

    # ------------------------------------------------------------------------------------------ for Prometheus

    def metrics_text(self) -> bytes:
        """All metrics, gauges read now."""
        status, metrics = self._driver.status(), self._metrics
        leader = self._leadership.leader
        metrics.is_leader.set(leader is not None)
        metrics.term.set(status.raft.term)
        metrics.commit_index.set(status.raft.commit)
        metrics.applied_index.set(status.raft.applied)
        metrics.watches.set(len(leader.watches) if leader is not None else 0)
        metrics.stalls.set(status.stalls)
        if status.wal is not None:
            metrics.wal_bytes.set(status.wal.bytes_used)
            metrics.wal_sync_seconds.set(status.wal.last_sync_s)
        counts = self._machine.ledger.counts()
        for state, count in counts.tasks.items():
            metrics.tasks.labels(state=state).set(count)
        for state, count in counts.workers.items():
            metrics.workers.labels(state=state).set(count)
        return metrics.text()


def _arrival(task: Task) -> int:
    return task.arrival


def _as_dict(message: Any) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
