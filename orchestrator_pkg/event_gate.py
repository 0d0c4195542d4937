"""Stands before a slot's event log: nothing is stored without a lease, and a step's outcome not before it is accepted.

The commit point of a step is the control plane's answer to Finish, not the moment its process writes STEP_SUCCESS. So
what tells the outcome (outputs, materializations, checks, the terminal event) is held back here, travels with Finish,
and is stored by the run's orchestrator once accepted. An attempt that was declared lost meanwhile gets a no, and its
outcome is dropped: a zombie can never write a second outcome. What tells the progress (start, inputs, log messages) is
stored at once, so that people see it live.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dagster import DagsterInstance

from orchestrator_pkg._compat import DagsterEventType, EventLogEntry, store_event

# Held back from a step. RESOURCE_INIT_FAILURE is one: the orchestrator answers it with failure or retry.
OUTCOME_TYPES = frozenset(
    {
        DagsterEventType.ASSET_CHECK_EVALUATION,
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_OBSERVATION,
        DagsterEventType.HANDLED_OUTPUT,
        DagsterEventType.HOOK_COMPLETED,
        DagsterEventType.HOOK_ERRORED,
        DagsterEventType.HOOK_SKIPPED,
        DagsterEventType.OBJECT_STORE_OPERATION,
        DagsterEventType.RESOURCE_INIT_FAILURE,
        DagsterEventType.STEP_EXPECTATION_RESULT,
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.STEP_OUTPUT,
        DagsterEventType.STEP_SUCCESS,
        DagsterEventType.STEP_UP_FOR_RETRY,
    }
)
# One of them ends an attempt of a step.
TERMINAL_TYPES = frozenset(
    {DagsterEventType.STEP_FAILURE, DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_UP_FOR_RETRY}
)


class EventGate:
    """Takes the place of `instance.handle_new_event` in a slot, for the life of the process."""

    def __init__(self, instance: DagsterInstance) -> None:
        self._store: Callable[..., None] = instance.handle_new_event
        self._check: Callable[[], None] | None = None
        self._step_key: str | None = None
        self._run_id = ""
        self._held: list[EventLogEntry] = []
        instance.handle_new_event = self._handle  # type: ignore[method-assign]

    @contextmanager
    def guarding(self, check: Callable[[], None]) -> Iterator[None]:
        """Calls check before each event is stored; it raises when the slot must not act any more."""
        self._check = check
        try:
            yield
        finally:
            self._check = None

    @contextmanager
    def holding(self, *, run_id: str, step_key: str) -> Iterator[list[EventLogEntry]]:
        """Holds back the outcome of a step; the list fills as the step runs and is the caller's afterwards."""
        self._run_id, self._step_key, self._held = run_id, step_key, []
        try:
            yield self._held
        finally:
            self._run_id, self._step_key, self._held = "", None, []

    def _handle(self, event: EventLogEntry, *, batch_metadata: Any = None) -> None:
        if self._check is not None:
            self._check()
        if self._is_held(event):
            self._held.append(event)
        else:
            store_event(lambda entry: self._store(entry, batch_metadata=batch_metadata), event)

    def _is_held(self, event: EventLogEntry) -> bool:
        if self._step_key is None or event.dagster_event is None:
            return False
        dagster_event = event.dagster_event
        return (
            event.run_id == self._run_id
            and dagster_event.step_key == self._step_key
            and dagster_event.event_type in OUTCOME_TYPES
        )
