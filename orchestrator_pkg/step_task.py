"""Executes one step of a Dagster run in a warm slot, holding back its outcome until the control plane accepts it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

from dagster import DagsterRun, DagsterRunStatus, MetadataValue

from orchestrator_pkg._compat import (
    DagsterEvent,
    DagsterEventType,
    DagsterExecutionInterruptedError,
    EngineEventData,
    EventLogEntry,
    JobPythonOrigin,
    KnownExecutionState,
    ReconstructableJob,
    RetryMode,
    StepDependencyConfig,
    create_context_free_log_manager,
    create_execution_plan,
    deserialize_value,
    execute_plan_iterator,
    get_note,
    serializable_error_info_from_exc_info,
    serialize_value,
)
from orchestrator_pkg.code_key import LOADED, disk_differing, in_words
from orchestrator_pkg.code_pin import CodeChanged, changed, pinned_files
from orchestrator_pkg.event_gate import TERMINAL_TYPES
from orchestrator_pkg.payloads import StepResult, encode_result, unpack
from orchestrator_pkg.publish import AttemptInfo, attempt_scope
from orchestrator_pkg.slot_instance import SlotInstance, slot_instance
from orchestrator_pkg.slot_tasks import StaleCode
from orchestrator_pkg.warm_definitions import DEFINITIONS, code_root
from orchestrator_pkg.worker.slot_context import LeaseLost, SlotContext

# A sentence for people; the whole error is in the run's event log.
ERROR_LETTERS_MAX = 500
# Other slots may still hold the run's code; after so many placements nobody does.
CODE_PLACEMENTS_MAX = 4

# Versions of code that this process was found to agree with, beside those equal to the letter.
_agreed: set[str] = set()


def execute_step(context: SlotContext, payload: Mapping[str, Any]) -> None:
    """Executes the step and reports its outcome.

    Raises:
        StaleCode: this process has other code loaded than the run.
        LeaseLost: the worker's lease ended on the way.
    """
    slot = slot_instance()
    run_id, step_key = payload["run_id"], payload["step_key"]
    run = slot.instance.get_run_by_id(run_id)
    if run is None:
        context.finish(succeeded=False, payload={}, error=f"Run {run_id} is not in Dagster's database.")
        return
    info = AttemptInfo(run_id=run_id, step_key=step_key, token=context.token, number=context.attempt_number)
    try:
        with (
            slot.gate.guarding(context.check_lease),
            slot.gate.holding(run_id=run_id, step_key=step_key) as held,
            attempt_scope(info),
            _environment(run, step_key),
        ):
            _execute(slot, run, payload, context, held)
    except CodeChanged as error:
        _refuse(context, str(error))
        return
    except (LeaseLost, StaleCode):
        raise
    except Exception as error:  # noqa: BLE001 - edge of foreign code; told to the orchestrator, which ends the step
        # Not left to the slot: it would count as a lost worker, and the same error would come from the next one.
        traceback.print_exc()
        context.finish(succeeded=False, payload={}, error=f"{type(error).__name__}: {error}"[:ERROR_LETTERS_MAX])
        return
    _report(slot, context, held, info)


@contextmanager
def _environment(run: DagsterRun, step_key: str) -> Iterator[None]:
    """What Dagster's own step workers set; the slot puts the environment back after the task."""
    os.environ["DAGSTER_RUN_JOB_NAME"] = run.job_name
    os.environ["DAGSTER_RUN_STEP_KEY"] = step_key
    yield


def _execute(
    slot: SlotInstance,
    run: DagsterRun,
    payload: Mapping[str, Any],
    context: SlotContext,
    held: list[EventLogEntry],
) -> None:
    step_key = payload["step_key"]
    instance = slot.instance
    load_data = slot.load_data(run)
    job = _load(slot, run, load_data, payload)
    location = run.remote_job_origin.location_name if run.remote_job_origin else None
    instance.inject_env_vars(location)
    DagsterEvent.step_worker_started(
        create_context_free_log_manager(instance, run),
        run.job_name,
        message=f'Step worker started for "{step_key}" on {context.worker_id}.',
        metadata={"pid": MetadataValue.text(str(os.getpid())), "worker": MetadataValue.text(context.worker_id)},
        step_key=step_key,
    )
    if run.is_finished or run.status == DagsterRunStatus.CANCELING:
        instance.report_engine_event(
            f"{step_key} is not executed, for the run is {run.status.value}.", run, step_key=step_key
        )
        return
    try:
        _iterate(slot, run, job, load_data, payload)
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        # The step's failure is written; the interrupt ends here, as the slot goes on with other tasks.
        instance.report_engine_event("Step execution terminated by interrupt.", run, step_key=step_key)
    except (LeaseLost, StaleCode):
        raise
    except Exception:
        if _has(held, {DagsterEventType.RESOURCE_INIT_FAILURE}):
            return  # Told by its event; the orchestrator turns it into failure or retry.
        instance.report_engine_event(
            "An exception outside user code ended the step.",
            run,
            EngineEventData.engine_error(serializable_error_info_from_exc_info(sys.exc_info())),
            step_key=step_key,
        )
        raise


