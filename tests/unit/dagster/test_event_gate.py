"""Outcomes are held back, progress is not, and nothing passes without a lease."""

from __future__ import annotations

import sqlite3

import pytest
from dagster._core.execution.plan.objects import StepSuccessData

from orchestrator_pkg._compat import DagsterEvent, DagsterEventType, EventLogEntry, check, store_event
from orchestrator_pkg.event_gate import EventGate


class Instance:
    """What the gate needs of an instance."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    def handle_new_event(self, event: EventLogEntry, *, batch_metadata: object = None) -> None:
        self.stored.append(name(event))


def name(entry: EventLogEntry) -> str:
    event = entry.dagster_event
    return entry.user_message if event is None else event.event_type_value


def entry(kind: DagsterEventType | None, *, step: str = "s", run: str = "r") -> EventLogEntry:
    event = None
    if kind is not None:
        data = StepSuccessData(1.0) if kind == DagsterEventType.STEP_SUCCESS else None
        event = DagsterEvent(event_type_value=kind.value, job_name="j", step_key=step, event_specific_data=data)
    return EventLogEntry(
        error_info=None,
        level=10,
        user_message="a message",
        run_id=run,
        timestamp=1.5,
        step_key=step,
        job_name="j",
        dagster_event=event,
    )


OUTCOME = [DagsterEventType.HANDLED_OUTPUT, DagsterEventType.STEP_SUCCESS, DagsterEventType.HOOK_COMPLETED]
PROGRESS = [DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED, DagsterEventType.STEP_SKIPPED]


def test_the_outcome_is_held_and_the_progress_stored() -> None:
    instance = Instance()
    gate = EventGate(instance)
    with gate.holding(run_id="r", step_key="s") as held:
        for kind in (*PROGRESS, *OUTCOME, None):
            instance.handle_new_event(entry(kind))
    assert instance.stored == [*(k.value for k in PROGRESS), "a message"]
    assert [name(e) for e in held] == [k.value for k in OUTCOME]


def test_other_steps_and_runs_pass() -> None:
    instance = Instance()
    gate = EventGate(instance)
    with gate.holding(run_id="r", step_key="s") as held:
        instance.handle_new_event(entry(DagsterEventType.STEP_SUCCESS, step="other"))
        instance.handle_new_event(entry(DagsterEventType.STEP_SUCCESS, run="other"))
    instance.handle_new_event(entry(DagsterEventType.STEP_SUCCESS))
    assert held == []
    assert len(instance.stored) == 3


def test_nothing_is_stored_or_held_once_the_lease_is_over() -> None:
    class Over(Exception):
        pass

    def check_lease() -> None:
        raise Over

    instance = Instance()
    gate = EventGate(instance)
    with gate.guarding(check_lease), gate.holding(run_id="r", step_key="s") as held:
        for kind in (DagsterEventType.STEP_START, DagsterEventType.STEP_SUCCESS):
            with pytest.raises(Over):
                instance.handle_new_event(entry(kind))
    assert instance.stored == []
    assert held == []


def test_a_locked_database_is_tried_again() -> None:
    refusals = [sqlite3.OperationalError("database is locked")] * 2
    stored = []

    def store(each: EventLogEntry) -> None:
        if refusals:
            raise refusals.pop()
        stored.append(each)

    store_event(store, entry(DagsterEventType.STEP_START))
    assert len(stored) == 1


def test_other_errors_are_not_tried_again() -> None:
    tries = []

    def store(each: EventLogEntry) -> None:
        tries.append(each)
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(sqlite3.OperationalError):
        store_event(store, entry(DagsterEventType.STEP_START))
    assert len(tries) == 1


def test_the_installed_dagster_fits() -> None:
    assert check() == []
