"""Makes the accepted outcome of a step visible: publishes its data, then stores its events, each exactly once.

One process does that for a run: its orchestrator, which is fenced like any attempt. The slot could store its own events
after the acceptance, but then a slot that dies in between leaves a gap that somebody must fill without knowing how far
it came, and the next step may start before it sees what the last one materialized. Here the order is plain: accepted,
published, stored, and only then the steps that depend on it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from dagster import DagsterInstance

from orchestrator_pkg._compat import DagsterEvent, EventLogEntry, deserialize_value
from orchestrator_pkg.dataset import ManifestError
from orchestrator_pkg.payloads import NoteStore, PayloadError, StepResult, decode_result
from orchestrator_pkg.publish import publish
from orchestrator_pkg.store import StoreError
from orchestrator_proto import ledger_pb2 as pb

# A publish is two requests to the store; steps that end together publish together.
PUBLISH_THREADS = 8
# A store that is away for longer than this fails the step: its data are not readable.
PUBLISH_S_MAX = 60.0
PUBLISH_PAUSE_S = 0.5

log = logging.getLogger("orchestrator.executor")
EventKey = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an ended task means for its step: the events that the slot held back, or why there are none."""

    events: tuple[DagsterEvent, ...]
    # Empty when there are events.
    problem: str = ""


@dataclass(slots=True)
class SeenEvents:
    """Outcome events of unfinished steps that are in the log already; filled by a resume, empty otherwise."""

    keys: dict[str, set[EventKey]] = field(default_factory=dict)

    def add(self, entry: EventLogEntry) -> None:
        """Notes an entry of the log."""
        self.keys.setdefault(str(entry.step_key), set()).add(_key(entry))

    def has(self, entry: EventLogEntry) -> bool:
        """True when the log has it."""
        return _key(entry) in self.keys.get(str(entry.step_key), ())

    def forget(self, step_key: str) -> None:
        """The step has ended for good."""
        self.keys.pop(step_key, None)


def _key(entry: EventLogEntry) -> EventKey:
    # The time has microseconds and was taken in one process, one event after the other: it tells them apart.
    event = entry.dagster_event
    return ("" if event is None else event.event_type_value, entry.timestamp)


class Committer:
    """Publishes and stores the outcomes of one run's steps. Used on the thread that orchestrates."""

    def __init__(self, instance: DagsterInstance, notes: NoteStore, seen: SeenEvents) -> None:
        self._instance = instance
        self._notes = notes
        self._seen = seen
        self._pool: ThreadPoolExecutor | None = None

    def commit(self, views: Sequence[pb.TaskView]) -> list[tuple[pb.TaskView, Outcome]]:
        """Publishes what ended together at the same time, then stores it in order."""
        results = [(view, self._decoded(view)) for view in views]
        intents = [(view.spec.task_id, i) for view, r in results if isinstance(r, StepResult) for i in r.intents]
        failed = self._publish_all(intents)
        outcomes = []
        for view, result in results:
            problem = result if isinstance(result, str) else failed.get(view.spec.task_id, "")
            if problem or isinstance(result, str):
                outcomes.append((view, Outcome((), problem)))
            else:
                outcomes.append((view, self._stored(result)))
        return outcomes

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _decoded(self, view: pb.TaskView) -> StepResult | str:
        """The result, or the sentence that says why there is none."""
        if view.state == pb.TASK_STATE_CANCELED:
            reason = view.attempts[-1].reason if view.attempts else ""
            return f"The step was canceled at the control plane. {reason}".strip()
        try:
            payload = json.loads(view.result.payload or b"{}")
            if not payload:
                return view.result.error or "The step's task failed at the control plane without a reason."
            result = decode_result(payload, notes=self._notes)
        except (PayloadError, json.JSONDecodeError) as error:
            return f"The step's result cannot be read: {error}"
        if not result.entries:
            return view.result.error or "The step ended without an outcome."
        return result

    def _stored(self, result: StepResult) -> Outcome:
        events = []
        for text in result.entries:
            entry = deserialize_value(text, EventLogEntry)
            if not self._seen.has(entry):
                self._instance.handle_new_event(entry)
            if entry.dagster_event is not None:
                events.append(entry.dagster_event)
        return Outcome(tuple(events))

    def _publish_all(self, intents: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
        """Publishes side by side, the intents of one task in order; tells which tasks failed, and why."""
        by_task: dict[str, list[Mapping[str, Any]]] = {}
        for task_id, intent in intents:
            by_task.setdefault(task_id, []).append(intent)
        if len(by_task) < 2:
            problems = [_publish_task(each) for each in by_task.values()]
        else:
            self._pool = self._pool or ThreadPoolExecutor(PUBLISH_THREADS, thread_name_prefix="publish")
            problems = list(self._pool.map(_publish_task, by_task.values()))
        return {task_id: problem for task_id, problem in zip(by_task, problems, strict=True) if problem}


def _publish_task(intents: Sequence[Mapping[str, Any]]) -> str:
    """Publishes the intents of one task; the sentence that says why it failed, or ""."""
    deadline = time.monotonic() + PUBLISH_S_MAX
    for intent in intents:
        while True:
            try:
                publish(intent)
                break
            except ManifestError as error:
                return f"The step's data are written but could not be published: {error}"
            except StoreError as error:
                if time.monotonic() > deadline:
                    return f"The step's data are written but could not be published: {error}"
                log.warning("publish of %s is tried again: %s", intent.get("dataset"), error)
            time.sleep(PUBLISH_PAUSE_S)
    return ""
