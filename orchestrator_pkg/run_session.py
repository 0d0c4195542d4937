"""One orchestration of a run: what the executor's loop asks for, between Dagster's state machine and the step tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from dagster import DagsterRunStatus, MetadataValue

from orchestrator_pkg._compat import (
    ActiveExecution,
    DagsterEvent,
    EngineEventData,
    ErrorSource,
    SerializableErrorInfo,
    StepFailureData,
    get_note,
    pop_captured_interrupt,
    put_note,
)
from orchestrator_pkg.client import client_for
from orchestrator_pkg.code_key import LOADED
from orchestrator_pkg.code_pin import PIN_TAG, changed, keep_files, pinned_files
from orchestrator_pkg.outcomes import Committer, Outcome, SeenEvents
from orchestrator_pkg.owner_lease import OwnerLease
from orchestrator_pkg.replay import Replay
from orchestrator_pkg.slot_instance import InstanceNotes
from orchestrator_pkg.slot_tasks import current_context
from orchestrator_pkg.step_specs import StepSpecs, step_of
from orchestrator_pkg.step_tasks import Interrupted, StepTasks
from orchestrator_pkg.task_config import parse
from orchestrator_pkg.warm_definitions import WarmPointer, code_root
from orchestrator_proto import ledger_pb2 as pb

if TYPE_CHECKING:
    from orchestrator_pkg.executor import OrchestratorExecutor

# Interrupts only set a flag (Dagster captures the signal), so a wait looks at it this often.
INTERRUPT_LOOK_S = 0.25


class InterruptFlag:
    """Whether an interrupt has come; once it has, it stays so."""

    def __init__(self) -> None:
        self._is_set = False

    def __call__(self) -> bool:
        self._is_set = self._is_set or pop_captured_interrupt()
        return self._is_set


class RunSession:
    """The step tasks of one run, as the executor's loop sees them."""

    def __init__(
        self,
        *,
        executor: OrchestratorExecutor,
        plan_context: Any,
        active: ActiveExecution,
        tasks: StepTasks,
        specs: StepSpecs,
        interrupted: InterruptFlag,
    ) -> None:
        self._executor = executor
        self._plan_context = plan_context
        self._active = active
        self._tasks = tasks
        self._specs = specs
        self._seen = SeenEvents()
        self.committer = Committer(plan_context.instance, specs.notes, self._seen)
        self.is_interrupted = interrupted

    def replay(self) -> Iterator[DagsterEvent]:
        """Rebuilds the state from the log and attaches to the tasks of steps that had been started."""
        replay = Replay(self._active, self._seen)
        yield from replay.events(self._plan_context)
        try:
            self._tasks.drop_canceled()
            self._submit_quietly(replay.in_flight())
        except Interrupted:
            return  # The loop sees the flag and ends the run.

    def submit(self, steps: Sequence[Any]) -> Iterator[DagsterEvent]:
        """Hands steps to the control plane."""
        for step in steps:
            yield DagsterEvent.step_worker_starting(
                self._plan_context.for_step(step),
                message=f'Submitting step "{step.key}" to the control plane.',
                metadata={"attempt": MetadataValue.int(self._active.retry_state.get_attempt_count(step.key))},
            )
        try:
            self._submit_quietly(steps)
        except Interrupted:
            return  # As above.

    def _submit_quietly(self, steps: Sequence[Any]) -> None:
        state = self._active.get_known_state()
        self._tasks.submit([self._specs.spec(step, state) for step in steps])

    def wait(self) -> Iterator[DagsterEvent]:
        """Waits for ended tasks and commits them; returns at the latest when the loop has something else to do."""
        pause = self._active.sleep_interval()  # type: ignore[no-untyped-call]
        timeout_s = min(INTERRUPT_LOOK_S, pause) if pause > 0 else INTERRUPT_LOOK_S
        try:
            views = self._tasks.next_ended(timeout_s)
        except Interrupted:
            return  # As above.
        for view, outcome in self.committer.commit(views):
            yield from self._feed(view, outcome)

    def _feed(self, view: pb.TaskView, outcome: Outcome) -> Iterator[DagsterEvent]:
        step_key, _ = step_of(view.spec.task_id)
        if outcome.problem:
            yield from self._fail(view, step_key, outcome.problem)
            return
        for event in outcome.events:
            self._active.handle_event(event)
            yield event
            if event.is_resource_init_failure:
                error = event.engine_event_data.error
                yield from self._end_by_error(step_key, error or _error_info("A resource could not be made."))
        self._seen.forget(step_key)

    def _fail(self, view: pb.TaskView, step_key: str, problem: str) -> Iterator[DagsterEvent]:
        step_context = self._plan_context.for_step(self._active.get_step_by_key(step_key))
        error = _error_info(problem)
        yield DagsterEvent.engine_event(
            step_context,
            f"Step {step_key} has no outcome after {len(view.attempts)} attempts: {problem}",
            EngineEventData(
                metadata={
                    f"attempt {a.number}": MetadataValue.text(f"{a.worker_id}: {a.reason or 'ended'}")
                    for a in view.attempts
                },
                error=error,
            ),
        )
        yield from self._end_by_error(step_key, error)

    def _end_by_error(self, step_key: str, error: SerializableErrorInfo) -> Iterator[DagsterEvent]:
        """Failure, or retry if the step's RetryPolicy has some left."""
        step_context = self._plan_context.for_step(self._active.get_step_by_key(step_key))
        event = self._executor.log_failure_or_retry_event_after_error(
            step_context, error, self._active.get_known_state()
        )
        self._active.handle_event(event)
        yield event

    def interrupt(self) -> Iterator[DagsterEvent]:
        """Cancels all steps and lets the run end as canceled."""
        keys = sorted(step_of(task_id)[0] for task_id in self._tasks.awaited)
        yield DagsterEvent.engine_event(
            self._plan_context,
            "Orchestrator executor: interrupted - canceling the steps at the control plane",
            EngineEventData.interrupted(keys),
        )
        self._tasks.cancel_all("the run was interrupted")
        self._active.mark_interrupted()
        instance = self._plan_context.instance
        run = instance.get_run_by_id(self._plan_context.run_id)
        if run is not None and run.status == DagsterRunStatus.STARTED:
            # Nobody told Dagster (Ctrl-C, or a cancel at the control plane); otherwise it would call this a failure.
            instance.report_run_canceling(run)
        for key in keys:
            yield DagsterEvent.step_failure_event(
                self._plan_context.for_step(self._active.get_step_by_key(key)),
                StepFailureData(  # type: ignore[no-untyped-call]
                    error=_error_info("The step was canceled."),
                    user_failure_data=None,
                    error_source=ErrorSource.INTERRUPT,
                ),
            )

    def forget(self) -> None:
        """The run is complete: its results are in Dagster and need not stay in the ledger."""
        self._tasks.forget_all()


