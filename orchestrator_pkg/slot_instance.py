"""The Dagster instance of a slot: opened once, kept open, with an event gate before its log."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from dagster import DagsterInstance

from orchestrator_pkg._compat import (
    InstanceRef,
    captured_log_without_helpers,
    deserialize_value,
    get_note,
    keep_connections,
    put_note,
    require,
    serialize_value,
)
from orchestrator_pkg.event_gate import EventGate

# How the embedded worker tells its slots which instance they serve; a cluster's slots have DAGSTER_HOME.
INSTANCE_REF_VARIABLE = "ORCHESTRATOR_INSTANCE_REF"
# Plans of recent runs whose load data is kept; a slot alternates between few runs.
LOAD_DATA_MAX = 16


@dataclass(slots=True)
class InstanceNotes:
    """Dagster's own database as the place for large payloads."""

    instance: DagsterInstance

    def put(self, key: str, text: str) -> None:
        """Keeps a text."""
        put_note(self.instance, key, text)

    def get(self, key: str) -> str | None:
        """The text, or None."""
        return get_note(self.instance, key)


@dataclass(slots=True)
class SlotInstance:
    """An open instance and what this process remembers of its runs."""

    instance: DagsterInstance
    gate: EventGate
    notes: InstanceNotes
    _load_data: OrderedDict[str, Any] = field(default_factory=OrderedDict)

    def load_data(self, run: Any) -> Any:
        """The RepositoryLoadData that the run's plan was built with, or None."""
        if not run.has_repository_load_data:
            return None
        key = run.execution_plan_snapshot_id
        if key not in self._load_data:
            self._load_data[key] = self.instance.get_execution_plan_snapshot(key).repository_load_data
            if len(self._load_data) > LOAD_DATA_MAX:
                self._load_data.popitem(last=False)
        return self._load_data[key]


_opened: tuple[int, SlotInstance] | None = None


def slot_instance() -> SlotInstance:
    """The instance of this process, opened at the first call, and anew in a forked child.

    Raises:
        DagsterMismatch: the installed Dagster does not fit.
    """
    global _opened
    if _opened is None or _opened[0] != os.getpid():
        require()
        captured_log_without_helpers()
        instance = _open()
        keep_connections(instance)
        _opened = os.getpid(), SlotInstance(instance, EventGate(instance), InstanceNotes(instance))
    return _opened[1]


def _open() -> DagsterInstance:
    text = os.environ.get(INSTANCE_REF_VARIABLE)
    instance = DagsterInstance.from_ref(deserialize_value(text, InstanceRef)) if text else DagsterInstance.get()
    # Its storage of component state is set on entering; a slot never leaves, its process ends.
    return instance.__enter__()


def instance_ref_text(instance: DagsterInstance) -> str:
    """What INSTANCE_REF_VARIABLE takes. Raises Dagster's error when the instance is ephemeral."""
    return serialize_value(instance.get_ref())
