"""The executor: drives a run's steps over the control plane's workers, or over the embedded one.

One loop, woken by the watch of the run's step tasks:

    decide   ActiveExecution says which steps are ready; skipped ones are told
    submit   all ready steps go to the control plane in one call
    wait     until a task ends, a retry falls due, a pool frees a slot, or an interrupt comes
    commit   accepted outcomes are published, stored in the event log and fed back to ActiveExecution

Losing a worker costs a step another attempt at the control plane and nothing of its RetryPolicy; only when the budget
of losses is used up does the step fail here, with the control plane's reason. A resume replays the log and attaches to
the tasks that are still there, so a finished step is never executed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from dagster import (
    Executor,
    Field,
    InitExecutorContext,
    Int,
    Noneable,
    executor,
    multiple_process_executor_requirements,
)

from orchestrator_pkg._compat import (
    ActiveExecution,
    DagsterEvent,
    EngineEventData,
    InstanceConcurrencyContext,
    RetryMode,
    StepDependencyConfig,
    attach_pools,
    get_retries_config,
    get_step_dependency_config_field,
    get_tag_concurrency_limits_config,
    require,
)
from orchestrator_pkg.run_session import RunSession, open_session
from raft_service.rpc.client import ControlPlaneUnavailable, RequestRefused

DEFAULT_INFRA_LOSSES_MAX = 3

CONFIG: dict[str, Any] = {
    "retries": get_retries_config(),  # type: ignore[no-untyped-call]
    "max_concurrent": Field(
        Noneable(Int),
        default_value=None,
        description="How many steps of the run may be queued or executing at once. Default: as many as are ready.",
    ),
    "tag_concurrency_limits": get_tag_concurrency_limits_config(),  # type: ignore[no-untyped-call]
    "step_dependency_config": get_step_dependency_config_field(),  # type: ignore[no-untyped-call]
    "max_infra_losses": Field(
        Int,
        default_value=DEFAULT_INFRA_LOSSES_MAX,
        description=(
            "How many attempts of a step may be lost with their workers before it fails. Does not touch the "
            "step's RetryPolicy."
        ),
    ),
    "control_plane": Field(
        Noneable(str),
        default_value=None,
        description="host:port,... of the control plane. Default: ORCHESTRATOR_ADDR; without that, the embedded one.",
    ),
}


class ConfigRefused(Exception):
    """The executor's config has a value that makes no sense; the message says which."""


class OrchestratorExecutor(Executor):
    """Executes the steps of a run in warm slots. See the module's essay."""

    def __init__(
        self,
        *,
        retries: RetryMode,
        max_concurrent: int | None = None,
        tag_concurrency_limits: list[dict[str, Any]] | None = None,
        step_dependency_config: StepDependencyConfig | None = None,
        max_infra_losses: int = DEFAULT_INFRA_LOSSES_MAX,
        control_plane: str | None = None,
    ) -> None:
        if max_concurrent is not None and max_concurrent < 1:
            raise ConfigRefused(f"max_concurrent is {max_concurrent}; write at least 1, or leave it out for no limit.")
        if max_infra_losses < 1:
            raise ConfigRefused(f"max_infra_losses is {max_infra_losses}; write at least 1.")
        self._retries = retries
        self._max_concurrent = max_concurrent
        self._tag_limits = tag_concurrency_limits
        self._dependencies = step_dependency_config or StepDependencyConfig.default()
        self._max_infra_losses = max_infra_losses
        self._control_plane = control_plane

    @property
    def retries(self) -> RetryMode:
        """Dagster's retry mode of this run."""
        return self._retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        """When a step is ready: after its upstream steps, or after its upstream outputs."""
        return self._dependencies

    @property
    def max_infra_losses(self) -> int:
        """Budget of lost attempts per step."""
        return self._max_infra_losses

    @property
    def control_plane(self) -> str | None:
        """Addresses from the config, or None."""
        return self._control_plane

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[DagsterEvent]:
        """Executes the plan. Yields the events that tell its course; all of them are stored already."""
        try:
            yield from self._execute(plan_context, execution_plan)
        except (ControlPlaneUnavailable, RequestRefused) as error:
            # Dagster prints every frame that the error came through; the sentence alone says what to do.
            raise error.with_traceback(None) from None

    def _execute(self, plan_context: Any, execution_plan: Any) -> Iterator[DagsterEvent]:
        yield DagsterEvent.engine_event(
            plan_context,
            f"Executing steps using orchestrator executor (pid: {os.getpid()})",
            EngineEventData.multiprocess(os.getpid(), step_keys_to_execute=execution_plan.step_keys_to_execute),
        )
        with ExitStack() as stack:
            pools = stack.enter_context(InstanceConcurrencyContext(plan_context.instance, plan_context.dagster_run))
            active = stack.enter_context(self._active(execution_plan))
            session = stack.enter_context(open_session(self, plan_context, active))
            if plan_context.resume_from_failure:
                yield from session.replay()
            attach_pools(active, pools)
            began = time.monotonic()
            yield from _drive(active, session, plan_context)
        yield DagsterEvent.engine_event(
            plan_context,
            f"Orchestrator executor: process {os.getpid()} is done with the steps after "
            f"{time.monotonic() - began:.2f} s",
            EngineEventData.multiprocess(os.getpid()),
        )

    def _active(self, plan: Any) -> ActiveExecution:
        return ActiveExecution(
            plan,
            retry_mode=self._retries,
            max_concurrent=self._max_concurrent,
            tag_concurrency_limits=self._tag_limits,
            step_dependency_config=self._dependencies,
        )


def _drive(active: ActiveExecution, session: RunSession, plan_context: Any) -> Iterator[DagsterEvent]:
    """The loop. `is_complete` counts only right after `get_steps_to_execute`, which moves the state on."""
    while True:
        if session.is_interrupted():
            yield from session.interrupt()
            return
        yield from active.plan_events_iterator(plan_context)
        ready = active.get_steps_to_execute()
        yield from active.concurrency_event_iterator(plan_context)
        if ready:
            yield from session.submit(ready)
        elif active.is_complete:
            session.forget()
            return
        yield from session.wait()


@executor(
    name="orchestrator",
    config_schema=CONFIG,
    requirements=multiple_process_executor_requirements(),
)
def orchestrator_executor(init_context: InitExecutorContext) -> OrchestratorExecutor:
    """Executes steps in warm slots of the control plane's workers; of the embedded one when none is configured.

    Choose it by `Definitions(executor=orchestrator_executor)` or `@job(executor_def=orchestrator_executor)`. What a
    step needs is said by the tag `orchestrator/config` (see task_config.py).
    """
    require()
    config = init_context.executor_config
    return OrchestratorExecutor(
        retries=RetryMode.from_config(config["retries"]),  # type: ignore[arg-type]
        max_concurrent=config.get("max_concurrent"),  # type: ignore[arg-type]
        tag_concurrency_limits=config.get("tag_concurrency_limits"),  # type: ignore[arg-type]
        step_dependency_config=StepDependencyConfig.from_config(config.get("step_dependency_config")),  # type: ignore[arg-type]
        max_infra_losses=config["max_infra_losses"],  # type: ignore[arg-type]
        control_plane=config.get("control_plane"),  # type: ignore[arg-type]
    )