def _error_info(message: str) -> SerializableErrorInfo:
    return SerializableErrorInfo(message=message, stack=[], cls_name=None)


@contextmanager
def open_session(executor: OrchestratorExecutor, plan_context: Any, active: ActiveExecution) -> Iterator[RunSession]:
    """Opens what a session needs and closes it again.

    Outside a slot (a CLI, a test) the tasks hang on a lease that this process renews, so that they end with it.

    Raises:
        TagError: the run's tags cannot be understood.
        ControlPlaneUnavailable: there is no control plane to begin with.
    """
    run, context = plan_context.dagster_run, current_context()
    run_config = parse(run.tags, where=f"run {run.run_id}")
    with ExitStack() as stack:
        client = client_for(plan_context.instance, control_plane=executor.control_plane)
        interrupted = InterruptFlag()
        tasks = StepTasks(client, run_id=run.run_id, is_interrupted=interrupted)
        stack.callback(tasks.close)
        owner_lease = "" if context else stack.enter_context(OwnerLease(client)).name
        specs = StepSpecs(
            run_id=run.run_id,
            job_name=run.job_name,
            run_config=run_config,
            code_digest=_pin_code(plan_context),
            retries=executor.retries,
            require_upstream_step_success=executor.step_dependency_config.require_upstream_step_success,
            infra_losses_max=executor.max_infra_losses,
            notes=InstanceNotes(plan_context.instance),
            parent_task_id=context.task_id if context else "",
            owner_lease=owner_lease,
        )
        session = RunSession(
            executor=executor,
            plan_context=plan_context,
            active=active,
            tasks=tasks,
            specs=specs,
            interrupted=interrupted,
        )
        stack.callback(session.committer.close)
        yield session


def _pin_code(plan_context: Any) -> str:
    """The run's version of the code: what it had when it began, or what this process has loaded.

    Raises:
        CodeChanged: a resumed run began with other code than this process has.
    """
    instance, run = plan_context.instance, plan_context.dagster_run
    pointer = plan_context.reconstructable_job.repository.pointer
    root = code_root(pointer.original if isinstance(pointer, WarmPointer) else pointer)
    LOADED.note_modules()
    if plan_context.resume_from_failure and PIN_TAG in run.tags:
        digest = str(run.tags[PIN_TAG])
        differing = LOADED.differing(pinned_files(lambda key: get_note(instance, key), digest), root)
        if differing:
            raise changed(differing)
        return digest
    version = LOADED.version(root)
    keep_files(lambda key, text: put_note(instance, key, text), version)
    instance.add_run_tags(run.run_id, {PIN_TAG: version.digest})
    return version.digest
