"""Describes a step of a run as a task for the control plane."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator_pkg._compat import KnownExecutionState, RetryMode, serialize_value
from orchestrator_pkg.known_state import trim
from orchestrator_pkg.payloads import VERSION, NoteStore, pack
from orchestrator_pkg.task_config import TaskConfig, parse
from orchestrator_proto import ledger_pb2 as pb


def run_task_id(run_id: str) -> str:
    """Id of the task that orchestrates a run."""
    return f"run/{run_id}"


def step_prefix(run_id: str) -> str:
    """What the ids of all step tasks of a run begin with."""
    return f"step/{run_id}/"


def step_task_id(run_id: str, step_key: str, attempt: int) -> str:
    """Id of a step's task.

    Args:
        run_id: the run.
        step_key: Dagster's key.
        attempt: how often the step has asked for a retry before; from 0.
    """
    return f"step/{run_id}/{step_key}/{attempt}"


def step_of(task_id: str) -> tuple[str, int]:
    """Step key and attempt of a step task's id."""
    _, _, rest = task_id.split("/", 2)
    step_key, _, attempt = rest.rpartition("/")
    return step_key, int(attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpecs:
    """Makes the specs of one run's steps."""

    run_id: str
    job_name: str
    # What the run's tags ask for; steps may ask otherwise.
    run_config: TaskConfig
    # The run's version of the code.
    code_digest: str
    retries: RetryMode
    require_upstream_step_success: bool
    infra_losses_max: int
    notes: NoteStore
    # The run task when this process is a run slot; otherwise empty.
    parent_task_id: str = ""
    # The lease of this process when it is none; otherwise empty.
    owner_lease: str = ""

    def spec(self, step: Any, state: KnownExecutionState) -> pb.TaskSpec:
        """The task of a step.

        Args:
            step: Dagster's ExecutionStep.
            state: what is known of the run now, whole.

        Raises:
            TagError: the step's tags cannot be understood.
        """
        attempt = state.previous_retry_attempts.get(step.key, 0)
        spec = pb.TaskSpec(
            task_id=step_task_id(self.run_id, step.key, attempt),
            kind=pb.TASK_KIND_STEP,
            parent_task_id=self.parent_task_id,
            owner_lease=self.owner_lease,
            resources=pb.Resources(step_slots=1),
            fair_key=self.job_name,
            code_key=self.code_digest,
            infra_losses_max=self.infra_losses_max,
            labels={"run": self.run_id, "step": step.key, "job": self.job_name},
        )
        config = parse(step.tags or {}, where=f"step {step.key}").over(self.run_config)
        config.apply_to(spec, with_resources=True)
        spec.payload = json.dumps(self._payload(step, state, spec.task_id), separators=(",", ":")).encode()
        return spec

    def _payload(self, step: Any, state: KnownExecutionState, task_id: str) -> Mapping[str, Any]:
        known = serialize_value(trim(state, step=step))
        return {
            "v": VERSION,
            "run_id": self.run_id,
            "step_key": step.key,
            "known_state": pack(known, notes=self.notes, key=f"orchestrator/known/{task_id}"),
            "retry_mode": self.retries.for_inner_plan().value,
            "require_upstream_step_success": self.require_upstream_step_success,
            "code": self.code_digest,
        }
