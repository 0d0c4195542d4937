"""The run launcher: hands runs to the control plane, where a run slot of some worker takes them up.

Built in every process that opens the instance (webserver, daemon, code servers), so it does nothing before it is asked:
no connection, no thread, no file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagster import DagsterInstance, DagsterRun, Field, Noneable, StringSource

from orchestrator_pkg._compat import (
    CheckRunHealthResult,
    ConfigurableClass,
    ConfigurableClassData,
    EngineEventData,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from orchestrator_pkg.client import client_for
from orchestrator_pkg.payloads import VERSION
from orchestrator_pkg.step_specs import run_task_id, step_prefix
from orchestrator_pkg.task_config import parse
from orchestrator_proto import ledger_pb2 as pb

if TYPE_CHECKING:
    from raft_service.rpc.client import Client

STATE_WORDS: dict[int, str] = {
    pb.TASK_STATE_UNSPECIFIED: "unknown to the control plane",
    pb.TASK_STATE_QUEUED: "queued",
    pb.TASK_STATE_PLACED: "on a worker",
    pb.TASK_STATE_SUCCEEDED: "ended",
    pb.TASK_STATE_FAILED: "failed",
    pb.TASK_STATE_CANCELED: "canceled",
}
ALIVE = (pb.TASK_STATE_QUEUED, pb.TASK_STATE_PLACED)
# Steps named in the debug information of a run.
DEBUG_TASKS_MAX = 50


class OrchestratorRunLauncher(RunLauncher[DagsterInstance], ConfigurableClass):
    """Launches runs on the control plane's workers; on the embedded one's when none is configured."""

    def __init__(self, control_plane: str | None = None, inst_data: ConfigurableClassData | None = None) -> None:
        """Does no more than remember.

        Args:
            control_plane: "host:port,..."; None: ORCHESTRATOR_ADDR, and without that the embedded control plane.
            inst_data: how Dagster builds it again elsewhere.
        """
        self._control_plane = control_plane
        self._inst_data = inst_data
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """How Dagster builds it again elsewhere."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """The keys of `run_launcher.config` in dagster.yaml."""
        return {
            "control_plane": Field(
                Noneable(StringSource),
                is_required=False,
                description="host:port,... of the nodes. Default: ORCHESTRATOR_ADDR; without that, the embedded one.",
            )
        }

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> OrchestratorRunLauncher:
        """Called by Dagster with the checked config."""
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Queues the run; it is durable when this returns.

        Raises:
            TagError: the run's tags cannot be understood.
            ControlPlaneUnavailable: no control plane answered in time.
        """
        self._submit(context.dagster_run, is_resumed=False)

    @property
    def supports_resume_run(self) -> bool:
        """A new slot takes up a run where the old one stopped."""
        return True

    def resume_run(self, context: ResumeRunContext) -> None:
        """Queues the run again after its task has ended without ending the run. Raises as launch_run does."""
        # An ended task answers every later submit of its id, so it must go first. Results of steps stay.
        self._client().forget_tasks(task_ids=[run_task_id(context.dagster_run.run_id)])
        self._submit(context.dagster_run, is_resumed=True)

    def _submit(self, run: DagsterRun, *, is_resumed: bool) -> None:
        spec = run_spec(run, is_resumed=is_resumed)
        (state,) = self._client().submit_tasks([spec])
        self._instance.report_engine_event(
            "Run is queued at the control plane." if not is_resumed else "Run is queued again at the control plane.",
            run,
            EngineEventData({"task": spec.task_id, "state": STATE_WORDS.get(state, str(state))}),
            cls=self.__class__,
        )

    def terminate(self, run_id: str) -> bool:
        """Cancels a run. Its slot writes the end; if no slot has it, this does.

        Returns:
            False when the run had ended.

        Raises:
            ControlPlaneUnavailable: no control plane answered; the run is marked as canceling all the same.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        client, task_id = self._client(), run_task_id(run_id)
        client.cancel_tasks(task_ids=[task_id], reason="terminated in Dagster")
        (view,) = client.task_status(task_ids=[task_id])
        if not _was_with_a_slot(view):
            self._report_canceled(run_id)
        return True

    def _report_canceled(self, run_id: str) -> None:
        run = self._instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:
            self._instance.report_run_canceled(run, message="Run canceled; no slot was executing it.")

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Run monitoring may ask."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """How the run's task fares.

        Raises:
            ControlPlaneUnavailable: nobody can tell; run monitoring then leaves the run alone, as it must.
        """
        (view,) = self._client().task_status(task_ids=[run_task_id(run.run_id)])
        if view.state in ALIVE:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        current = self._instance.get_run_by_id(run.run_id)
        if current is None or current.is_finished:
            return CheckRunHealthResult(WorkerStatus.SUCCESS)
        status = WorkerStatus.NOT_FOUND if view.state == pb.TASK_STATE_UNSPECIFIED else WorkerStatus.FAILED
        why = f" ({view.result.error})" if view.result.error else ""
        return CheckRunHealthResult(
            status, f"The run's task is {STATE_WORDS.get(view.state, view.state)} and the run has not ended{why}."
        )

    def get_run_worker_debug_info(self, run: DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """What the control plane knows about the run, for the run monitor's messages. Raises as the health check."""
        client = self._client()
        views = [
            *client.task_status(task_ids=[run_task_id(run.run_id)]),
            *client.task_status(prefix=step_prefix(run.run_id), limit=DEBUG_TASKS_MAX),
        ]
        return "\n".join(_in_words(view) for view in views if view.state != pb.TASK_STATE_UNSPECIFIED) or None

    def _client(self) -> Client:
        return client_for(self._instance, control_plane=self._control_plane)


def run_spec(run: DagsterRun, *, is_resumed: bool) -> pb.TaskSpec:
    """The task of a run.

    Raises:
        TagError: the run's tags cannot be understood.
    """
    spec = pb.TaskSpec(
        task_id=run_task_id(run.run_id),
        kind=pb.TASK_KIND_RUN,
        payload=json.dumps({"v": VERSION, "run_id": run.run_id, "resume": is_resumed}).encode(),
        resources=pb.Resources(run_slots=1),
        fair_key=run.job_name,
        labels={"run": run.run_id, "job": run.job_name},
    )
    parse(run.tags, where=f"run {run.run_id}").apply_to(spec, with_resources=False)
    return spec


def _was_with_a_slot(view: pb.TaskView) -> bool:
    """True when the cancel reached an attempt: its slot is interrupted and writes the run's end."""
    return bool(view.attempts) and view.attempts[-1].state == pb.ATTEMPT_STATE_CANCELED


def _in_words(view: pb.TaskView) -> str:
    attempts = ", ".join(f"{a.number} on {a.worker_id}{f' ({a.reason})' if a.reason else ''}" for a in view.attempts)
    waiting = f"; waits: {view.waiting_reason}" if view.waiting_reason else ""
    error = f"; {view.result.error}" if view.result.error else ""
    state = STATE_WORDS.get(view.state, str(view.state))
    return f"{view.spec.task_id}: {state}; attempts: {attempts or 'none'}{waiting}{error}"
