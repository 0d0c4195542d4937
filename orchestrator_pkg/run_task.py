"""Orchestrates a Dagster run in a warm slot: starts it, or resumes what another slot began."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from orchestrator_pkg._compat import (
    DagsterExecutionInterruptedError,
    EngineEventData,
    ReconstructableJob,
    core_execute_run,
    recon_job_from_origin,
)
from orchestrator_pkg.code_key import LOADED, in_words
from orchestrator_pkg.slot_instance import SlotInstance, slot_instance
from orchestrator_pkg.slot_tasks import StaleCode
from orchestrator_pkg.warm_definitions import DEFINITIONS, code_root
from orchestrator_pkg.worker.slot_context import SlotContext

CANCELED = (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)


def execute_run(context: SlotContext, payload: Mapping[str, Any]) -> None:
    """Executes the run to its end and reports it.

    Raises:
        StaleCode: this process has loaded older code than is on disk.
        LeaseLost: the worker's lease ended on the way.
    """
    slot = slot_instance()
    run = slot.instance.get_run_by_id(payload["run_id"])
    if run is None:
        context.finish(succeeded=False, payload={}, error=f"Run {payload['run_id']} is not in Dagster's database.")
        return
    with slot.gate.guarding(context.check_lease):
        if not _ended_before(slot.instance, run):
            _execute(slot, run, context)
    _report(slot.instance, run.run_id, context)


def _ended_before(instance: DagsterInstance, run: DagsterRun) -> bool:
    """True when there is nothing to do: the run has ended, or was canceled before it began."""
    if run.status == DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, message="Run canceled before a slot took it up.")
    return run.is_finished or run.status in CANCELED


def _execute(slot: SlotInstance, run: DagsterRun, context: SlotContext) -> None:
    job = _load(slot, run)
    is_resumed = run.status == DagsterRunStatus.STARTED
    verb = "Resumes" if is_resumed else "Started"
    where = f"{context.worker_id} (pid {os.getpid()}, attempt {context.attempt_number})"
    slot.instance.report_engine_event(
        f"{verb} process for run on worker {where}.", run, EngineEventData.in_process(os.getpid())
    )
    try:
        for _ in core_execute_run(job, run, slot.instance, inject_env_vars=True, resume_from_failure=is_resumed):
            pass
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        pass  # A cancel: core_execute_run has written what became of the run before it raised.
    finally:
        context.check_lease()
    slot.instance.report_engine_event(f"Process for run exited on worker {where}.", run)


def _load(slot: SlotInstance, run: DagsterRun) -> ReconstructableJob:
    """The run's job on warm definitions; on cold ones when they do not load, so that Dagster reports why."""
    if run.job_code_origin is None:
        raise ValueError(f"Run {run.run_id} does not say where its code is; launch it from a code location.")
    cold = recon_job_from_origin(run.job_code_origin)
    changed = LOADED.changed_on_disk(code_root(cold.repository.pointer))
    if changed:
        raise StaleCode(f"{in_words(changed)} changed on disk since this process loaded it")
    try:
        job, _ = DEFINITIONS.job(run.job_code_origin, slot.load_data(run))
    except Exception:  # noqa: BLE001 - the user's code at import; core_execute_run meets it again and records it
        return cold
    return job


def _report(instance: DagsterInstance, run_id: str, context: SlotContext) -> None:
    run = instance.get_run_by_id(run_id)
    status = "deleted" if run is None else run.status.value
    succeeded = status == DagsterRunStatus.SUCCESS.value
    error = "" if succeeded else f"The run ended as {status}; its event log in Dagster says why."
    context.finish(succeeded=succeeded, payload={"v": 1, "status": status}, error=error)
