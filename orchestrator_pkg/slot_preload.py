"""Imported by slots before their first task: everything that a run or a step of Dagster will need."""

from __future__ import annotations

from orchestrator_pkg import executor, run_task, slot_tasks, step_task
from orchestrator_pkg.slot_instance import slot_instance

__all__ = ["executor", "run_task", "slot_tasks", "step_task"]

# Opened here, so that the first task does not wait for it.
slot_instance()