def _iterate(
    slot: SlotInstance, run: DagsterRun, job: ReconstructableJob, load_data: Any, payload: Mapping[str, Any]
) -> None:
    known_state = deserialize_value(unpack(payload["known_state"], notes=slot.notes), KnownExecutionState)
    plan = create_execution_plan(
        job,
        run_config=run.run_config,
        step_keys_to_execute=[payload["step_key"]],
        known_state=known_state,
        repository_load_data=load_data,
    )
    events = execute_plan_iterator(
        plan,
        job,
        run,
        slot.instance,
        run_config=run.run_config,
        retry_mode=RetryMode(payload["retry_mode"]),
        step_dependency_config=StepDependencyConfig(
            require_upstream_step_success=payload["require_upstream_step_success"]
        ),
    )
    # Stored or held back while they are made; the iterator only drives.
    for _ in events:
        pass


def _load(slot: SlotInstance, run: DagsterRun, load_data: Any, payload: Mapping[str, Any]) -> ReconstructableJob:
    """The run's job in the version that the run has pinned."""
    origin = run.job_code_origin
    if origin is None:
        raise ValueError(f"Run {run.run_id} does not say where its code is; launch it from a code location.")
    job, version = DEFINITIONS.job(origin, load_data)
    pinned = payload["code"]
    if pinned != version.digest and pinned not in _agreed:
        _compare(slot, origin, pinned)
        _agreed.add(pinned)
    return job.get_subset(
        op_selection=run.resolved_op_selection,
        asset_selection=run.asset_selection,
        asset_check_selection=run.asset_check_selection,
    )


def _compare(slot: SlotInstance, origin: JobPythonOrigin, pinned: str) -> None:
    """Raises StaleCode when this process differs from the pinned version, CodeChanged when the disk does as well."""
    files = pinned_files(lambda key: get_note(slot.instance, key), pinned)
    root = code_root(origin.repository_origin.code_pointer)
    differing = LOADED.differing(files, root)
    if not differing:
        return
    gone = disk_differing(files, root)
    if gone:
        raise changed(gone)
    raise StaleCode(f"{in_words(differing)} is loaded in another version than the run's")


def _refuse(context: SlotContext, reason: str) -> None:
    """Lets another slot try, which may hold the run's code still; in the end the step fails with the reason."""
    if context.attempt_number < CODE_PLACEMENTS_MAX:
        context.give_back(reason)
    else:
        context.finish(succeeded=False, payload={}, error=reason)


def _report(slot: SlotInstance, context: SlotContext, held: list[EventLogEntry], info: AttemptInfo) -> None:
    terminal = _has(held, TERMINAL_TYPES)
    ending = terminal[-1].dagster_event if terminal else None
    succeeded = ending is not None and ending.is_step_success
    result = StepResult(entries=tuple(serialize_value(e) for e in held), intents=tuple(info.intents.to_dicts()))
    epoch, index = context.token
    payload = encode_result(result, notes=slot.notes, key=f"orchestrator/result/{context.task_id}/{epoch}.{index}")
    error = "" if succeeded else _why(ending)
    reply = context.finish(succeeded=succeeded, payload=payload, error=error)
    if not reply.accepted:
        print(f"{context.task_id}: outcome dropped: {reply.reason}", flush=True)


def _has(held: list[EventLogEntry], types: Set[DagsterEventType]) -> list[EventLogEntry]:
    """The held entries of these types."""
    return [e for e in held if e.dagster_event is not None and e.dagster_event.event_type in types]


def _why(ending: DagsterEvent | None) -> str:
    if ending is None:
        return "The step ended without an outcome; its event log in Dagster says why."
    if ending.is_step_up_for_retry:
        return "The step failed and is up for retry."
    data = ending.step_failure_data
    return (
        (data.error.message.strip().splitlines() or ["failed"])[0][:ERROR_LETTERS_MAX]
        if data.error
        else "The step failed."
    )
