"""The worker's status as JSON, for /status and for people who look for what hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator_pkg.worker.seat import Seat
from orchestrator_pkg.worker.shared_deadline import boot_time_ns

if TYPE_CHECKING:
    from orchestrator_pkg.worker.agent import WorkerAgent


def status_of(agent: WorkerAgent) -> dict[str, Any]:
    """Lease, slots and attempts of a worker. Times are seconds."""
    now_ns = boot_time_ns()
    age_ns = agent.lease.age_ns(now_ns)
    return {
        "worker": agent.worker_id,
        "cloud": agent.settings.cloud_tag,
        "incarnation": agent.incarnation,
        "control_plane": list(agent.endpoints),
        "is_registered": agent.is_registered,
        "is_draining": agent.is_draining,
        "unready_reason": agent.unready_reason(),
        "lease": {
            "state": agent.lease.state(now_ns).value,
            "age_s": None if age_ns is None else round(age_ns / 1e9, 3),
        },
        "slots": [_slot_status(seat) for seat in agent.pool.seats],
        "attempts": [
            {
                "task_id": attempt.task_id,
                "token": list(attempt.token),
                "number": attempt.number,
                "phase": attempt.phase.value,
                "is_frozen": attempt.is_frozen,
                "is_canceled": attempt.is_canceled,
                "age_s": round((now_ns - attempt.received_at_ns) / 1e9, 3),
            }
            for attempt in agent.pool.attempts.values()
        ],
        "start_errors": dict(agent.pool.start_errors),
    }


def _slot_status(seat: Seat) -> dict[str, Any]:
    slot = seat.slot
    return {
        "kind": seat.kind,
        "number": seat.number,
        "pid": None if slot is None else slot.pid,
        "is_ready": seat.is_ready,
        "task_id": None if seat.attempt is None else seat.attempt.task_id,
        "tasks_done": 0 if slot is None else slot.tasks_done,
        "memory_bytes": 0 if slot is None else slot.memory_bytes,
        "code_keys": [] if slot is None else sorted(slot.code_keys),
    }
