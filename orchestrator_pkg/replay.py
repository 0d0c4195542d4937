"""Rebuilds the state of a run from its event log, so that a new orchestrator goes on where a dead one stopped.

All pages of the log are read; a run of a hundred steps has more than a thousand events. The outputs of an attempt count
only when its terminal event is there: those of an attempt that died half way would otherwise be counted twice once it
has been executed again (a dynamic step would silently feed its consumers twice). Events that a skip wrote are matched
with the skips that the state machine decides again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dagster import DagsterInstance

from orchestrator_pkg._compat import ActiveExecution, DagsterEvent, DagsterEventType, EventLogEntry, start_step
from orchestrator_pkg.event_gate import OUTCOME_TYPES, TERMINAL_TYPES
from orchestrator_pkg.outcomes import SeenEvents

# Records a page; one page is a few hundred kilobytes.
PAGE_RECORDS_MAX = 1_000
STARTS = frozenset({DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED})
ALL_TYPES = set(DagsterEventType)


class Replay:
    """Feeds a run's log to a fresh ActiveExecution."""

    def __init__(self, active: ActiveExecution, seen: SeenEvents) -> None:
        self._active = active
        self._seen = seen
        self._buffers: dict[str, list[DagsterEvent]] = {}
        self._skips: dict[str, Any] = {}
        self._started: set[str] = set()

    def events(self, plan_context: Any) -> Iterator[DagsterEvent]:
        """Yields every event of the log again, for the caller's own bookkeeping; stores only skips that are missing."""
        for entry in log_entries(plan_context.instance, plan_context.run_id):
            event = entry.dagster_event
            if event is None:
                continue
            yield event
            if event.step_key is not None:
                self._take(entry, event, event.step_key)
        # Decided but never written, as the former orchestrator died in between.
        for step in self._skips.values():
            yield DagsterEvent.step_skipped_event(plan_context.for_step(step))
            self._active.mark_skipped(step.key)

    def in_flight(self) -> list[Any]:
        """The steps that were started and have not ended."""
        return [self._active.get_step_by_key(key) for key in sorted(self._started)]

    def _take(self, entry: EventLogEntry, event: DagsterEvent, step_key: str) -> None:
        if event.is_step_skipped:
            self._skip(step_key)
        elif event.event_type == DagsterEventType.STEP_WORKER_STARTING:
            if start_step(self._active, step_key):
                self._started.add(step_key)
        elif event.event_type in STARTS:
            self._buffers.pop(step_key, None)
        elif event.event_type in TERMINAL_TYPES:
            self._end(event, step_key)
        elif event.event_type in OUTCOME_TYPES:
            self._seen.add(entry)
            if event.is_successful_output:
                self._buffers.setdefault(step_key, []).append(event)

    def _end(self, event: DagsterEvent, step_key: str) -> None:
        outputs = self._buffers.pop(step_key, [])
        self._started.discard(step_key)
        self._seen.forget(step_key)
        # Otherwise it is a second end of the same attempt: the first one counts.
        if start_step(self._active, step_key):
            for each in (*outputs, event):
                self._active.handle_event(each)

    def _skip(self, step_key: str) -> None:
        self._skips.update({step.key: step for step in self._active.get_steps_to_skip()})
        if self._skips.pop(step_key, None) is not None:
            self._active.mark_skipped(step_key)


def log_entries(instance: DagsterInstance, run_id: str) -> Iterator[EventLogEntry]:
    """All entries with Dagster events of a run, oldest first, however many pages they take."""
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(run_id, cursor=cursor, of_type=ALL_TYPES, limit=PAGE_RECORDS_MAX)
        for record in page.records:
            yield record.event_log_entry
        cursor = page.cursor
        if not page.has_more:
            return
